"""Time limits of the ledger's transactions, so that neither a slow database nor a vanished host holds a run up.

No transaction of the ledger needs more than some seconds. The database ends a statement, a wait for a lock and an idle
transaction; the driver gives up a connection without an answer. What the user has limited more strictly stays so.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine

CONNECT_SECONDS = 10
LOCK_SECONDS = 10
STATEMENT_SECONDS = 30
IDLE_SECONDS = 30
READ_SECONDS = 35  # after the database's own limit of a statement
TRANSACTION_SECONDS = 45.0
"""With renewals every third of the lease, a transaction that takes as long leaves the default lease its margin."""

_POSTGRESQL = {
    "statement_timeout": STATEMENT_SECONDS,
    "lock_timeout": LOCK_SECONDS,
    "idle_in_transaction_session_timeout": IDLE_SECONDS,
}
_TICK = 1.0
_SQLITE_STEPS = 100_000  # of SQLite's virtual machine between two looks at the clock: some milliseconds


# ---- in the database ------------------------------------------------------------------------------------------------


STATEMENT_OPTION = "payarc_statement_seconds"
"""The execution option of an engine whose statements may take fewer seconds than `STATEMENT_SECONDS`."""


def limit_transaction(connection: Connection) -> None:
    """Limit the transaction that has just begun, in one round trip, which also shows whether the connection lives."""
    seconds = connection.get_execution_options().get(STATEMENT_OPTION)
    if connection.dialect.name == "sqlite":
        if seconds is not None:
            _limit_sqlite(connection, seconds)
    elif connection.dialect.name == "postgresql":
        # For this transaction only: a pooler may give the session to others after it.
        most = _POSTGRESQL | ({} if seconds is None else {"statement_timeout": seconds})
        limits = ", ".join(_postgresql_limit(name, value) for name, value in most.items())
        connection.exec_driver_sql(f"SELECT {limits}")
    else:
        most = _mysql_limits(connection.dialect, seconds or STATEMENT_SECONDS)
        limits = ", ".join(_mysql_limit(name, value) for name, value in most.items())
        connection.exec_driver_sql(f"SET SESSION {limits}")


def _limit_sqlite(connection: Connection, seconds: int) -> None:
    """Interrupt the transaction's statements when it has taken this long. SQLite itself has no such limit."""
    until = time.monotonic() + seconds
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > until, _SQLITE_STEPS)


def _postgresql_limit(name: str, seconds: int) -> str:
    present = f"current_setting('{name}')"
    within = f"{present}::interval BETWEEN interval '1 ms' AND interval '{seconds} s'"  # 0: no limit
    return f"set_config('{name}', CASE WHEN {within} THEN {present} ELSE '{seconds}s' END, true)"


def _mysql_limits(dialect: Dialect, statement_seconds: int) -> dict[str, int]:
    locks = {"innodb_lock_wait_timeout": LOCK_SECONDS, "lock_wait_timeout": LOCK_SECONDS}
    if not getattr(dialect, "is_mariadb", False):
        return locks | {"max_execution_time": statement_seconds * 1000, "wait_timeout": 2 * IDLE_SECONDS}
    if (dialect.server_version_info or (0,)) < (10, 3):
        return locks | {"max_statement_time": statement_seconds}
    return locks | {"max_statement_time": statement_seconds, "idle_transaction_timeout": IDLE_SECONDS}


def _mysql_limit(name: str, most: int) -> str:
    return f"{name} = IF(@@{name} = 0, {most}, LEAST(@@{name}, {most}))"  # 0: no limit


# ---- in the driver --------------------------------------------------------------------------------------------------


def limit_connections(engine: Engine) -> None:
    """Let the driver give up a server that does not answer, unless the connection says otherwise."""
    if engine.dialect.name != "sqlite":
        event.listen(engine, "do_connect", _limit_connection)


def _limit_connection(dialect: Dialect, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    for name, value in _driver_limits(dialect).items():
        parameters.setdefault(name, value)


def _driver_limits(dialect: Dialect) -> dict[str, int]:
    driver = dialect.driver
    dbapi: Any = dialect.dbapi
    if driver in ("psycopg", "psycopg2"):
        limits = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
        if "PGCONNECT_TIMEOUT" not in os.environ:
            limits["connect_timeout"] = CONNECT_SECONDS
        libpq = dbapi.pq.version() if driver == "psycopg" else dbapi.__libpq_version__
        if libpq >= 120000:
            limits["tcp_user_timeout"] = STATEMENT_SECONDS * 1000
        return limits
    if driver in ("pymysql", "mysqldb"):
        return {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "write_timeout": READ_SECONDS}
    if driver == "mysqlconnector":
        return {"connection_timeout": CONNECT_SECONDS}
    return {}


# ---- in this process ------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Watch:
    """One transaction under watch.

    ``cut``: whether its connection was cut because it took longer than `TRANSACTION_SECONDS`
    """

    on_slow: Callable[[float], None]
    began: float = field(default_factory=time.monotonic)
    cut: bool = False
    reported: bool = False
    connection: Any = None

    def check(self, slow: float) -> None:
        """Report the transaction once it is slow; cut its connection once it is too late."""
        passed = time.monotonic() - self.began
        if passed >= slow and not self.reported:
            self.reported = True
            self.on_slow(passed)
        if passed >= TRANSACTION_SECONDS and not self.cut:
            # A TCP proxy or a database that hangs keeps the connection open, and libpq would wait for ever.
            self.cut = self.connection is not None and _cut(self.connection)


class Watchdog:
    """One thread that watches all transactions of this process, while there are any.

    :param slow: seconds after which a transaction is reported
    """

    def __init__(self, slow: float) -> None:
        self.slow = slow
        self._watches: set[Watch] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, on_slow: Callable[[float], None]) -> Iterator[Watch]:
        """Watch what is done within; give the watch its connection as soon as there is one."""
        watch = Watch(on_slow)
        with self._lock:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():  # not alive: a fork has left it behind
                self._thread = threading.Thread(target=self._run, name="payarc-ledger-watchdog", daemon=True)
                self._thread.start()
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            time.sleep(_TICK)
            with self._lock:  # held while a connection is cut: until then, its transaction cannot end
                if not self._watches:
                    self._thread = None
                    return
                for watch in self._watches:
                    watch.check(self.slow)


def _cut(connection: Any) -> bool:
    """Shut a driver's connection down, so that the thread that waits for its answer gets an error."""
    number = getattr(connection, "fileno", None)
    if number is None:
        return False  # PyMySQL, whose reads have limits of their own
    with contextlib.suppress(Exception):  # it has ended by itself; every driver says so in its own way
        with socket.socket(fileno=os.dup(number())) as end:
            end.shutdown(socket.SHUT_RDWR)
        return True
    return False
