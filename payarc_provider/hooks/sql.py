"""A SQL database behind an Airflow connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy.exc
from airflow.providers.common.compat.sdk import BaseHook

from payarc_provider.exceptions import PayarcConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


def sql_engine(conn_id: str, argument: str) -> Engine:
    """
    A SQLAlchemy engine on an Airflow connection; its errors and logs never show parameters.

    :param argument: what the connection was given as, for messages
    :raises PayarcConfigError: if the connection is no SQL database
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    hook = BaseHook.get_hook(conn_id)
    if not isinstance(hook, DbApiHook):
        raise PayarcConfigError(
            f"{argument}: the connection {conn_id} is no SQL database; give one to SQLite, PostgreSQL, MySQL or MariaDB"
        )
    try:
        engine: Engine = hook.get_sqlalchemy_engine(engine_kwargs={"hide_parameters": True, "pool_pre_ping": True})
    except sqlalchemy.exc.ArgumentError:  # its text may show the URL, password and all
        raise PayarcConfigError(
            f"{argument}: the connection {conn_id} makes no database URL; mend its fields"
        ) from None
    return engine
