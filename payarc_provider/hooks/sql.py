"""A SQL connection, as Airflow reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy.exc
from airflow.providers.common.compat.sdk import BaseHook

from payarc_provider.exceptions import PayarcConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


def sql_engine(conn_id: str, argument: str, *, pre_ping: bool = True) -> Engine:
    """
    A SQLAlchemy engine for an Airflow connection. Its errors and logs never show parameters.

    :param argument: the operator's argument or the command's option that names the connection, for error messages
    :param pre_ping: whether a pooled connection is tried before it is used; a ledger tries its own, within a time limit
    :raises PayarcConfigError: the connection is not to a SQL database
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    hook = BaseHook.get_hook(conn_id)
    if not isinstance(hook, DbApiHook):
        raise PayarcConfigError(
            f"{argument}: the connection {conn_id} is not to a SQL database: use one to SQLite, PostgreSQL, MySQL or "
            "MariaDB"
        )
    try:
        engine: Engine = hook.get_sqlalchemy_engine(engine_kwargs={"hide_parameters": True, "pool_pre_ping": pre_ping})
    except sqlalchemy.exc.ArgumentError:  # its text may show the URL with the password
        raise PayarcConfigError(
            f"{argument}: the connection {conn_id} cannot be turned into a database URL: fix its fields"
        ) from None
    return engine
