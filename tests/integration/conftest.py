"""The three kinds of database that a ledger and a source can live in, each reached through the same few helpers."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

KINDS = ("sqlite", "postgresql", "mariadb")
UTC = datetime.UTC
_numbers = itertools.count(1)

_POSTGRESQL_CLOCK = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE {schema}.test_clock (moment timestamptz);
CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT coalesce((SELECT moment FROM {schema}.test_clock), pg_catalog.clock_timestamp())';
"""


class TestDatabase:
    """One database of one kind, for one test.

    Its clock can be stopped and set. That is the database's own clock and not this process's, so a test that moves it
    also shows whose clock is asked.
    """

    __test__ = False

    def __init__(self, kind: str, url: sa.URL) -> None:
        self.kind = kind
        self.url = url
        self._moment: datetime.datetime | None = None
        self._engines: list[sa.Engine] = []
        self._tables: list[str] = []
        self.schema = ""
        if kind == "postgresql":
            # The schema shadows the built-in clock_timestamp(), and holds everything that the test makes.
            self.schema = f"t{next(_numbers)}"
            self.execute(_POSTGRESQL_CLOCK.format(schema=self.schema))

    def engine(self, **options: object) -> sa.Engine:
        """A new engine, disposed of at the test's end; it hides parameters, as the operator's engines do."""
        arguments: dict[str, object] = {}
        if self.schema:
            arguments["options"] = f"-csearch_path={self.schema},pg_catalog"
        options.setdefault("connect_args", arguments)
        engine = sa.create_engine(self.url, hide_parameters=True, **options)
        if self.kind != "postgresql":
            sa.event.listen(engine, "checkout", self._tell_clock)
        if self.kind == "sqlite":
            sa.event.listen(engine, "connect", self._shadow_clock)
        self._engines.append(engine)
        return engine

    def name(self, stem: str = "ledger") -> str:
        """A table name that nothing else uses; dropped at the test's end, with its ``_facts``."""
        name = f"{stem}_{next(_numbers)}"
        self._tables += [name, f"{name}_facts"]
        return name

    def execute(self, statement: str, parameters: object = None) -> list[tuple[object, ...]]:
        """Run one statement as the driver takes it, in a transaction of its own."""
        with contextlib.closing(sa.create_engine(self.url, poolclass=sa.NullPool).raw_connection()) as raw:
            cursor = raw.cursor()
            if self.schema:
                cursor.execute(f"SET search_path = {self.schema}, pg_catalog")
            cursor.execute(statement, *([parameters] if parameters is not None else []))
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            raw.commit()
            return rows

    def rows(self, table: str, columns: str = "*") -> list[tuple[object, ...]]:
        """The whole table, in key order."""
        return self.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2")

    def stop_clock(self, moment: datetime.datetime = datetime.datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        """From now on it is this moment in the database, until the clock is moved."""
        self._moment = moment
        if self.kind == "postgresql":
            self.execute("DELETE FROM test_clock")
            self.execute(f"INSERT INTO test_clock VALUES ('{moment.isoformat()}')")

    def move_clock(self, seconds: float) -> None:
        """Let so many seconds pass in the database."""
        self.stop_clock(self.now() + datetime.timedelta(seconds=seconds))

    def now(self) -> datetime.datetime:
        """The stopped clock's moment."""
        assert self._moment is not None, "the clock runs"
        return self._moment

    def close(self) -> None:
        """Leave nothing behind."""
        for engine in self._engines:
            engine.dispose()
        if self.schema:
            self.execute(f"DROP SCHEMA {self.schema} CASCADE")
        elif self.kind == "mariadb":
            for table in self._tables:
                self.execute(f"DROP TABLE IF EXISTS `{table}`")

    def _tell_clock(self, connection: object, _record: object, _proxy: object) -> None:
        if self.kind == "mariadb":
            moment = self._moment.timestamp() if self._moment else 0
            with contextlib.closing(connection.cursor()) as cursor:  # type: ignore[attr-defined]
                cursor.execute(f"SET timestamp = {moment:.6f}" if moment else "SET timestamp = DEFAULT")

    def _shadow_clock(self, connection: object, _record: object) -> None:
        def strftime(_format: str, _when: str) -> str:
            moment = self._moment or datetime.datetime.now(UTC)
            return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"

        connection.create_function("strftime", 2, strftime)  # type: ignore[attr-defined]


@pytest.fixture
def sqlite_database(tmp_path: object) -> Iterator[TestDatabase]:
    """SQLite, for what has nothing to do with the kind of database."""
    database = TestDatabase("sqlite", sa.make_url(f"sqlite:///{tmp_path}/test.db"))
    yield database
    database.close()


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[TestDatabase]:
    """Each kind of database in turn, empty."""
    kind = request.param
    url = sa.make_url(f"sqlite:///{tmp_path}/test.db") if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    database = TestDatabase(kind, url)
    yield database
    database.close()
