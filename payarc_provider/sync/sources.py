"""Sources of records: a list, or a database that is read in pages; and the batches that are cut from them.

Each page begins after the last key of the previous page. No cursor stays open between pages, and with an index on the
key a page costs the same wherever it is in the table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import sqlalchemy.exc
from sqlalchemy import Enum, String, and_, bindparam, cast, column, func, inspect, literal_column, or_, select, table
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.elements import ColumnElement, quoted_name
from sqlalchemy.sql.selectable import FromClause
from sqlalchemy.types import NullType

from payarc_provider.exceptions import PayarcConfigError, PayarcSourceError
from payarc_provider.sync.keys import partition_of
from payarc_provider.sync.ledger.database import MYSQL
from payarc_provider.sync.ledger.errors import describe
from payarc_provider.sync.queries import Query, QueryParameters, split_table_name
from payarc_provider.sync.records import Record, RecordReader

PAGE = 2000  # rows
_MAX_COLUMNS_SHOWN = 10

SourceRow = dict[str, Any]
KeyColumns = list[ColumnElement[Any]]


class Source(Protocol):
    """Yields rows in pages. ``name`` says where the rows come from; the ledger stores it."""

    name: str

    def total(self) -> int | None:
        """The number of rows, or None if it would cost too much to find out."""

    def pages(self) -> Iterator[Sequence[object]]:
        """All rows, page by page."""


class ListSource:
    """Records in memory, in the order of the list.

    :param rows: the records, usually dicts
    :param name: where they come from, as the ledger stores it
    """

    def __init__(self, rows: Sequence[object], name: str) -> None:
        self.name = name
        self._rows = rows

    def total(self) -> int | None:
        """The number of records."""
        return len(self._rows)

    def pages(self) -> Iterator[Sequence[object]]:
        """All records, page by page."""
        for start in range(0, len(self._rows), PAGE):
            yield self._rows[start : start + PAGE]


class DatabaseSource:
    """The rows of a table or of a query, as dicts in key order. Rows that lack a key value come first.

    :param engine: any SQLAlchemy engine
    :param key: the key columns
    :param columns: other columns that must be present; None requires none
    :param name: where the records come from, as the ledger stores it
    :param table_name: ``table`` or ``schema.table``, taken literally; quote parts that contain dots: ``crm."odd.name"``
    :param sql: a query instead of a table, with the placeholders of the driver
    :param parameters: values for the placeholders of ``sql``, a mapping or a sequence as the driver expects
    :param page_size: rows per page; rows with equal keys are never split, so a page may have more
    :raises PayarcConfigError: if ``table_name`` or ``sql`` is malformed
    """

    def __init__(
        self,
        engine: Engine,
        key: Sequence[str],
        columns: Sequence[str] | None,
        *,
        name: str,
        table_name: str | None = None,
        sql: str | None = None,
        parameters: QueryParameters = None,
        page_size: int = PAGE,
    ) -> None:
        self.name = name
        self._engine = engine
        self._key = list(key)
        self._columns = list(columns or [])
        self._page_size = page_size
        self._schema, self._table = split_table_name(table_name) if table_name is not None else (None, "")
        self._query = Query(sql, parameters) if sql is not None else None
        self._from: FromClause = self._query.table if self._query else _table(self._schema, self._table)

    @property
    def table(self) -> tuple[Engine, str | None, str] | None:
        """The engine, the schema if one was named, and the table; None for a query."""
        return (self._engine, self._schema, self._table) if self._query is None else None

    def total(self) -> int | None:
        """The number of rows of a table. To count a query's rows would cost as much as the query."""
        if self._query is not None:
            return None
        with self._connection() as connection:
            return int(self._execute(connection, select(func.count()).select_from(self._from)).scalar_one())

    def pages(self) -> Iterator[Sequence[SourceRow]]:
        """All rows, page by page.

        :raises PayarcConfigError: if a column is missing
        :raises PayarcSourceError: if the database fails, or cannot find its own keys again
        """
        self._check_columns()
        key = self._comparable_key()
        yield from self._rows_without_key(key)
        page: list[SourceRow] = []
        while following := self._page_after(key, page[-1] if page else None):
            self._check_keys_advance(page, following)
            page = following
            yield page

    # ---- pages ------------------------------------------------------------------------------------------------------

    def _rows_without_key(self, key: KeyColumns) -> Iterator[list[SourceRow]]:
        # NULL is not greater than any key, so no page would contain these rows. They are few unless the key is wrong.
        rows = self._fetch(self._select().where(or_(*(key_column.is_(None) for key_column in key))))
        for start in range(0, len(rows), self._page_size):
            yield rows[start : start + self._page_size]

    def _page_after(self, key: KeyColumns, last: SourceRow | None) -> list[SourceRow]:
        statement = self._select_with_key(key)
        if last is not None:
            statement = statement.where(_is_after(key, self._key_of(last)))
        rows = self._fetch(_limited(statement.order_by(*key), self._page_size))
        return self._with_all_equal_keys(key, rows) if len(rows) == self._page_size else rows

    def _with_all_equal_keys(self, key: KeyColumns, rows: list[SourceRow]) -> list[SourceRow]:
        """The rows, plus all others that the database finds with the last row's key, since the next page skips them."""
        equal = self._fetch(self._select().where(*_equals(key, self._key_of(rows[-1]))))
        equal_keys = [self._key_of(row) for row in equal]
        while rows and self._key_of(rows[-1]) in equal_keys:
            rows.pop()
        return rows + equal

    def _check_keys_advance(self, page: list[SourceRow], following: list[SourceRow]) -> None:
        """Raise if the following page begins with a key of this page, so that reading would never end."""
        first, name = self._key_of(following[0]), self._key[0]
        if any(row[name] == first[0] and self._key_of(row) == first for row in page):
            raise PayarcSourceError(
                f"{self.name} cannot be read in key order: the database does not find the key's values again. "
                "Use sql to cast the key to an integer or text"
            )

    def _key_of(self, row: SourceRow) -> list[object]:
        return [row[name] for name in self._key]

    # ---- columns ----------------------------------------------------------------------------------------------------

    def _check_columns(self) -> None:
        """Raise if a column is missing. A query for no rows shows which columns the source has."""
        with self._connection() as connection:
            no_rows = self._select().where(literal_column("1") == literal_column("0"))
            present = list(self._execute(connection, no_rows).keys())
        for argument, names in (("key", self._key), ("fields", self._columns)):
            for name in names:
                if name not in present:
                    raise PayarcConfigError(
                        f'{argument}: the source has no column "{name}"; its columns are {_first_names(present)}'
                    )

    def _comparable_key(self) -> KeyColumns:
        """The key columns in a form whose order in the database agrees with its comparisons."""
        key: KeyColumns = [column(quoted_name(name, True)) for name in self._key]
        # Enumerations are ordered by position, but compared with parameters as text, or not at all.
        enumerations = self._enumerations(key)
        return [
            cast(key_column, String(255)) if name in enumerations else key_column
            for name, key_column in zip(self._key, key, strict=True)
        ]

    def _enumerations(self, key: KeyColumns) -> set[str]:
        if self._query is None:
            with self._connection() as connection:
                columns = inspect(connection).get_columns(self._table, schema=self._schema)
            return {found["name"] for found in columns if isinstance(found["type"], Enum)}
        if self._engine.dialect.name not in MYSQL:
            return set()
        # MySQL reports a query's enumerations as text, so all text is cast. This costs nothing: the order of text stays
        # the same, and a query's result has no index that the cast could prevent from being used.
        first = self._fetch(_limited(self._select_with_key(key), 1))
        return {name for row in first for name in self._key if isinstance(row[name], str)}

    # ---- statements -------------------------------------------------------------------------------------------------

    def _select(self) -> Any:
        return select(literal_column("*")).select_from(self._from)

    def _select_with_key(self, key: KeyColumns) -> Any:
        return self._select().where(*(key_column.is_not(None) for key_column in key))

    def _fetch(self, statement: Any) -> list[SourceRow]:
        with self._connection() as connection:
            result = self._execute(connection, statement)
            names = list(result.keys())
            return [dict(zip(names, row)) for row in result.all()]  # noqa: B905 - a row has a value for each name

    def _execute(self, connection: Connection, statement: Any) -> Any:
        if self._query is None:
            return connection.execute(statement)
        try:
            return connection.exec_driver_sql(*self._query.compile(statement, connection.dialect))
        except (KeyError, IndexError, TypeError, ValueError) as error:  # from drivers that fill in placeholders
            raise PayarcSourceError(
                f"{self.name}: parameters do not match the placeholders of sql ({type(error).__name__}). "
                "Fix sql or parameters"
            ) from None

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A connection whose errors name the source and contain no values."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise PayarcSourceError(
                f"{self.name} could not be read: {describe(error)}. "
                "Fix the source, its connection or its parameters and run again"
            ) from None


def _table(schema: str | None, name: str) -> FromClause:
    return table(quoted_name(name, True), schema=quoted_name(schema, True) if schema else None)


def _is_after(key: KeyColumns, values: Sequence[object], position: int = 0) -> ColumnElement[bool]:
    """``(a, b) > (x, y)`` in a form for which every database can use an index."""
    first, value = key[position], _parameter(position, values[position])
    if position == len(key) - 1:
        return first > value
    return and_(first >= value, or_(first > value, _is_after(key, values, position + 1)))


def _equals(key: KeyColumns, values: Sequence[object]) -> list[ColumnElement[bool]]:
    pairs = enumerate(zip(key, values, strict=True))
    return [key_column == _parameter(position, value) for position, (key_column, value) in pairs]


def _parameter(position: int, value: object) -> ColumnElement[Any]:
    # No query has a parameter of this name. Without a type, the driver gets back the value exactly as it returned it.
    return bindparam(f"payarc_key_{position}", value, type_=NullType())


def _limited(statement: Any, rows: int) -> Any:
    # Literals, because a query may have parameters with the names that SQLAlchemy gives to a limit and an offset.
    return statement.limit(literal_column(str(rows))).offset(literal_column("0"))


def _first_names(names: list[str]) -> str:
    """The first names, and the number of the others."""
    shown = ", ".join(names[:_MAX_COLUMNS_SHOWN])
    more = len(names) - _MAX_COLUMNS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


_FIRST_BATCH = 64  # records


class Batches:
    """Cuts a source into batches. The first ones are small, so that sending begins while later records are claimed.

    A record with the same key and the same data as an earlier one is skipped and counted. A record with the same key
    and different data is rejected. Each record is compared with at least the ``size`` records before it.

    :param size: records per batch
    :param partition: (i, n) takes partition i of n only; None takes all records
    """

    def __init__(
        self, source: Source, reader: RecordReader, size: int, partition: tuple[int, int] | None = None
    ) -> None:
        self.total = source.total() if partition is None else None
        """Number of records in the source; None if unknown."""
        self.records_read = 0
        """Number of records read so far, repeated ones included."""
        self.repeated = 0
        """Number of records skipped because the same record had been read before."""
        self._reader = reader
        self._size = size
        self._partition = partition
        self._rows = (row for page in source.pages() for row in page)
        self._batches = self._cut()

    def next_batch(self) -> list[Record] | None:
        """The next batch, or None after the last one."""
        return next(self._batches, None)

    def _cut(self) -> Iterator[list[Record]]:
        batch: list[Record] = []
        first_by_key: dict[str, Record] = {}
        size = min(_FIRST_BATCH, self._size)
        for index, row in enumerate(self._rows):
            if self._partition is not None and not self._is_in_partition(row, *self._partition):
                continue
            record = self._reader.read(index, row)
            self.records_read += 1
            earlier = first_by_key.setdefault(record.key, record) if record.key is not None else record
            if earlier is not record:
                if earlier.digest == record.digest:
                    self.repeated += 1
                    continue
                record = self._with_key_conflict(record)
            batch.append(record)
            if len(batch) >= size:
                yield batch
                batch = []
                if len(first_by_key) >= self._size:
                    first_by_key = {}
                size = min(2 * size, self._size)
        if batch:
            yield batch

    def _is_in_partition(self, row: object, partition: int, partitions: int) -> bool:
        return partition_of(self._reader.key_of(row), partitions) == partition

    def _with_key_conflict(self, record: Record) -> Record:
        columns = ",".join(self._reader.key_columns)
        text = "the same key came earlier in this batch with different data: make the key unique at the source"
        return Record(record.index, record.key, {}, record.digest, {columns: [text]}, unstorable=True)
