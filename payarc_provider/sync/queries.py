"""SQL written by users: a query that can be read like a table, and the name of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import sqlparse
from sqlalchemy import table
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import quoted_name
from sqlparse.tokens import Comment

from payarc_provider.exceptions import PayarcConfigError

_ALIAS = "payarc_source_query"
_NAME_PART = re.compile(r'"((?:[^"]|"")+)"|`((?:[^`]|``)+)`|\[([^\]]+)\]|([^."`\[\]]+)')

QueryParameters = Mapping[str, Any] | Sequence[Any] | None


class Query:
    """A query that statements can select from as if it were a table.

    :param sql: one query, with the placeholders of the driver
    :param parameters: values for its placeholders, a mapping or a sequence as the driver expects
    :raises PayarcConfigError: if ``sql`` is not exactly one statement
    """

    def __init__(self, sql: str, parameters: QueryParameters) -> None:
        self.table = table(quoted_name(_ALIAS, True))
        """Stands for the query in the statements that are passed to `compile`."""
        self._sql = _single_statement(sql)
        self._parameters = parameters

    def compile(self, statement: Any, dialect: Dialect) -> tuple[str, tuple[Any, ...] | dict[str, Any]]:
        """The SQL and the parameters for the driver, with the query in place of ``table``."""
        style = self._placeholder_style(dialect.paramstyle)
        dialect_class: Any = type(dialect)
        styled = dialect_class(paramstyle=style)
        styled.identifier_preparer = (
            dialect.identifier_preparer
        )  # only the connected dialect knows the server's quoting
        compiled = statement.compile(dialect=styled)
        sql = self._sql
        if not self._parameters and style in ("format", "pyformat"):
            sql = sql.replace("%", "%%")  # without parameters, a percent sign is not a placeholder
        alias = styled.identifier_preparer.quote(quoted_name(_ALIAS, True))
        text = str(compiled).replace(f"FROM {alias}", f"FROM (\n{sql}\n) AS {alias}", 1)
        if compiled.positional:
            added = tuple(compiled.params[name] for name in compiled.positiontup or [])
            return text, tuple(self._parameters or ()) + added
        return text, dict(self._parameters or {}) | dict(compiled.params)

    def _placeholder_style(self, driver_style: str) -> str:
        """The placeholder style of the query, which the rest of the statement must use as well."""
        if isinstance(self._parameters, Mapping):
            return "named" if driver_style in ("qmark", "named") else "pyformat"
        if self._parameters:
            return "qmark" if driver_style in ("qmark", "named") else "format"
        return driver_style


def _single_statement(sql: str) -> str:
    """The query without trailing semicolons and comments."""
    statements = [statement for statement in sqlparse.parse(sql) if not _is_blank(statement)]
    if len(statements) != 1:
        raise PayarcConfigError(f"sql: give exactly one query; this text has {len(statements)} statements")
    tokens: list[Any] = list(statements[0].flatten())  # type: ignore[no-untyped-call]
    while tokens and _is_filler(tokens[-1]):
        tokens.pop()
    return "".join(token.value for token in tokens)


def _is_blank(statement: Any) -> bool:
    return all(_is_filler(token) for token in statement.flatten())


def _is_filler(token: Any) -> bool:
    return bool(token.is_whitespace or token.value == ";" or token.ttype in Comment)


def split_table_name(name: str) -> tuple[str | None, str]:
    """Schema and table of ``table`` or ``schema.table``, without quotes.

    :raises PayarcConfigError: if ``name`` is neither
    """
    parts = [
        next(group.replace('""', '"').replace("``", "`") for group in groups if group).strip()
        for groups in _NAME_PART.findall(name)
    ]
    if len(parts) not in (1, 2):
        raise PayarcConfigError(f'table: {name!r} is not a table name such as "customers" or "crm.customers"')
    return (parts[0] if len(parts) == 2 else None, parts[-1])
