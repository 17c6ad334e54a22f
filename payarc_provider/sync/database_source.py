"""A database as the source of records: a table or a query, read in pages.

Each page begins after the last key of the previous page. No cursor stays open between pages, and with an index on the
key a page costs the same wherever it is in the table.

A page takes two statements. The first one finds the keys after the previous page, in order, and with them the page's
last key. The second one reads the rows up to that key. The ranges of the second statement share no row and leave out
none, so every row is read once, whatever the order is in which the database sorts. All keys that the first statement
has found must be among the rows; otherwise the key is not stable, and a record would get another key in the next run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import String, and_, cast, column, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.elements import ColumnElement, quoted_name

from payarc_provider.api.fields import FIELDS
from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.columns import case_rule, find_columns
from payarc_provider.sync.id_column import IdColumn
from payarc_provider.sync.ledger.database import MYSQL
from payarc_provider.sync.queries import QueryParameters, parameter
from payarc_provider.sync.records import StoredRows
from payarc_provider.sync.relation import Relation, Row
from payarc_provider.sync.sources import PAGE, SourceRow

PAGE_BYTES = 8_000_000
_MOST_EQUAL = 10_000  # rows with the same key
_TRIES = 3
_NO_LIMIT = 2**62  # bytes

KeyColumns = list[ColumnElement[Any]]


class DatabaseSource:
    """The rows of a table or of a query, as dicts in key order. Rows that lack a key value come first.

    Only the needed columns are selected, so the others need not be readable.

    :param engine: any SQLAlchemy engine
    :param key: the key columns
    :param columns: the other columns to read, which must be present; None reads those named like PayArc's fields
    :param name: where the records come from, as the ledger stores it
    :param table_name: ``table``, ``schema.table`` or ``database.schema.table``; quote parts that contain dots:
        ``crm."odd.name"``
    :param sql: a query instead of a table, with the placeholders of the driver
    :param parameters: values for the placeholders of ``sql``, a mapping or a sequence as the driver expects
    :param page_size: rows per page; rows with equal keys are never split, so a page may have more
    :param version: the column by which newer data is told from older data
    :param page_bytes: about how many bytes the values of a page may take; then it has fewer rows
    :param write_back: a column of the table that receives the ids of customers; it is read as `StoredRows`, or None
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
        page_bytes: int = PAGE_BYTES,
        version: str | None = None,
        write_back: str | None = None,
    ) -> None:
        self.name = name
        self._relation = Relation(engine, name, table_name=table_name, sql=sql, parameters=parameters)
        self._key = list(key)
        self._columns = list(columns or [])
        self._version = [version] if version is not None else []
        self._write_back = [write_back] if write_back is not None else []
        self._engine = engine
        self._optional = () if columns is not None else FIELDS
        self._page_size = self._limit = page_size
        self._page_bytes = page_bytes
        self._present: list[str] | None = None
        self._names: list[str] = []
        self._selected: KeyColumns = []

    @property
    def table(self) -> tuple[Engine, str | None, str] | None:
        """The engine, the schema if one was named, and the table; None for a query."""
        return self._relation.table

    def total(self) -> int | None:
        """The number of rows of a table. To count a query's rows would cost as much as the query."""
        return None if self._relation.is_query else self._relation.count()

    def columns(self) -> list[str]:
        """All columns of the source; those that are read have the names by which the rows contain them.

        :raises PayarcConfigError: a column is missing, or a needed one occurs more than once
        """
        if self._present is None:
            present, dialect = self._relation.columns(), self._relation.dialect
            needed = {"key": self._key, "fields": self._columns, "version": self._version}
            found = find_columns(present, needed | {"write_back": self._write_back}, self._optional, dialect)
            self._check_write_back(find_columns(present, needed, self._optional, dialect), found)
            self._names = list(found)  # the key columns come first
            self._selected = [column(quoted_name(stored, True)) for stored in found.values()]
            others = [name for name in present if name not in found.values()]
            self._present = self._names + others
        return self._present

    def id_column(self) -> IdColumn | None:
        """The column that receives the ids of customers; None without ``write_back``.

        :raises PayarcConfigError: a column is missing, or a needed one occurs more than once
        """
        if not self._write_back:
            return None
        self.columns()
        stored = [one.name for one in self._selected]
        at = self._names.index(self._write_back[0])
        return IdColumn(self._engine, self._relation, stored[: len(self._key)], stored[at])

    def pages(self) -> Iterator[Sequence[SourceRow]]:
        """All rows, page by page.

        :raises PayarcConfigError: a column is missing, a needed one occurs more than once, or the key is not stable
        :raises PayarcSourceError: the database fails
        """
        self.columns()
        key = self._comparable_key()
        yield from self._rows_without_key(key)
        last: Row | None = None
        while (following := self._page_after(key, last)) is not None:
            last, page = following
            yield self._as_dicts(page)

    # ---- pages ------------------------------------------------------------------------------------------------------

    def _page_after(self, key: KeyColumns, last: Row | None) -> tuple[Row, list[Row]] | None:
        """The last key of the next page, and its rows; None after the last page."""
        for _ in range(_TRIES):  # where the database has no snapshots, a row may go between the two statements
            with self._relation.connection(snapshot=True) as connection:
                found = self._find_keys(connection, key, last)
                if not found:
                    return None
                found, page = self._read_up_to(connection, key, last, found)
                if self._agree(connection, key, found, page):
                    return self._key_of(found[-1]), page
        raise PayarcConfigError(
            f"key: {self.name} returns other keys, or others' keys, each time it is read. "
            "Use stored columns as the key; cast inexact numbers to text"
        )

    def _find_keys(self, connection: Connection, key: KeyColumns, last: Row | None) -> list[Row]:
        """The next keys; of a query, whose keys may be computed, with the rows that they belong to."""
        selected = self._selected if self._relation.is_query else self._selected[: len(key)]
        statement = _limited(_where(select(*selected), key, last).order_by(*key), self._limit)
        rows = self._relation.fetch(connection, statement.select_from(self._relation.clause), self._page_bytes)[0]
        return list(map(tuple, rows))

    def _read_up_to(
        self, connection: Connection, key: KeyColumns, last: Row | None, found: list[Row]
    ) -> tuple[list[Row], list[Row]]:
        """The rows up to the last key that was found, or up to an earlier one if they take too many bytes."""
        while True:
            statement = _where(select(*self._selected), key, last).where(_is_up_to(key, self._key_of(found[-1])))
            statement = _limited(statement.order_by(*key), len(found) + _MOST_EQUAL)
            most = self._page_bytes if len(found) > 1 else _NO_LIMIT
            page, size, complete = self._relation.fetch(connection, statement.select_from(self._relation.clause), most)
            if complete:
                break
            self._limit = max(1, min(len(found), len(page)) // 2)
            found = found[: self._limit]
        if len(page) == len(found) + _MOST_EQUAL:
            raise PayarcConfigError(
                f"key: {self.name} has {_MOST_EQUAL} rows or more with the same key. "
                "Use columns that identify a record as the key"
            )
        if size < self._page_bytes / 4:
            self._limit = min(2 * self._limit, self._page_size)
        return found, page

    def _agree(self, connection: Connection, key: KeyColumns, found: list[Row], page: list[Row]) -> bool:
        """Whether the page has the keys that were found, with the same records as far as this can be seen.

        More rows may only have the last key, which the limit may have cut off.
        """
        width = len(found[0])
        if found == [row[:width] for row in page]:
            return True
        before, now = self._by_key(found), self._by_key(page)
        if not all(_may_be_same(rows, now.get(text, [])) for text, rows in before.items()):
            return False
        more = {text for text, rows in now.items() if len(rows) > len(before.get(text, []))}
        more.discard(repr(self._key_of(found[-1])))
        return not more or more <= self._equal_keys(connection, key, self._key_of(found[-1]))

    def _by_key(self, rows: list[Row]) -> dict[str, list[Row]]:
        """Key → the other values of its rows. By the key's representation, since not every value can be hashed."""
        found: dict[str, list[Row]] = {}
        for row in rows:
            found.setdefault(repr(self._key_of(row)), []).append(row[len(self._key) :])
        return found

    def _equal_keys(self, connection: Connection, key: KeyColumns, last: Row) -> set[str]:
        """The keys that the database takes for equal to this one, such as those that differ in case."""
        equal = (one == parameter(f"equal_{at}", value) for at, (one, value) in enumerate(zip(key, last, strict=True)))
        statement = _limited(select(*self._selected[: len(key)]).where(*equal).order_by(*key), _MOST_EQUAL)
        rows = self._relation.fetch(connection, statement.select_from(self._relation.clause), _NO_LIMIT)[0]
        return set(self._by_key(rows))

    def _rows_without_key(self, key: KeyColumns) -> Iterator[list[SourceRow]]:
        # NULL is not greater than any key, so no page would contain these rows. They are few unless the key is wrong.
        statement = select(*self._selected).where(or_(*(one.is_(None) for one in key)))
        statement = statement.select_from(self._relation.clause)
        order = key
        start = 0
        while True:
            with self._relation.connection(snapshot=True) as connection:
                limited = _limited(statement.order_by(*order), self._page_size + 1, start)
                rows, _, complete = self._relation.fetch(connection, limited, self._page_bytes)
            if order is key and not (complete and len(rows) <= self._page_size):
                order = self._selected  # only now, because some databases cannot sort all types
                continue
            page = rows[: self._page_size]
            if page:
                yield self._as_dicts(page)
            start += len(page)
            if complete and len(rows) <= self._page_size:
                return

    def _as_dicts(self, rows: list[Row]) -> list[SourceRow]:
        names = self._names
        dicts = [dict(zip(names, row)) for row in rows]  # noqa: B905 - a row has a value for each name
        for write_back in self._write_back:
            self._add_stored_rows(dicts, write_back, rows)
        return dicts

    def _add_stored_rows(self, dicts: list[SourceRow], write_back: str, rows: list[Row]) -> None:
        """Put `StoredRows` in the place of the column's values: in the first row of each key; None in the others."""
        last: StoredRows | None = None
        for page_row, row in zip(dicts, rows, strict=True):
            key, value = tuple(self._key_of(row)), page_row[write_back]
            if last is not None and last.key == key:  # rows of one key follow each other
                last.values.append(value)
                page_row[write_back] = None
            else:
                last = page_row[write_back] = StoredRows(key, [value])

    def _check_write_back(self, others: Mapping[str, str], found: Mapping[str, str]) -> None:
        for name in self._write_back:
            if found[name] in others.values():
                raise PayarcConfigError(
                    f'write_back: the column "{name}" is the key, the version or a field that is sent. '
                    "Add a column for the ids to the table"
                )

    def _key_of(self, row: Row) -> Row:
        return row[: len(self._key)]

    # ---- the key ----------------------------------------------------------------------------------------------------

    def _comparable_key(self) -> KeyColumns:
        """The key columns in a form whose order in the database agrees with its comparisons."""
        key = self._selected[: len(self._key)]
        if self._relation.dialect.name not in MYSQL:
            return key
        # MySQL orders ENUM and SET by number, but compares them with parameters as text.
        texts = self._texts_of_query(key) if self._relation.is_query else self._enumerations()
        return [cast(one, String) if name in texts else one for name, one in zip(self._key, key, strict=True)]

    def _enumerations(self) -> set[str]:
        folded = case_rule(self._relation.dialect)
        types = {folded(name): kind for name, kind in self._relation.types_on_mysql().items()}
        return {name for name in self._key if types.get(folded(name), "").lower() in ("enum", "set")}

    def _texts_of_query(self, key: KeyColumns) -> set[str]:
        # A query's ENUM is reported as text, so all text is cast. This costs nothing: the order of text stays the same,
        # and a query's result has no index that the cast could prevent from being used.
        statement = _limited(_where(select(*key), key, None).select_from(self._relation.clause), 1)
        with self._relation.connection() as connection:
            rows = self._relation.fetch(connection, statement, _NO_LIMIT)[0]
        values = zip(self._key, rows[0], strict=True) if rows else ()
        return {name for name, value in values if isinstance(value, str | set)}


def _may_be_same(rows: list[Row], again: list[Row]) -> bool:
    """Whether the rows may be among those read again. A value may have been computed anew, but hardly all of them."""
    return len(rows) <= len(again) and all(
        not row or any(any(map(_same, row, other)) for other in again) for row in rows
    )


def _same(value: object, again: object) -> bool:
    return value == again or repr(value) == repr(again)


def _where(statement: Any, key: KeyColumns, last: Row | None) -> Any:
    """Only rows that have a key, and one after ``last``."""
    statement = statement.where(*(one.is_not(None) for one in key))
    return statement if last is None else statement.where(_is_after(key, last))


def _is_after(key: KeyColumns, values: Row, position: int = 0) -> ColumnElement[bool]:
    """``(a, b) > (x, y)`` in a form for which every database can use an index."""
    first, value = key[position], parameter(f"after_{position}", values[position])
    if position == len(key) - 1:
        return first > value
    return and_(first >= value, or_(first > value, _is_after(key, values, position + 1)))


def _is_up_to(key: KeyColumns, values: Row, position: int = 0) -> ColumnElement[bool]:
    """``(a, b) <= (x, y)``, likewise."""
    first, value = key[position], parameter(f"up_to_{position}", values[position])
    if position == len(key) - 1:
        return first <= value
    return and_(first <= value, or_(first < value, _is_up_to(key, values, position + 1)))


def _limited(statement: Any, rows: int, start: int = 0) -> Any:
    return statement.limit(rows).offset(start or None)
