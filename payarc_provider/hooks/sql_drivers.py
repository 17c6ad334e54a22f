"""Database drivers: how Airflow's hooks open connections, and what SQLAlchemy needs of them."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseHook
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Dialect, Engine

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

Kind = Literal["sqlite", "postgresql", "mysql", "redshift", "other"]

_KINDS: dict[str, Kind] = {
    "airflow.providers.sqlite.hooks.sqlite.SqliteHook": "sqlite",
    "airflow.providers.postgres.hooks.postgres.PostgresHook": "postgresql",
    "airflow.providers.mysql.hooks.mysql.MySqlHook": "mysql",
    "airflow.providers.amazon.aws.hooks.redshift_sql.RedshiftSQLHook": "redshift",
}

_MYSQL_CLIENTS = {
    "mysqlclient": ("mysqldb", "MySQLdb"),
    "mysql-connector-python": ("mysqlconnector", "mysql.connector"),
    "pymysql": ("pymysql", "pymysql"),
}
"""``client`` in a connection's extra → SQLAlchemy's name of the driver, and the module."""


class Unusable(Exception):
    """A connection that cannot be used; the message goes on after the connection's name, and contains no secret."""


def find_hook(conn_id: str, conn_type: str | None) -> Any:
    """The hook for a connection, which is not always one for SQL.

    :raises ImportError: a package is not installed
    """
    if conn_type == "databricks":  # Airflow's own hook for this type is the one for jobs
        from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook

        return DatabricksSqlHook(conn_id)
    return BaseHook.get_hook(conn_id)


def kind_of(hook: DbApiHook) -> Kind:
    """The kind of database, for the hooks whose connections need something here."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(hook).__mro__)
    return next((_KINDS[name] for name in names if name in _KINDS), "other")


def make_engine(hook: DbApiHook, kind: Kind, **options: Any) -> Engine:
    """An engine with the dialect and the driver that the hook's connections have; it does not connect.

    Its URL says where the database is, and contains no password.

    :raises ImportError: a package is not installed
    """
    if kind == "other":
        engine: Engine = hook.get_sqlalchemy_engine(engine_kwargs=options)
        return engine
    if kind == "sqlite":
        return create_engine(URL.create("sqlite", database=sqlite_file(hook)), **options)
    if kind == "mysql":
        driver = _MYSQL_CLIENTS[_mysql_client(hook)][0]
    elif kind == "redshift":  # the hook's own engine has another driver than its connections
        driver = "redshift_connector"
    else:
        driver = "psycopg" if getattr(sys.modules[type(hook).__module__], "USE_PSYCOPG3", False) else "psycopg2"
    given = hook.connection
    where = URL.create(f"{kind}+{driver}", given.login, None, given.host, given.port, given.schema or None)
    return create_engine(where, **options)


def connect(hook: DbApiHook, kind: Kind, dialect: Dialect, limits: dict[str, Any]) -> Any:
    """A new connection of the driver, with whatever the hook reads from Airflow's connection.

    :param limits: further parameters of the driver, such as time limits; those of Airflow's connection prevail
    """
    if kind == "sqlite":
        return _sqlite(hook)
    if kind == "postgresql":
        return _postgresql(hook, limits)
    if kind == "mysql":
        return _mysql(hook, limits)
    connection = hook.get_conn()
    wrapper = getattr(sys.modules[type(dialect).__module__], "ConnectionWrapper", None)  # DuckDB's dialects
    if wrapper is not None:
        return wrapper(connection)
    opened, expected = (
        name.partition(".")[0] for name in (type(connection).__module__, str(getattr(dialect.dbapi, "__name__", "")))
    )
    if opened != expected:
        raise Unusable(
            f"opens connections of {opened}, but its SQLAlchemy dialect needs those of {expected}: "
            "read it in a task and pass its output as records"
        )
    return connection


def sqlite_file(hook: DbApiHook) -> str:
    """The path of the file, without the parameters that may follow it; empty for a database in memory."""
    path, _, parameters = _sqlite_uri(hook).removeprefix("file:").partition("?")
    return "" if "mode=memory" in parameters else path


def _sqlite_uri(hook: DbApiHook) -> str:
    return hook.get_uri().replace("sqlite:///", "file:")  # as the hook does it


def _sqlite(hook: DbApiHook) -> Any:
    import sqlite3

    # The hook's connection may be used by one thread only. SQLAlchemy's pool sees to it that no two use one at a time.
    return sqlite3.connect(_sqlite_uri(hook), uri=True, check_same_thread=False)


def _postgresql(hook: DbApiHook, limits: dict[str, Any]) -> Any:
    given = copy.deepcopy(hook.connection)
    given.extra = json.dumps({**limits, **given.extra_dejson})
    hook_class: Any = type(hook)
    connection = hook_class(**{hook.conn_name_attr: given.conn_id}, connection=given).get_conn()
    if hasattr(connection, "row_factory"):
        from psycopg.rows import tuple_row

        connection.row_factory = tuple_row
        connection.prepare_threshold = None  # PgBouncer may give the next transaction to another server process
    else:
        connection.cursor_factory = None
    return connection


def _mysql_client(hook: DbApiHook) -> str:
    client = hook.connection.extra_dejson.get("client", "mysqlclient")
    if client not in _MYSQL_CLIENTS:
        raise Unusable(f"has an unknown client in its extra: use {', '.join(_MYSQL_CLIENTS)}")
    return str(client)


def _mysql(hook: Any, limits: dict[str, Any]) -> Any:
    # The hook's get_conn takes no time limits, and knows nothing of PyMySQL. This is what it takes from a connection.
    client = _mysql_client(hook)
    given = copy.deepcopy(hook.connection)
    # SQLAlchemy needs plain cursors, and reads in a stream by itself.
    given.extra = json.dumps({name: value for name, value in given.extra_dejson.items() if name != "cursor"})
    if client == "mysql-connector-python":
        arguments = hook._get_conn_config_mysql_connector_python(given)
    else:
        arguments = hook._get_conn_config_mysql_client(given)
    if client == "pymysql" and "ssl_mode" in arguments:
        raise Unusable("has ssl_mode in its extra, which PyMySQL does not know: use ssl")
    arguments |= {"charset": "utf8mb4"}  # any other one, even MySQL's utf8, turns some characters into question marks
    return importlib.import_module(_MYSQL_CLIENTS[client][1]).connect(**{**limits, **arguments})
