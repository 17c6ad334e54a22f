"""Databases that cannot be run here: their SQLAlchemy dialects compile the SQL, and DuckDB runs a translation of it."""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass, field
from decimal import Decimal

import duckdb
import sqlalchemy as sa
import sqlglot
from sqlglot import exp

_PLACEHOLDER = re.compile(r"%\((\w+)(?::\w+)?\)s|:`?(\w+)`?|%(s)|(\?)|%(%)")


@dataclass
class Warehouse:
    """One dialect.

    :param url: what SQLAlchemy's dialect is found by
    :param language: sqlglot's name of the dialect
    :param capitals: whether names that are not quoted are stored in capitals
    """

    url: str
    language: str
    capitals: bool = False
    statements: list[str] = field(default_factory=list)
    """The SQL that the driver was given, in order."""
    error: Exception | None = None
    """What the driver raises instead of running a statement."""

    def engine(self) -> sa.Engine:
        """An engine whose driver is real, and whose connections lead to DuckDB."""
        self.storage = duckdb.connect()
        engine = sa.create_engine(self.url, creator=lambda: _Connection(self), poolclass=sa.pool.StaticPool)
        engine.dialect.initialize = lambda _connection: None  # asks the server for its version
        if engine.dialect.name == "mssql":
            engine.dialect.server_version_info = (16,)
            engine.dialect._setup_version_attributes()
        if engine.dialect.name == "oracle":
            engine.dialect.server_version_info = (19,)
        return engine

    def stored(self, name: str) -> str:
        """A name that is not quoted, as the database stores it."""
        return name.upper() if self.capitals else name

    def create(self, table: str, rows: list[tuple[int, str]]) -> None:
        """A table with the columns id and name, in ``database.schema``."""
        self.storage.execute("ATTACH IF NOT EXISTS ':memory:' AS db")
        self.storage.execute("CREATE SCHEMA IF NOT EXISTS db.crm; USE db.crm")
        columns = ", ".join(f'"{self.stored(name)}" {kind}' for name, kind in (("id", "BIGINT"), ("name", "VARCHAR")))
        self.storage.execute(f'CREATE TABLE db.crm."{self.stored(table)}" ({columns})')
        self.storage.executemany(f'INSERT INTO db.crm."{self.stored(table)}" VALUES (?, ?)', rows)


class _Connection:
    """What SQLAlchemy needs of a driver's connection."""

    transaction = None  # Trino

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.py_types = collections.defaultdict(tuple)  # Redshift

    def cursor(self, *_arguments: object, **_options: object) -> _Cursor:
        return _Cursor(self.warehouse)

    def commit(self, *_arguments: object) -> None: ...

    rollback = close = autocommit = commit


class _Cursor:
    arraysize = 1
    rowcount = -1

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse

    def execute(self, sql: str, parameters: object = None, **_options: object) -> None:
        self.warehouse.statements.append(sql)
        if self.warehouse.error is not None:
            raise self.warehouse.error
        bound = bind(sql, parameters)
        parsed = sqlglot.parse_one(bound, read=self.warehouse.language, error_level=sqlglot.ErrorLevel.RAISE)
        for name in parsed.find_all(exp.Identifier):  # DuckDB does not distinguish them
            if name.args["quoted"] and name.this not in ("payarc_source_query", "count_1"):
                assert name.this in map(self.warehouse.stored, ("db", "crm", "people", "id", "name")), name
        self._result = self.warehouse.storage.execute(parsed.sql("duckdb"))

    @property
    def description(self) -> list[tuple[object, ...]]:
        return self._result.description

    def fetchmany(self, size: int) -> list[tuple[object, ...]]:
        return self._result.fetchmany(size)

    def fetchone(self) -> tuple[object, ...] | None:
        return self._result.fetchone()

    def fetchall(self) -> list[tuple[object, ...]]:
        return self._result.fetchall()

    def close(self) -> None: ...

    def setinputsizes(self, *_sizes: object, **_named: object) -> None: ...


def bind(sql: str, parameters: object) -> str:
    """The SQL with its values; each placeholder must have one, and each value a placeholder."""
    if parameters is None:
        return sql
    named = dict(parameters) if hasattr(parameters, "keys") else None
    values = iter(() if named is not None else tuple(parameters))
    used = set()

    def value(found: re.Match[str]) -> str:
        typed, plain, position, mark, percent = found.groups()
        if percent:
            return "%"
        if position or mark or (plain and plain.isdigit()):
            return literal(next(values))
        name = typed or plain
        used.add(name)
        return literal(named[name])

    bound = _PLACEHOLDER.sub(value, sql)
    assert next(values, None) is None, "a value without a placeholder"
    assert named is None or used == set(named), "a value without a placeholder"
    return bound


def literal(value: object) -> str:
    """A value as it stands in SQL."""
    assert isinstance(value, int | str | Decimal)
    return str(value) if isinstance(value, int | Decimal) else "'" + value.replace("'", "''") + "'"
