"""The ledger's database: transactions that behave the same everywhere, its clock, and its temporary errors."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy.exc
from sqlalchemy import ARRAY, String, Table, any_, bindparam, event, func, select, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.exceptions import PayarcConfigError, PayarcLedgerError

MYSQL = ("mysql", "mariadb")
SUPPORTED = ("sqlite", "postgresql", *MYSQL)
SQLITE_BUSY_SECONDS = 30
_READ_ONLY = "payarc_read_only"
_PASSING_STATES = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300", "08000", "08003", "08006", "08001"}
_PASSING_MYSQL = {1040, 1205, 1213, 2002, 2003, 2006, 2013, 2055, 1053, 1927}


class LedgerUnavailable(PayarcLedgerError):
    """The ledger's database is unavailable at the moment; the same transaction may succeed later."""


class Database:
    """A database whose transactions behave the same on SQLite, PostgreSQL, MySQL and MariaDB.

    :param engine: an engine that nothing else uses, since its events and isolation level are set here
    :raises PayarcConfigError: for another kind of database
    """

    def __init__(self, engine: Engine) -> None:
        if engine.dialect.name not in SUPPORTED:
            raise PayarcConfigError(
                f"ledger_conn_id: the ledger cannot be stored in {engine.dialect.name}. Give a connection to SQLite, "
                "PostgreSQL, MySQL or MariaDB"
            )
        if engine.dialect.name == "sqlite":
            _begin_explicitly(engine)
            self.engine = engine
        else:
            # REPEATABLE READ, MySQL's default, would show a claim the rows as they were before others claimed them.
            self.engine = engine.execution_options(isolation_level="READ COMMITTED")

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that writes. On SQLite it takes the write lock at once, so it cannot fail for it later."""
        with ledger_errors(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads. On SQLite it takes no write lock."""
        with ledger_errors(), self.engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
            yield connection


def among(connection: Connection, column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """``column IN (values)``, as a single parameter where the database takes a list, which it prepares only once."""
    values = list(values)
    dialect = connection.dialect.name
    if dialect == "sqlite":
        listed = func.json_each(bindparam("listed", json.dumps(values, ensure_ascii=False), String)).table_valued(
            "value"
        )
        return column.in_(select(listed.c.value))
    if dialect == "postgresql":
        return column == any_(bindparam("listed", values, ARRAY(String)))
    return column.in_(values)


def insert_absent(connection: Connection, table: Table, values: list[dict[str, Any]]) -> None:
    """Insert those rows whose primary key is not in the table; waits for others that insert the same keys."""
    name = connection.dialect.name
    if name in MYSQL:
        # INSERT IGNORE would cut values that are too long. Setting a column to itself changes nothing.
        column = next(iter(table.primary_key))
        connection.execute(mysql.insert(table).on_duplicate_key_update({column.name: column}), values)
    else:
        insert = postgresql.insert if name == "postgresql" else sqlite.insert
        connection.execute(insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key)), values)


def chunks(values: Iterable[str], size: int = 500) -> Iterator[list[str]]:
    """The values in lists of at most ``size``."""
    values = list(values)
    return (values[start : start + size] for start in range(0, len(values), size))


def database_now(connection: Connection) -> datetime.datetime:
    """The database's time at this statement, in UTC. (CURRENT_TIMESTAMP may be the transaction's start.)"""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        now = connection.execute(select(func.clock_timestamp())).scalar_one()
    elif dialect in MYSQL:
        now = connection.execute(text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    else:
        now = datetime.datetime.fromisoformat(
            connection.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        )
    moment: datetime.datetime = now
    return moment.astimezone(datetime.UTC) if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


@contextlib.contextmanager
def ledger_errors() -> Iterator[None]:
    """Turn database errors into `PayarcLedgerError`, without statements, parameters or quoted data."""
    try:
        yield
    except sqlalchemy.exc.IntegrityError:
        raise
    except sqlalchemy.exc.SQLAlchemyError as error:
        kind = LedgerUnavailable if _passing(error) else PayarcLedgerError
        raise kind(
            f"the ledger's database reported {describe(error)}. Check that it is reachable and writable, then run "
            "again; nothing is sent twice"
        ) from None


def _passing(error: sqlalchemy.exc.SQLAlchemyError) -> bool:
    """Whether the same transaction may succeed a little later: lost connections, deadlocks, locks, restarts."""
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return True
    if not isinstance(error, sqlalchemy.exc.DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    original = error.orig
    code = original.args[0] if original is not None and original.args else None
    if isinstance(code, int):  # MySQL's drivers; their SQLSTATE is often no more than "HY000"
        return code in _PASSING_MYSQL
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state is not None:
        return state in _PASSING_STATES
    # SQLite: locked or busy; PostgreSQL's drivers report no SQLSTATE for a lost or refused connection.
    return isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError) and not _lasting_sqlite(
        str(original)
    )


def _lasting_sqlite(message: str) -> bool:
    return any(
        word in message
        for word in ("no such", "readonly", "has no column", "syntax error", "not a database", "unable to open")
    )


def describe(error: sqlalchemy.exc.SQLAlchemyError) -> str:
    """The error's class and the first line of its text; only the class for errors about values."""
    original = getattr(error, "orig", None)
    name = type(original or error).__name__
    if isinstance(error, sqlalchemy.exc.DataError | sqlalchemy.exc.IntegrityError) or original is None:
        return name
    parts: tuple[Any, ...] = original.args
    words = str(parts[-1] if parts and isinstance(parts[-1], str) else original).strip()
    return f"{name}: {words.splitlines()[0][:200]}" if words else name


def _begin_explicitly(engine: Engine) -> None:
    # By itself, pysqlite begins transactions late and shared, so that two writers may deadlock instead of queueing.
    @event.listens_for(engine, "connect")
    def _own_transactions(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None
        dbapi_connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
