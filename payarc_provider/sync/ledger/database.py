"""A SQL database as the ledger needs it: isolation, one SQLite writer at a time, errors that pass or last."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy.exc
from sqlalchemy import ARRAY, String, any_, bindparam, event, func, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.exceptions import PayarcConfigError, PayarcLedgerError
from payarc_provider.sync.ledger.schema import MYSQL

SUPPORTED = ("sqlite", "postgresql", *MYSQL)
SQLITE_BUSY_SECONDS = 30
_READ_ONLY = "payarc_read_only"
_PASSING_STATES = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300", "08000", "08003", "08006", "08001"}
_PASSING_MYSQL = {1040, 1205, 1213, 2002, 2003, 2006, 2013, 2055, 1053, 1927}


class LedgerUnavailable(PayarcLedgerError):
    """The ledger's database cannot be used at the moment: it is tried again while the run has patience."""


class Database:
    """An engine whose transactions behave the same on SQLite, PostgreSQL and MySQL or MariaDB.

    :param engine: a SQLAlchemy engine of its own for the ledger (its events and isolation are set here)
    :raises PayarcConfigError: for another kind of database
    """

    def __init__(self, engine: Engine) -> None:
        if engine.dialect.name not in SUPPORTED:
            raise PayarcConfigError(
                f"ledger_conn_id: the ledger cannot live in {engine.dialect.name}; give a connection to SQLite, "
                "PostgreSQL, MySQL or MariaDB"
            )
        self.sqlite = engine.dialect.name == "sqlite"
        if self.sqlite:
            _begin_as_told(engine)
            self._engine = engine
        else:
            # REPEATABLE READ, MySQL's default, would show a claim the rows as they were before others claimed them.
            self._engine = engine.execution_options(isolation_level="READ COMMITTED")

    @property
    def engine(self) -> Engine:
        """The engine."""
        return self._engine

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that writes; on SQLite it is immediate, so it never fails half-way for want of the lock."""
        with sorted_errors(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads, and on SQLite takes no write lock."""
        with sorted_errors(), self._engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
            yield connection

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def among(connection: Connection, column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """``column IN (values)``, as one parameter where the database takes a list: as cheap for 500 values as for one."""
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


@contextlib.contextmanager
def sorted_errors() -> Iterator[None]:
    """Turn database errors into this package's own, without statements, parameters or quoted data."""
    try:
        yield
    except sqlalchemy.exc.IntegrityError:
        raise
    except sqlalchemy.exc.SQLAlchemyError as error:
        kind = LedgerUnavailable if passing(error) else PayarcLedgerError
        raise kind(
            f"the ledger's database answered: {describe(error)}. See that it is reachable and writable, then run "
            "again; nothing is sent twice"
        ) from None


def passing(error: sqlalchemy.exc.SQLAlchemyError) -> bool:
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
    # SQLite: locked or busy; PostgreSQL's drivers give a lost or refused connection no SQLSTATE.
    return isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError) and not _lasting_sqlite(
        str(original)
    )


def _lasting_sqlite(message: str) -> bool:
    return any(
        word in message
        for word in ("no such", "readonly", "has no column", "syntax error", "not a database", "unable to open")
    )


def describe(error: sqlalchemy.exc.SQLAlchemyError) -> str:
    """What the database said, its first line only; of errors about values, not even that."""
    original = getattr(error, "orig", None)
    name = type(original or error).__name__
    if isinstance(error, sqlalchemy.exc.DataError | sqlalchemy.exc.IntegrityError) or original is None:
        return name
    parts: tuple[Any, ...] = original.args
    words = str(parts[-1] if parts and isinstance(parts[-1], str) else original).strip()
    return f"{name}: {words.splitlines()[0][:200]}" if words else name


def _begin_as_told(engine: Engine) -> None:
    # pysqlite begins transactions late and shared by itself; taking that over lets writers queue instead of deadlock.
    @event.listens_for(engine, "connect")
    def _own_transactions(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None
        dbapi_connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
