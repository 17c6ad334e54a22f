"""A table or a query of a database: which columns it has, and rows of it, one statement at a time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import column, func, literal_column, select, table, text
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.sql.elements import quoted_name
from sqlalchemy.sql.selectable import FromClause, TableClause

from payarc_provider.exceptions import PayarcConfigError, PayarcError, PayarcSourceError
from payarc_provider.sync.columns import in_capitals, repeated_columns, without_numbers
from payarc_provider.sync.ledger.database import MYSQL
from payarc_provider.sync.ledger.errors import describe
from payarc_provider.sync.queries import Query, QueryParameters, TableName, split_table_name
from payarc_provider.tracebacks import raise_alone

Row = Sequence[Any]

_LARGEST_CHUNK = 2500  # rows
_CHUNK = 10  # rows that are fetched before their size is known
_REPEATED = {1060, 8156}  # MySQL and MariaDB; SQL Server
_NO_DATABASE_ON_MYSQL = 1046
_NOT_IN_SUBQUERY = {156, 319, 1033}  # SQL Server: WITH, WITH after something else, ORDER BY without TOP
_LONG = (str, bytes)
_QUOTED = re.compile(r"'([^']+)'")
# The columns that the connection's user may read, where a privilege may cover only some of them.
_READABLE_ON_POSTGRESQL = text(
    """
        SELECT attname, '' FROM pg_catalog.pg_attribute
        WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped
            AND has_column_privilege(attrelid, attnum, 'SELECT')
        ORDER BY attnum"""
)
_READABLE_ON_MYSQL = text(
    """
        SELECT column_name, data_type FROM information_schema.columns
        WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :table
        ORDER BY ordinal_position"""
)


class Relation:
    """A table or a query.

    :param engine: any SQLAlchemy engine
    :param name: what error messages call it
    :param table_name: ``table``, ``schema.table`` or ``database.schema.table``; quote parts that contain dots:
        ``crm."odd.name"``
    :param sql: a query instead of a table, with the placeholders of the driver
    :param parameters: values for the placeholders of ``sql``, a mapping or a sequence as the driver expects
    :raises PayarcConfigError: if ``table_name`` or ``sql`` is malformed
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        table_name: str | None = None,
        sql: str | None = None,
        parameters: QueryParameters = None,
    ) -> None:
        self.name = name
        self.dialect: Dialect = engine.dialect
        self._engine = engine
        self._must_stream = engine.dialect.name in ("postgresql", *MYSQL)  # else, the driver fetches the whole result
        self._query = Query(sql, parameters) if sql is not None else None
        self._table = (
            split_table_name(table_name or "", capitals=in_capitals(self.dialect)) if not sql else TableName("")
        )
        self.clause: FromClause = self._query.table if self._query else _table(self._table, self.dialect)

    @property
    def table(self) -> tuple[Engine, str | None, str] | None:
        """The engine, the schema if one was named, and the table; None for a query."""
        return None if self.is_query else (self._engine, self._table.schema, self._table.table)

    @property
    def is_query(self) -> bool:
        """Whether it is a query, whose rows the database computes anew for every statement."""
        return self._query is not None

    def count(self) -> int:
        """The number of rows."""
        with self.connection() as connection:
            return int(self._execute(connection, select(func.count()).select_from(self.clause)).scalar_one())

    def columns(self) -> list[str]:
        """The names of the columns, as the database stores them, or of those that the user may read.

        :raises PayarcConfigError: a query has columns of one name, and the database does not take it for that
        """
        if self._query is not None and self.dialect.name == "duckdb":  # which numbers repeated names: `name`, `name_1`
            with self.connection() as connection:
                return [str(found[0]) for found in connection.exec_driver_sql(*self._query.describe())]
        no_rows: Any = select(literal_column("*")).select_from(self.clause).where(text("1 = 0"))
        try:
            with self.connection() as connection:
                names = [str(found[0]) for found in self._execute(connection, no_rows).cursor.description]
        except PayarcSourceError:
            if readable := self._readable_columns():
                return list(readable)
            raise
        return without_numbers(names, self.dialect) if self.is_query else names

    def with_column(self, name: str) -> TableClause:
        """The table, with one of its columns, so that this can be updated."""
        return table(getattr(self.clause, "name", ""), column(quoted_name(name, True)))

    def types_on_mysql(self) -> dict[str, str]:
        """Name of a table's column → its type in small letters; empty for queries and on other databases."""
        return self._readable_columns() if self.dialect.name in MYSQL else {}

    @contextlib.contextmanager
    def connection(self, *, snapshot: bool = False) -> Iterator[Connection]:
        """A connection whose errors name the source and contain no values.

        :param snapshot: all statements see the same rows, if the database can do that, and results are streamed
        """
        try:
            with self._engine.connect() as connection:
                yield self._with_snapshot(connection) if snapshot else connection
        except PayarcError:
            raise
        except Exception as error:  # noqa: BLE001 - drivers raise all kinds, and their texts and tracebacks have values
            if _number(error) == _NO_DATABASE_ON_MYSQL:
                raise_alone(
                    PayarcConfigError(f"{self.name}: its connection names no database: fill in its field schema")
                )
            if self.is_query and (repeated := _repeated_column(error)):
                raise_alone(repeated_columns([repeated]))
            if self.is_query and self.dialect.name == "mssql" and _number(error) in _NOT_IN_SUBQUERY:
                raise_alone(
                    PayarcConfigError(
                        "sql: SQL Server reads it as a subquery, which has neither WITH nor an ORDER BY without TOP. "
                        "Create a view with the query and read it with table"
                    )
                )
            raise_alone(
                PayarcSourceError(
                    f"{self.name} could not be read: {describe(error)}. "
                    "Fix the source, its connection or its parameters, and run again"
                )
            )

    def _with_snapshot(self, connection: Connection) -> Connection:
        if self._must_stream:
            return connection.execution_options(stream_results=True, isolation_level="REPEATABLE READ")
        if self.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")  # by itself, sqlite3 begins transactions only for writes
        return connection

    def fetch(self, connection: Connection, statement: Any, most_bytes: int) -> tuple[list[Row], int, bool]:
        """The rows, their size in bytes and whether these are all: reading ends early after ``most_bytes``."""
        result = self._execute(connection, statement)
        cursor = result if self._must_stream else result.cursor  # which is faster
        rows: list[Row] = []
        size, chunk = 0, _CHUNK
        while found := cursor.fetchmany(chunk):
            rows += found
            size += _size(found)
            if size > most_bytes:
                result.close()
                return rows, size, False
            chunk = max(_CHUNK, min(_LARGEST_CHUNK, int((most_bytes - size) / (size / len(rows) + 1))))
        return rows, size, True

    def _execute(self, connection: Connection, statement: Any) -> Any:
        if self._query is None:
            return connection.execute(statement)
        sql, parameters = self._query.compile(statement, connection.dialect)
        options = {"no_parameters": True} if parameters is None else {}
        try:
            return connection.exec_driver_sql(sql, parameters, execution_options=options)
        except (KeyError, IndexError, TypeError, ValueError) as error:  # from drivers that fill in placeholders
            raise_alone(
                PayarcSourceError(
                    f"{self.name}: parameters do not match the placeholders of sql ({type(error).__name__}). "
                    "Fix sql or parameters"
                )
            )

    def _readable_columns(self) -> dict[str, str]:
        """Column → type of a table's columns that the user may read; empty where that is unknown."""
        if self.is_query:
            return {}
        if self.dialect.name in MYSQL:
            statement = _READABLE_ON_MYSQL.bindparams(schema=self._table.schema, table=self._table.table)
        elif self.dialect.name == "postgresql":
            parts = (part.replace('"', '""') for part in (self._table.schema, self._table.table) if part)
            statement = _READABLE_ON_POSTGRESQL.bindparams(name=".".join(f'"{part}"' for part in parts))
        else:
            return {}
        with self.connection() as connection:
            return dict(map(tuple, connection.execute(statement).all()))


def _table(name: TableName, dialect: Dialect) -> FromClause:
    if name.database is not None and dialect.name in ("sqlite", *MYSQL):
        raise PayarcConfigError(
            f'table: "{name.database}.{name.schema}.{name.table}" has three parts, but {dialect.name} has no '
            'schemas within a database. Give "database.table", and put quotes around names that contain dots'
        )
    # Quoted here, because some dialects take a schema apart at its dots and leave the parts without quotes.
    quote = dialect.identifier_preparer.quote_identifier
    return table(quoted_name(".".join(quote(part) for part in reversed(name) if part is not None), False))


def _repeated_column(error: Exception) -> str | None:
    """The column that MySQL, MariaDB and SQL Server refuse to have twice in a query, or None for any other error."""
    found = _QUOTED.search(str(error)) if _number(error) in _REPEATED else None
    return found[1] if found else None


def _number(error: Exception) -> object:
    """The error's number, on MySQL, MariaDB and SQL Server."""
    return next(iter(getattr(getattr(error, "orig", None), "args", ())), None)


def _size(rows: Any) -> int:
    """About how many bytes the rows take, counting only what may be long. Of many rows, every eighth is measured."""
    step = 1 if len(rows) <= _CHUNK else 8
    sample = rows[::step]
    return step * sum([len(value) if type(value) in _LONG else 8 for row in sample for value in row])
