"""A SQL connection, as Airflow reads it: an engine whose connections are the hook's own."""

from __future__ import annotations

import logging
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import sqlalchemy.exc
from airflow.providers.common.compat.sdk import AirflowException, BaseHook

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.hooks import sql_drivers
from payarc_provider.sync.ledger.database import SUPPORTED
from payarc_provider.sync.ledger.errors import describe
from payarc_provider.tracebacks import raise_alone

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from sqlalchemy.engine import Engine


_LOGGER = "payarc"


def _is_no_row(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


def _without_traceback(record: logging.LogRecord) -> bool:
    """Of a connection that could not be reset or closed, its pool logs a traceback, with the error before it."""
    if record.exc_info and isinstance(error := record.exc_info[1], Exception):
        record.msg, record.args = f"{record.getMessage()} ({describe(error)})", ()
    record.exc_info = record.exc_text = None
    return True


# At DEBUG, SQLAlchemy logs every row it reads. This filter stays, whatever level the logger is given later.
logging.getLogger(f"sqlalchemy.engine.Engine.{_LOGGER}").addFilter(_is_no_row)


def sql_engine(conn_id: str, argument: str, *, ledger: bool = False) -> Engine:
    """
    A SQLAlchemy engine for an Airflow connection, which reads all of the connection's fields as Airflow's hook does.

    Its errors and logs never show parameters or rows.

    :param argument: the operator's argument or the command's option that names the connection, for error messages
    :param ledger: whether a ledger is stored there. It tries its pooled connections itself, within a time limit
    :raises PayarcConfigError: the connection is not to a SQL database, or not one that can be used
    """
    about = f"{argument}: the connection {conn_id}"
    hook = _hook(conn_id, about)
    kind = sql_drivers.kind_of(hook)
    if kind == "sqlite":
        _check_file(sql_drivers.sqlite_file(hook), about)
    try:
        engine = sql_drivers.make_engine(
            hook,
            kind,
            hide_parameters=True,
            logging_name=_LOGGER,
            pool_logging_name=_LOGGER,
            pool_pre_ping=not ledger,
        )
    except sql_drivers.Unusable as error:
        raise PayarcConfigError(f"{about} {error}") from None
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise PayarcConfigError(f"{about} needs a Python package that is not installed: {_package(error)}") from None
    except Exception as error:  # noqa: BLE001 - hooks raise all kinds, and the text may show the password
        raise_alone(
            PayarcConfigError(
                f"{about} cannot be turned into a database URL ({type(error).__name__}): "
                "fix its fields, or read it in a task and pass its output as records"
            )
        )
    if ledger and engine.dialect.name not in SUPPORTED:
        raise PayarcConfigError(
            f"{about} is to {engine.dialect.name}, which cannot store a ledger: "
            "use one to SQLite, PostgreSQL, MySQL or MariaDB"
        )
    if ledger and kind == "mysql" and not hook.connection.schema:
        raise PayarcConfigError(f"{about} names no database: fill in its field schema")
    known = engine.dialect.create_connect_args(engine.url)[1]

    def connect(*_arguments: Any, **parameters: Any) -> Any:
        limits = {name: value for name, value in parameters.items() if name not in known}
        try:
            return sql_drivers.connect(hook, kind, engine.dialect, limits)
        except sql_drivers.Unusable as error:
            raise PayarcConfigError(f"{about} {error}") from None
        except FileNotFoundError as error:
            raise_alone(_unusable(about, error))
        except (getattr(engine.dialect.dbapi, "Error", OSError), sqlalchemy.exc.SQLAlchemyError, OSError):
            raise  # the database's own errors are reported where the connection is used
        except Exception as error:  # noqa: BLE001 - hooks raise all kinds, and the text may show the password
            raise_alone(_unusable(about, error))

    engine.dialect.connect = connect  # type: ignore[method-assign]
    pool = type(engine.pool)
    logging.getLogger(f"{pool.__module__}.{pool.__name__}.{_LOGGER}").addFilter(_without_traceback)
    return engine


def _hook(conn_id: str, about: str) -> DbApiHook:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    kind = BaseHook.get_connection(conn_id).conn_type
    try:
        hook = sql_drivers.find_hook(conn_id, kind)
    except ImportError as error:
        raise PayarcConfigError(
            f'{about} has the type "{kind}", whose provider cannot be imported: {_package(error)}'
        ) from None
    except AirflowException:
        raise PayarcConfigError(
            f'{about} has the type "{kind}", which no installed provider knows. Install the provider for this database'
        ) from None
    except Exception:  # noqa: BLE001 - the types "generic" and "email" have no hook, and hooks raise all kinds
        hook = None
    if not isinstance(hook, DbApiHook):
        raise PayarcConfigError(
            f'{about} has the type "{kind}", which is not a SQL database: use one to a SQL database, such as PostgreSQL'
        )
    return hook


def _unusable(about: str, error: Exception) -> PayarcConfigError:
    return PayarcConfigError(
        f"{about} cannot be opened ({type(error).__name__}). "
        "Check its fields and its extra, and that its driver is installed"
    )


def _check_file(file: str, about: str) -> None:
    if file in ("", ":memory:"):
        raise PayarcConfigError(
            f"{about} is to a SQLite database in memory, which every task would find empty: give an absolute path"
        )
    if not PurePath(file).is_absolute():
        raise PayarcConfigError(
            f"{about} is to another file in every working directory: "
            "give an absolute path in host, and leave login and password empty"
        )


def _package(error: Exception) -> str:
    missing = getattr(error, "name", None)
    return f"install {missing}" if missing else "install its driver and its SQLAlchemy dialect"
