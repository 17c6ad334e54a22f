"""The columns of a source: which of them a run reads, by the names that the database uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from sqlalchemy.engine import Dialect

from payarc_provider.exceptions import PayarcConfigError

_MAX_SHOWN = 10
_IGNORES_CASE = {"sqlite", "mysql", "mariadb", "duckdb", "mssql", "redshift", "trino", "databricks", "bigquery"}
"""Dialects that do not distinguish column names by their case, even if the names are quoted."""
_NUMBERED = re.compile(r"(.+):\d+", re.DOTALL)


def find_columns(
    present: Sequence[str],
    required: Mapping[str, Iterable[str]],
    optional: Iterable[str],
    dialect: Dialect,
) -> dict[str, str]:
    """The needed columns: the name that the user gave → the name as the database stores it.

    :param present: all columns of the source, as the database names them
    :param required: argument of the operator → columns that it names
    :param optional: columns that are read if the source has them
    :raises PayarcConfigError: a required column is missing, or the source has a needed one more than once
    """
    folded = case_rule(dialect)
    stored: dict[str, list[str]] = {}
    for name in present:
        stored.setdefault(folded(name), []).append(name)
    for argument, names in required.items():
        for name in names:
            if folded(name) not in stored:
                raise PayarcConfigError(
                    f'{argument}: the source has no column "{name}"; its columns are {_first_names(present)}'
                )
    needed = dict.fromkeys(name for names in required.values() for name in names)
    needed |= dict.fromkeys(name for name in optional if folded(name) in stored)
    if repeated := [name for name in needed if len(stored[folded(name)]) > 1]:
        raise repeated_columns(repeated)
    return {name: stored[folded(name)][0] for name in needed}


def repeated_columns(names: Sequence[str]) -> PayarcConfigError:
    """The error for needed columns that the source has more than once, so that nobody knows which one is meant."""
    return PayarcConfigError(
        f"the source has more than one column named {_first_names(names)}. "
        "List the columns in sql and rename them with AS, so that each needed name occurs once"
    )


def case_rule(dialect: Dialect) -> Callable[[str], str]:
    """A function that returns the same text for two column names if a user may mean the same with them.

    Where unquoted names are stored in capitals, these are what a user means with any spelling.
    """
    return str.lower if dialect.name in _IGNORES_CASE or in_capitals(dialect) else str


def in_capitals(dialect: Dialect) -> bool:
    """Whether the database stores names that are not quoted in capitals, as Snowflake and Oracle do."""
    return dialect.requires_name_normalize or dialect.name == "snowflake"


def without_numbers(names: Sequence[str], dialect: Dialect) -> list[str]:
    """The names of a query's columns; SQLite numbers those that occur more than once: ``name`` and ``name:1``."""
    if dialect.name != "sqlite":
        return list(names)
    known = {name.lower() for name in names}
    numbered = ((_NUMBERED.fullmatch(name), name) for name in names)
    return [found[1] if found and found[1].lower() in known else name for found, name in numbered]


def _first_names(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    shown = ", ".join(names[:_MAX_SHOWN])
    more = len(names) - _MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
