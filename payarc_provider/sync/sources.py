"""Where records come from: a list, or a database read in pages by key.

No cursor stays open between pages, and a page costs the same however much has been read: each page begins behind the
last key of the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy.exc
import sqlparse
from sqlalchemy import Enum, String, and_, bindparam, cast, column, func, inspect, literal_column, or_, select, table
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.elements import ColumnElement, quoted_name
from sqlalchemy.sql.selectable import FromClause
from sqlalchemy.types import NullType
from sqlparse.tokens import Comment

from payarc_provider.exceptions import PayarcConfigError, PayarcSourceError
from payarc_provider.sync.ledger.database import describe
from payarc_provider.sync.ledger.schema import MYSQL

PAGE = 2000
_MARKER = "payarc_source_query"
_NAME_PART = re.compile(r'"((?:[^"]|"")+)"|`((?:[^`]|``)+)`|\[([^\]]+)\]|([^."`\[\]]+)')


class Source(Protocol):
    """Rows, in order."""

    name: str

    def total(self) -> int | None:
        """How many rows there are, where that is cheap to know."""

    def pages(self) -> Iterator[Sequence[object]]:
        """All rows, page by page."""


class ListSource:
    """Records that are already in memory, in their own order.

    :param rows: usually dicts
    :param name: where they come from, as the ledger keeps it
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
    """A table, or a query wrapped as a subquery, read in key order.

    :param engine: any SQLAlchemy engine
    :param key: the key columns
    :param columns: the columns that the fields are mapped from; None takes whatever is there
    :param table_name: ``table`` or ``schema.table``, taken literally; quote parts that hold dots: ``crm."odd.name"``
    :param sql: a query, with the driver's own placeholders
    :param parameters: for ``sql``: a mapping or a sequence, as the driver's placeholders want it
    :param name: where the records come from, as the ledger keeps it
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
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        page_size: int = PAGE,
    ) -> None:
        self.name = name
        self._engine = engine
        self._key: list[ColumnElement[Any]] = [column(quoted_name(one, True)) for one in key]
        self._key_names = list(key)
        self._wanted = list(columns) if columns is not None else None
        self._page_size = page_size
        self._is_table = table_name is not None
        self._schema_name, self._table_name = (
            split_table_name(table_name) if table_name is not None else (None, _MARKER)
        )
        self._from: FromClause = table(
            quoted_name(self._table_name, True),
            schema=quoted_name(self._schema_name, True) if self._schema_name else None,
        )
        self._sql = _one_statement(sql) if sql is not None else None
        self._parameters = parameters

    @property
    def table(self) -> tuple[Engine, str | None, str] | None:
        """The engine, the schema as far as it was named, and the table; None for a query."""
        return (self._engine, self._schema_name, self._table_name) if self._is_table else None

    def total(self) -> int | None:
        """The number of rows of a table; of a query it would cost as much as the query."""
        if not self._is_table:
            return None
        with self._connect() as connection:
            return int(self._execute(connection, select(func.count()).select_from(self._from))[0][0])

    def pages(self) -> Iterator[Sequence[object]]:
        """The rows as dicts: first those without a key, which can only be refused, then the others by key."""
        self._check_columns()
        self._order_enumerations_as_text()
        yield from self._without_key()
        after: list[object] | None = None
        before: list[dict[str, Any]] = []
        while True:
            page = self._page(after)
            if not page:
                return
            first = _values(page[0], self._key_names)
            if any(row[self._key_names[0]] == first[0] and _values(row, self._key_names) == first for row in before):
                raise PayarcSourceError(
                    f"{self.name} cannot be read in the order of its key: the database does not find the key's "
                    "values again. "
                    "Give a query that casts the key to an integer or to text"
                )
            before = page
            after = _values(page[-1], self._key_names)
            yield page

    def _order_enumerations_as_text(self) -> None:
        # They sort by their place in the enumeration, and compare with a parameter as text, or not at all.
        enumerations = self._enumerations()
        for place, name in enumerate(self._key_names):
            if name in enumerations:
                self._key[place] = cast(self._key[place], String(255))

    def _enumerations(self) -> set[str]:
        if self._is_table:
            with self._connect() as connection:
                columns = inspect(connection).get_columns(self._table_name, schema=self._schema_name)
            return {found["name"] for found in columns if isinstance(found["type"], Enum)}
        if self._engine.dialect.name not in MYSQL:
            return set()
        # MySQL does not tell a query's enumerations from its text. Text it orders the same when cast, and without an
        # index in any case, for a query has none.
        with_key = self._select().where(*(one.is_not(None) for one in self._key))
        first = self._fetch(with_key.limit(literal_column("1")))
        return {name for row in first for name in self._key_names if isinstance(row[name], str)}

    def _without_key(self) -> Iterator[list[dict[str, Any]]]:
        # A NULL is behind no key. There are few such rows, or the key is the wrong column.
        keyless = self._fetch(self._select().where(or_(*(one.is_(None) for one in self._key))))
        for start in range(0, len(keyless), self._page_size):
            yield keyless[start : start + self._page_size]

    def _page(self, after: Sequence[object] | None) -> list[dict[str, Any]]:
        statement = self._select().where(*(one.is_not(None) for one in self._key))
        if after is not None:
            statement = statement.where(_behind(self._key, after))
        rows = self._fetch(
            statement.order_by(*self._key).limit(literal_column(str(self._page_size))).offset(literal_column("0"))
        )
        if len(rows) < self._page_size:
            return rows
        # Rows that the database holds for equal to the last one may stand beyond the page's end: take all of them.
        last = _values(rows[-1], self._key_names)
        equal = self._fetch(self._select().where(*_equal(self._key, last)))
        equal_keys = [_values(row, self._key_names) for row in equal]
        while rows and _values(rows[-1], self._key_names) in equal_keys:
            rows.pop()
        return rows + equal

    def _select(self) -> Any:
        return select(literal_column("*")).select_from(self._from)

    def _check_columns(self) -> None:
        with self._connect() as connection:
            result = self._run(connection, self._select().where(literal_column("1") == literal_column("0")))
            present = list(result.keys())
        wanted = {"key": self._key_names, "fields": self._wanted or []}
        for parameter, names in wanted.items():
            for name in names:
                if name not in present:
                    raise PayarcConfigError(
                        f'{parameter}: the source has no column "{name}"; its columns are {", ".join(present)}'
                    )

    def _fetch(self, statement: Any) -> list[dict[str, Any]]:
        with self._connect() as connection:
            result = self._run(connection, statement)
            names = list(result.keys())
            return [dict(zip(names, row)) for row in result.all()]  # noqa: B905 - a row has a value for each name

    def _execute(self, connection: Connection, statement: Any) -> Sequence[Any]:
        rows: Sequence[Any] = self._run(connection, statement).fetchall()
        return rows

    def _connect(self) -> Any:
        try:
            return self._engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise self._failed(error) from None

    def _run(self, connection: Connection, statement: Any) -> Any:
        try:
            if self._sql is None:
                return connection.execute(statement)
            text, parameters = self._compiled(connection, statement)
            return connection.exec_driver_sql(text, parameters)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise self._failed(error) from None
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
        ) as error:  # some drivers fill the placeholders in themselves
            raise PayarcSourceError(
                f"{self.name}: parameters do not fit the query's placeholders ({type(error).__name__}): mend sql "
                "or parameters"
            ) from None

    def _failed(self, error: sqlalchemy.exc.SQLAlchemyError) -> PayarcSourceError:
        return PayarcSourceError(
            f"{self.name} could not be read: {describe(error)}. Mend the source, its connection or its parameters "
            "and run again"
        )

    def _compiled(self, connection: Connection, statement: Any) -> tuple[str, Any]:
        """The statement with the user's query in the marker's place, both with the driver's placeholders."""
        given = self._parameters
        style = _paramstyle(connection, given)
        dialect: Any = type(connection.dialect)
        dialect = dialect(paramstyle=style)
        dialect.identifier_preparer = connection.dialect.identifier_preparer
        compiled = statement.compile(dialect=dialect)
        query = self._sql or ""
        if not given and style in ("format", "pyformat"):
            query = query.replace("%", "%%")  # without parameters of its own, a query's percent signs mean themselves
        marker = dialect.identifier_preparer.quote(quoted_name(_MARKER, True))
        text = str(compiled).replace(f"FROM {marker}", f"FROM (\n{query}\n) AS {marker}", 1)
        ours = dict(compiled.params)
        if compiled.positional:
            positions = compiled.positiontup or []
            return text, tuple(given or ()) + tuple(ours[name] for name in positions)
        return text, dict(given or {}) | ours


def _paramstyle(connection: Connection, given: Any) -> str:
    own = connection.dialect.paramstyle
    if isinstance(given, Mapping):
        return "named" if own in ("qmark", "named") else "pyformat"
    if given:
        return "qmark" if own in ("qmark", "named") else "format"
    return own


def _behind(key: Sequence[ColumnElement[Any]], after: Sequence[object]) -> ColumnElement[bool]:
    """``(a, b) > (x, y)`` in a form that every database can answer from an index."""
    first, value = key[0], _bound(len(key), after[0])
    if len(key) == 1:
        return first > value
    return and_(first >= value, or_(first > value, _behind(key[1:], after[1:])))


def _bound(place: int, value: object) -> ColumnElement[Any]:
    """A parameter that no query's own can be called like, and that may also be a truth value."""
    return bindparam(f"payarc_key_{place}", value, type_=NullType())  # the driver tells the type, not we


def _equal(key: Sequence[ColumnElement[Any]], values: Sequence[object]) -> list[ColumnElement[bool]]:
    return [one == _bound(place, value) for place, (one, value) in enumerate(zip(key, values, strict=True))]


def _values(row: Mapping[str, object], names: Sequence[str]) -> list[object]:
    return [row[name] for name in names]


def _one_statement(sql: str) -> str:
    """The query without the semicolon and the comments behind it.

    :raises PayarcConfigError: if it is not one statement
    """
    statements = [found for found in sqlparse.parse(sql) if _says_something(found)]
    if len(statements) != 1:
        raise PayarcConfigError(f"sql: give one query; this text holds {len(statements)}")
    tokens: list[Any] = list(statements[0].flatten())  # type: ignore[no-untyped-call]
    while tokens and (tokens[-1].is_whitespace or tokens[-1].value == ";" or tokens[-1].ttype in Comment):
        tokens.pop()
    return "".join(token.value for token in tokens)


def _says_something(statement: Any) -> bool:
    return any(
        not token.is_whitespace and token.value != ";" and token.ttype not in Comment for token in statement.flatten()
    )


def split_table_name(name: str) -> tuple[str | None, str]:
    """
    Schema and table of ``table`` or ``schema.table``, without quotes.

    :raises PayarcConfigError: if it is neither
    """
    parts = [
        next(group.replace('""', '"').replace("``", "`") for group in found if group).strip()
        for found in _NAME_PART.findall(name)
    ]
    if len(parts) not in (1, 2):
        raise PayarcConfigError(f'table: {name!r} is not a table name such as "customers" or "crm.customers"')
    return (parts[0] if len(parts) == 2 else None, parts[-1])
