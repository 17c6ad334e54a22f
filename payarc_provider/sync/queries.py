"""SQL written by users: a query that can be read like a table, and the name of a table."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import bindparam, table
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import ColumnElement, quoted_name
from sqlalchemy.types import NullType

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.ledger.database import MYSQL

_ALIAS = "payarc_source_query"
_MARKER = re.compile(r":`?(payarc_\w+|param_\d+)`?")
"""A parameter of a compiled statement; Databricks quotes them. Limits and offsets are called ``param_1`` and so on."""
_NAME_PART = re.compile(r'"((?:[^"]|"")+)"|`((?:[^`]|``)+)`|\[([^\]]+)\]|([^."`\[\]]+)')
_PLACEHOLDERS = {
    "qmark": "?",
    "format": "%s",
    "pyformat": "%({name})s",
    "named": ":{name}",
    "numeric": ":{number}",
    "numeric_dollar": "${number}",
    "named_dollar": "${name}",
}
_WITH_NAMES = {"qmark": "named", "numeric": "named", "format": "pyformat", "numeric_dollar": "named_dollar"}
_TAKE_NAMES_TOO = ("sqlite", *MYSQL)
_WITHOUT_NAMES = {"pyformat": "format", "named": "numeric"}

QueryParameters = Mapping[str, Any] | Sequence[Any] | None


class Query:
    """A query that statements can select from as if it were a table.

    :param sql: one query, with the placeholders of the driver
    :param parameters: values for its placeholders, a mapping or a sequence as the driver expects
    :raises PayarcConfigError: if ``sql`` is empty
    """

    def __init__(self, sql: str, parameters: QueryParameters) -> None:
        self.table = table(quoted_name(_ALIAS, True))
        """Stands for the query in the statements that are passed to `compile`."""
        self._sql = _without_semicolon(sql)
        self._parameters = parameters

    def compile(self, statement: Any, dialect: Dialect) -> tuple[str, tuple[Any, ...] | dict[str, Any] | None]:
        """The SQL with the query in place of ``table``, and the parameters for the driver; None if there are none.

        All parameters of ``statement`` must come from `parameter`. Without any, the driver must take the SQL as it is:
        a percent sign means itself.
        """
        neutral = copy.copy(dialect)  # of the connected dialect, because only that one knows the server
        neutral.paramstyle, neutral.positional = "named", False
        compiled = statement.compile(dialect=neutral, compile_kwargs={"render_postcompile": True})
        style = self._placeholder_style(dialect)
        names: list[str] = []

        def placeholder(found: re.Match[str]) -> str:
            if found[1].startswith("param_"):  # the query may have a parameter with this name
                return str(compiled.params[found[1]])
            names.append(found[1])
            return _PLACEHOLDERS[style].format(name=found[1], number=len(self._parameters or ()) + len(names))

        text = _MARKER.sub(placeholder, str(compiled))
        if not (self._parameters or names) and dialect.paramstyle in ("format", "pyformat"):
            text = text.replace("%%", "%")  # in the names of columns
        elif not self._parameters and style in ("format", "pyformat"):
            return self._insert(text, self._sql.replace("%", "%%"), dialect), self._values(style, names, compiled)
        return self._insert(text, self._sql, dialect), self._values(style, names, compiled)

    def describe(self) -> tuple[str, Any]:
        """A statement of DuckDB that returns the query's columns, and its parameters."""
        given: Any = self._parameters or None
        return f"DESCRIBE (\n{self._sql}\n)", tuple(given) if isinstance(given, Sequence) else given

    def _insert(self, text: str, sql: str, dialect: Dialect) -> str:
        alias = dialect.identifier_preparer.quote(quoted_name(_ALIAS, True))
        return text.replace(f"FROM {alias}", f"FROM (\n{sql}\n) {alias}", 1)  # without AS, which Oracle does not know

    def _values(self, style: str, names: list[str], compiled: Any) -> tuple[Any, ...] | dict[str, Any] | None:
        if not (self._parameters or names):
            return None
        added = compiled.params
        if style in ("pyformat", "named", "named_dollar"):
            return dict(self._parameters or {}) | {name: added[name] for name in names}
        return (*(self._parameters or ()), *(added[name] for name in names))

    def _placeholder_style(self, dialect: Dialect) -> str:
        """The placeholder style of the query, which the rest of the statement must use as well."""
        style = dialect.paramstyle
        if isinstance(self._parameters, Mapping) and self._parameters:
            if style in ("qmark", "format") and dialect.name not in _TAKE_NAMES_TOO:
                raise PayarcConfigError(
                    f"parameters: the driver for {dialect.name} has no named placeholders. "
                    f"Use {_PLACEHOLDERS[style]} in sql, and a list"
                )
            return _WITH_NAMES.get(style, style)
        if self._parameters:
            return "qmark" if dialect.name == "databricks" else _WITHOUT_NAMES.get(style, style)
        return style


def parameter(name: str, value: object) -> ColumnElement[Any]:
    """A parameter of a statement that selects from a `Query`, with a name that no query uses.

    It has no type, so the driver gets back the value exactly as it returned it.
    """
    return bindparam(f"payarc_{name}", value, type_=NullType())


def _without_semicolon(sql: str) -> str:
    """The query without a closing semicolon, which a subquery cannot have. Nothing else is changed or understood."""
    query = sql.rstrip().removesuffix(";").rstrip()
    if not query:
        raise PayarcConfigError("sql: is empty. Give one query")
    return query


class TableName(NamedTuple):
    """The name of a table, and the schema and the database that it is in if they were named."""

    table: str
    schema: str | None = None
    database: str | None = None


def split_table_name(name: str, *, capitals: bool = False) -> TableName:
    """The parts of ``table``, ``schema.table`` or ``database.schema.table``, without quotes.

    :param capitals: whether the database stores names in capitals that are not quoted
    :raises PayarcConfigError: if ``name`` is none of these
    """
    parts = []
    for double, back, brackets, plain in _NAME_PART.findall(name):
        quoted = double.replace('""', '"') or back.replace("``", "`") or brackets
        parts.append(quoted.strip() or (plain.upper() if capitals else plain).strip())
    if len(parts) not in (1, 2, 3):
        raise PayarcConfigError(f'table: {name!r} is not a table name such as "customers" or "crm.customers"')
    return TableName(*reversed(parts))
