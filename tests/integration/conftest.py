"""The kinds of database in which a ledger and a source can be, and the engine's bench over them."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from payarc_provider.sandbox import SandboxServer
from payarc_provider.sync import checkpoints

if TYPE_CHECKING:
    from engine_bench import Bench

pytest.register_assert_rewrite("engine_bench", "source_tables")

KINDS = ("sqlite", "postgresql", "mariadb")
UTC = datetime.UTC
_numbers = itertools.count(1)

# Named before pg_catalog in the search path, its clock_timestamp() stands for the built-in one.
_POSTGRESQL_CLOCK = """
    CREATE SCHEMA test_clock;
    CREATE TABLE test_clock.stopped (moment timestamptz);
    CREATE FUNCTION test_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        'SELECT coalesce((SELECT moment FROM test_clock.stopped), pg_catalog.clock_timestamp())'
"""
_POSTGRESQL_OPTIONS = {"options": "-csearch_path=public,test_clock,pg_catalog"}


class TestDatabase:
    """One database of one kind, for one test.

    Its clock can be stopped and set. That is the database's own clock and not this process's, so a test that moves it
    also shows whose clock is asked.

    :param shared: an engine that has been used before, which saves the time to connect
    """

    __test__ = False

    def __init__(self, kind: str, shared: sa.Engine) -> None:
        self.kind = kind
        self.url = shared.url
        self.shared = shared
        self._moment: datetime.datetime | None = None
        self._engines: list[sa.Engine] = []
        self._leftovers: list[str] = []

    def engine(self, **options: Any) -> sa.Engine:
        """A new engine, disposed of at the test's end: to the database, what uses it is another process."""
        if self.kind == "postgresql":
            options.setdefault("connect_args", _POSTGRESQL_OPTIONS)
        engine = sa.create_engine(self.url, hide_parameters=True, **options)
        if self.kind == "mariadb":
            sa.event.listen(engine, "checkout", self._tell_clock)
        if self.kind == "sqlite":
            sa.event.listen(engine, "connect", self._shadow_clock)
        self._engines.append(engine)
        return engine

    def name(self, stem: str = "ledger") -> str:
        """A table name that nothing else uses; dropped at the test's end, with its ``_facts``."""
        name = f"{stem}_{next(_numbers)}"
        tables = ", ".join(self.quoted(one) for one in (f"{name}_facts", name))
        self.at_end(f"DROP TABLE IF EXISTS {tables}")
        return name

    def at_end(self, statement: str) -> None:
        """Run this at the test's end, the last first; a file of SQLite or DuckDB is thrown away anyhow."""
        if self.kind not in ("sqlite", "duckdb"):
            self._leftovers.insert(0, statement)

    def quoted(self, name: str) -> str:
        """A name as it stands in this database's SQL."""
        mark = "`" if self.kind == "mariadb" else '"'
        return mark + name.replace(mark, mark * 2) + mark

    def execute(self, statement: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """Run one statement as the driver takes it, in a transaction of its own."""
        with contextlib.closing(self.shared.raw_connection()) as raw:
            cursor = raw.cursor()
            cursor.execute(statement, *([parameters] if parameters is not None else []))
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            raw.commit()
            return rows

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """The whole table, in key order."""
        return self.execute(f"SELECT * FROM {table} ORDER BY 1, 2")

    def stop_clock(self, moment: datetime.datetime = datetime.datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        """From now on it is this moment in the database, until the clock is moved."""
        self._moment = moment
        if self.kind == "postgresql":
            self.execute("DELETE FROM test_clock.stopped")
            self.execute(f"INSERT INTO test_clock.stopped VALUES ('{moment.isoformat()}')")

    def move_clock(self, seconds: float) -> None:
        """Let so many seconds pass in the database."""
        self.stop_clock(self.now() + datetime.timedelta(seconds=seconds))

    def now(self) -> datetime.datetime:
        """The stopped clock's moment."""
        assert self._moment is not None, "the clock runs"
        return self._moment

    def disconnect(self) -> None:
        """Close the connections of all engines so far."""
        while self._engines:
            self._engines.pop().dispose()

    def close(self) -> None:
        """Leave nothing behind."""
        self.disconnect()
        if self.kind == "postgresql" and self._moment:
            self._leftovers.append("DELETE FROM test_clock.stopped")
        for statement in self._leftovers:
            self.execute(statement)

    def _tell_clock(self, connection: Any, _record: object, _proxy: object) -> None:
        moment = f"{self._moment.timestamp():.6f}" if self._moment else "DEFAULT"
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(f"SET timestamp = {moment}")

    def _shadow_clock(self, connection: Any, _record: object) -> None:
        def strftime(_format: str, _when: str) -> str:
            moment = self._moment or datetime.datetime.now(UTC)
            return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"

        connection.create_function("strftime", 2, strftime)


@pytest.fixture(scope="session")
def postgresql_shared(postgresql_url: URL) -> Iterator[sa.Engine]:
    """An engine that all tests share."""
    engine = sa.create_engine(postgresql_url, hide_parameters=True, connect_args=_POSTGRESQL_OPTIONS)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS test_clock CASCADE")
        connection.exec_driver_sql(_POSTGRESQL_CLOCK)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def mariadb_shared(mariadb_url: URL) -> Iterator[sa.Engine]:
    """An engine that all tests share."""
    engine = sa.create_engine(mariadb_url, hide_parameters=True)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[TestDatabase]:
    """SQLite, for what has nothing to do with the kind of database."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/test.db", hide_parameters=True)
    database = TestDatabase("sqlite", engine)
    yield database
    database.close()
    engine.dispose()


@pytest.fixture
def duckdb_database(tmp_path: Path) -> Iterator[TestDatabase]:
    """DuckDB, in which a source can be, and no ledger."""
    pytest.importorskip("duckdb_engine")
    engine = sa.create_engine(f"duckdb:///{tmp_path}/test.duckdb", hide_parameters=True)
    database = TestDatabase("duckdb", engine)
    yield database
    database.close()
    engine.dispose()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in each kind of database: those of ledgers, or those that its module names in ``KINDS``."""
    if "database" in metafunc.fixturenames and not _names_databases(metafunc):
        metafunc.parametrize("database", getattr(metafunc.module, "KINDS", KINDS), indirect=True)


def _names_databases(metafunc: pytest.Metafunc) -> bool:
    return any(mark.args[0] == "database" for mark in metafunc.definition.iter_markers("parametrize"))


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[TestDatabase]:
    """Each kind of database in turn, empty."""
    if request.param in ("sqlite", "duckdb"):
        yield request.getfixturevalue(f"{request.param}_database")
        return
    database = TestDatabase(request.param, request.getfixturevalue(f"{request.param}_shared"))
    yield database
    database.close()


@pytest.fixture
def people(database: TestDatabase) -> Callable[..., str]:
    """Creates a table ``people_…`` with an integer ``id`` and a ``name``, and returns its name."""

    def make(rows: list[tuple[Any, ...]], *columns: str) -> str:
        from source_tables import Table

        name = database.name("people")
        Table(database, name, columns or ("id INTEGER", "name VARCHAR(50)")).fill(rows)
        return name

    return make


Listen = Callable[[Callable[[str], None] | None], None]


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch, payarc_sandbox: SandboxServer) -> Listen:
    """Sets the function that is called with each checkpoint that the engine reaches.

    Before each look-up, the sandbox's clock moves on by two seconds. The tests' ``settle`` is so short that a look-up
    would otherwise fall into the second of the requests, when PayArc's list can still move and is read several times.
    """
    listeners: list[Callable[[str], None] | None] = [None]

    def reached(checkpoint: str) -> None:
        if checkpoint == "in_lookup":
            payarc_sandbox.settings(clock_offset=payarc_sandbox.settings()["clock_offset"] + 2)
        if (listener := listeners[-1]) is not None:
            listener(checkpoint)

    monkeypatch.setattr(checkpoints, "listener", reached)
    return listeners.append


@pytest.fixture
def bench(database: TestDatabase, payarc_sandbox: SandboxServer, listen: Listen) -> Bench:
    """The engine's bench, with the ledger in each kind of database in turn."""
    from engine_bench import Bench

    return Bench(database, payarc_sandbox)


@pytest.fixture
def sqlite_bench(sqlite_database: TestDatabase, payarc_sandbox: SandboxServer, listen: Listen) -> Bench:
    """The engine's bench with SQLite, for what does not depend on the ledger's database."""
    from engine_bench import Bench

    return Bench(sqlite_database, payarc_sandbox)
