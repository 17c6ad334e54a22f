"""The ledger's database: transactions that behave the same everywhere, and its clock."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy.exc
from sqlalchemy import ARRAY, String, Table, any_, bindparam, event, func, select, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, RootTransaction
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.ledger import time_limits
from payarc_provider.sync.ledger.errors import is_disconnect, ledger_error
from payarc_provider.sync.ledger.time_limits import Watch, Watchdog, limit_connections, limit_transaction
from payarc_provider.tracebacks import raise_alone

MYSQL = ("mysql", "mariadb")
SUPPORTED = ("sqlite", "postgresql", *MYSQL)
SQLITE_BUSY_SECONDS = 30
REPORT_SECONDS = 30.0  # between two warnings about the same wait
_READ_ONLY = "payarc_read_only"

log = logging.getLogger(__name__)
_watchdog = Watchdog(slow=5.0)


class Database:
    """A database whose transactions behave the same on SQLite, PostgreSQL, MySQL and MariaDB.

    ``opened_table``: the ledger's table once it was found, so that its absence later is a loss; empty before.

    :param engine: an engine that nothing else uses, since its events and isolation level are set here
    :raises PayarcConfigError: for another kind of database
    """

    def __init__(self, engine: Engine) -> None:
        if engine.dialect.name not in SUPPORTED:
            raise PayarcConfigError(
                f"ledger_conn_id: the ledger cannot be stored in {engine.dialect.name}. Give a connection to SQLite, "
                "PostgreSQL, MySQL or MariaDB"
            )
        driver: Any = engine.dialect.dbapi
        self._driver_error: type[Exception] = driver.Error
        self.opened_table = ""
        self._failing = False
        self._reported = -REPORT_SECONDS
        limit_connections(engine)
        (_begin_explicitly if engine.dialect.name == "sqlite" else _read_committed)(engine)
        self.engine = engine

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that writes. On SQLite it takes the write lock at once, so it cannot fail for it later.

        :raises LedgerUnavailable: the database cannot be reached now, or it took too long
        :raises LedgerConflict: a row with the same key or customer exists
        :raises PayarcLedgerError: the database rejected it
        """
        with self._transaction(read_only=False) as (connection, transaction):
            yield connection
            transaction.commit()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads; raises what `write` raises. On SQLite it takes no write lock."""
        with self._transaction(read_only=True) as (connection, _):
            yield connection

    @contextlib.contextmanager
    def _transaction(self, *, read_only: bool) -> Iterator[tuple[Connection, RootTransaction]]:
        """The only way to the database: whatever the driver raises, at whatever moment, comes out as ours."""
        with _watchdog.watching(self._report_slow) as watch:
            try:
                connection, transaction = self._begin(watch, read_only=read_only)
                with connection:  # closing rolls back what has not been committed
                    yield connection, transaction
            except (sqlalchemy.exc.SQLAlchemyError, self._driver_error, OSError, UnicodeError) as error:
                self._failing = True
                raise_alone(ledger_error(error, cut=watch.cut, table=self.opened_table))
        self._failing = False

    def _begin(self, watch: Watch, *, read_only: bool) -> tuple[Connection, RootTransaction]:
        try:
            return self._connect_and_begin(watch, read_only=read_only)
        except sqlalchemy.exc.DBAPIError as error:
            if not is_disconnect(error) or watch.cut:
                raise
        return self._connect_and_begin(watch, read_only=read_only)  # a pooled connection had died meanwhile

    def _connect_and_begin(self, watch: Watch, *, read_only: bool) -> tuple[Connection, RootTransaction]:
        connection = self.engine.connect().execution_options(**{_READ_ONLY: read_only})
        try:
            watch.connection = getattr(connection.connection, "driver_connection", None)
            transaction = connection.begin()
            limit_transaction(connection)
        except BaseException:
            connection.close()
            raise
        return connection, transaction

    def _report_slow(self, passed: float) -> None:
        now = time.monotonic()
        if self._failing or now - self._reported < REPORT_SECONDS:  # the caller reports what has failed
            return
        self._reported = now
        log.warning(
            "The ledger's database has not answered for %.0f s. Waiting up to %.0f s for this transaction",
            passed,
            time_limits.TRANSACTION_SECONDS,
        )


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


def can_skip_locked(connection: Connection) -> bool:
    """Whether the database knows FOR UPDATE SKIP LOCKED."""
    dialect = connection.dialect
    if dialect.name in MYSQL:
        oldest = (10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0)
        return (dialect.server_version_info or (0,)) >= oldest
    return dialect.name == "postgresql"


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


def _read_committed(engine: Engine) -> None:
    # REPEATABLE READ, MySQL's default, would show a claim the rows as they were before others claimed them. It is set
    # once for each connection: SQLAlchemy's option sets it for each transaction and resets it, with errors of its own.
    @event.listens_for(engine, "connect")
    def _set_isolation(dbapi_connection: Any, _record: Any) -> None:
        engine.dialect.set_isolation_level(dbapi_connection, "READ COMMITTED")
