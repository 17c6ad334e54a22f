"""Errors of the ledger's database: which pass and which last, told without the drivers' texts, which may quote data."""

from __future__ import annotations

import re

import sqlalchemy.exc

from payarc_provider.exceptions import PayarcConfigError, PayarcError, PayarcLedgerError

_PASSING_STATES = {
    "25P03",  # idle in a transaction for too long
    "25P04",  # transaction timeout
    "40001",  # serialization failure
    "40003",  # it is unknown whether the statement completed
    "40P01",  # deadlock
    "53300",  # too many connections
    "55P03",  # lock timeout
    "57014",  # statement timeout, or canceled by an administrator
    "57P01",
    "57P02",
    "57P03",
    "57P05",  # shutting down, crashed, starting, idle for too long
}
_PASSING_CLASS = "08"  # connections
_PASSING_MYSQL = {
    0,  # PyMySQL: the connection was closed
    1040,
    1203,  # too many connections
    1047,  # a cluster's node is not ready
    1053,  # shutting down
    1158,
    1159,
    1160,
    1161,  # reading or writing packets failed or timed out
    1205,  # lock timeout
    1213,  # deadlock
    1317,
    1927,
    1969,
    3024,  # interrupted, killed, statement timeout of MariaDB and of MySQL
    2002,
    2003,
    2006,
    2013,
    2055,
    4031,  # no connection, or lost it
}
_NO_TABLE = {"42P01", 1146}  # PostgreSQL; MySQL
_LASTING_SQLITE = (
    "no such",
    "readonly",
    "has no column",
    "cannot modify",
    "cannot UPDATE",
    "syntax error",
    "not a database",
    "unable to open",
    "Could not decode",
)


class LedgerUnavailable(PayarcLedgerError):
    """The ledger's database is unavailable at the moment; the same transaction may succeed later."""


class LedgerConflict(PayarcLedgerError):
    """Another row of the ledger has the same key or the same customer; nothing was changed."""


class LedgerLost(PayarcConfigError):
    """The ledger has lost rows that it had committed; a retry changes nothing.

    :param table: its table
    :param what: what is wrong with it, as the end of a sentence
    """

    def __init__(self, table: str, what: str) -> None:
        super().__init__(
            f"the ledger {table} {what}, so nothing more is sent. Stop its DAGs and restore it with "
            "python -m payarc_provider.ledger rebuild"
        )


def ledger_error(error: Exception, *, cut: bool, table: str = "") -> PayarcError:
    """What to raise in place of an error of SQLAlchemy, the driver or the network.

    :param cut: whether the connection was cut because its transaction took too long
    :param table: the ledger's table, once the ledger has been opened
    """
    if isinstance(error, sqlalchemy.exc.IntegrityError):
        return LedgerConflict()
    if table and _is_missing_table(error):
        return LedgerLost(table, f"has lost a table ({describe(error)})")
    kind = LedgerUnavailable if cut or is_passing(error) else PayarcLedgerError
    return kind(
        f"the ledger's database reported {describe(error)}. Check that it is reachable and writable, then run "
        "again; nothing is sent twice"
    )


def is_passing(error: Exception) -> bool:
    """Whether the same transaction may succeed later: lost connections, deadlocks, locks, timeouts, restarts."""
    original = getattr(error, "orig", None) or error
    if isinstance(original, sqlalchemy.exc.TimeoutError | OSError) or is_disconnect(error):
        return True
    if isinstance(original, sqlalchemy.exc.SQLAlchemyError):
        return False
    code = original.args[0] if original.args else None
    if isinstance(code, int):  # MySQL's drivers; their SQLSTATE is often no more than "HY000"
        return code in _PASSING_MYSQL
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state is not None:
        return state in _PASSING_STATES or state.startswith(_PASSING_CLASS)
    # SQLite: locked or busy; PostgreSQL's drivers report no SQLSTATE for a lost or refused connection. By name, since
    # an error that SQLAlchemy has not wrapped is of the driver's own class.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OperationalError", "InterfaceError"}) and not any(
        words in str(original) for words in _LASTING_SQLITE
    )


def _is_missing_table(error: Exception) -> bool:
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    code = original.args[0] if original.args else None
    if state in _NO_TABLE or (isinstance(code, int) and code in _NO_TABLE):
        return True
    return type(original).__name__ == "OperationalError" and str(original).startswith("no such table")


def is_disconnect(error: Exception) -> bool:
    """Whether the connection was lost."""
    return isinstance(error, sqlalchemy.exc.DBAPIError) and bool(error.connection_invalidated)


_CODES = ("sqlstate", "pgcode", "sqlite_errorname", "errno", "error_name")
"""Where drivers keep a code: psycopg and Snowflake, psycopg2, SQLite, MySQL and the operating system, Trino."""
_IS_CODE = re.compile(r"[\w-]{1,40}")


def describe(error: Exception) -> str:
    """The error's class and its codes, without its text, which may quote values of the source or the ledger."""
    driver = getattr(error, "orig", None) or error
    codes = [getattr(driver, name, None) for name in _CODES]
    if (first := driver.args[:1]) and type(driver).__module__ != "builtins":  # MySQL's drivers, pymssql; Oracle
        codes += [first[0] if isinstance(first[0], int) else getattr(first[0], "full_code", None)]
    texts = dict.fromkeys(str(code) for code in codes if code)
    described = " ".join([type(driver).__name__, *(text for text in texts if _IS_CODE.fullmatch(text))])
    is_encoding = isinstance(driver, UnicodeError) or str(driver).startswith("Could not decode")  # SQLite
    return f"{described} (a text that is not valid in the database's encoding)" if is_encoding else described
