"""A database's error is shown as its class and its code. Its text, which may quote a value, is nowhere."""

from __future__ import annotations

import datetime
import json
import re
import traceback

import pytest

from payarc_provider.exceptions import PayarcConfigError, PayarcError, PayarcSourceError
from payarc_provider.hooks import sql_drivers
from payarc_provider.hooks.sql import sql_engine
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.ledger import Claimant, Ledger
from payarc_provider.sync.records import RecordReader

MARK = "Zqmark"
NAME = f"{MARK}name Smith"
REFUSE = f"no such {NAME}"  # SQLite: not taken for an error that passes


def words_of(error):
    """All that an exception holds, and those that led to it."""
    words, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        words += [str(error), repr(error), *map(str, error.args), *getattr(error, "__notes__", ())]
        words += [str(value) for value in vars(error).values()]
        error = error.__cause__ or error.__context__
    return "\n".join(words)


def caught(call, kind=PayarcError):
    with pytest.raises(kind) as found:
        call()
    assert MARK not in words_of(found.value)
    assert MARK not in "".join(traceback.format_exception(found.value))
    return str(found.value)


@pytest.fixture
def refuse(database):
    """The SQL of a function that fails with its argument in its words."""
    if database.kind == "sqlite":
        return "json_extract('{{}}', {})"
    if database.kind == "mariadb":
        database.execute(
            "CREATE OR REPLACE FUNCTION refuse(words TEXT) RETURNS TEXT DETERMINISTIC BEGIN "
            "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = words; RETURN words; END"
        )
        database.at_end("DROP FUNCTION IF EXISTS refuse")
        return "refuse({})"
    return "CAST({} AS integer)"


CODES = {"sqlite": r"OperationalError SQLITE_ERROR", "postgresql": r"\w+ 22P02", "mariadb": r"OperationalError 1644"}


@pytest.mark.parametrize("failing", [0, 60])
def test_a_source_that_fails_shows_class_and_code(database, refuse, failing):
    table = database.name("people")
    database.execute(f"CREATE TABLE {table} (id INTEGER, name VARCHAR(60))")
    values = ", ".join(f"({number}, '{'1' if number < failing else NAME}')" for number in range(61))
    database.execute(f"INSERT INTO {table} VALUES {values}")
    refused = refuse.format("name")
    sql = f"SELECT id, CASE WHEN id < {failing} THEN '1' ELSE CONCAT({refused}, '') END AS name FROM {table}"
    if database.kind == "sqlite":
        sql = sql.replace("CONCAT(", "(").replace(", '')", ")", 1)
    source = DatabaseSource(database.engine(), ["id"], None, name="query q", sql=sql, page_size=20)
    said = caught(lambda: list(source.pages()), PayarcSourceError)
    assert re.search(f"query q could not be read: {CODES[database.kind]}. Fix the source", said)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("query", [True, False])
def test_a_text_that_cannot_be_decoded_is_named_as_that(database, query):
    table = database.name("people")
    database.execute(f"CREATE TABLE {table} (id INTEGER, name TEXT)")
    database.execute(f"INSERT INTO {table} VALUES (1, CAST(CAST('{NAME}' AS BLOB) || x'ff' AS TEXT))")
    given = {"sql": f"SELECT * FROM {table}"} if query else {"table_name": table}
    source = DatabaseSource(database.engine(), ["id"], None, name="people", **given)
    said = caught(lambda: list(source.pages()), PayarcSourceError)
    assert "OperationalError (a text that is not valid in the database's encoding)" in said


def test_a_ledger_that_fails_shows_class_and_code(database, refuse):
    table = database.name()
    ledger = Ledger(database.engine(), table)
    ledger.open()
    refused = refuse.format(f"'{REFUSE}'")
    name = f"{table}_refuse"
    if database.kind == "sqlite":
        database.execute(f"CREATE TRIGGER {name} BEFORE INSERT ON {table} BEGIN SELECT {refused}; END")
    elif database.kind == "mariadb":
        database.execute(f"CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW SET @refused = {refused}")
    else:
        database.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM {refused}; END $$"
        )
        database.execute(f"CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()")
        database.at_end(f"DROP FUNCTION IF EXISTS {name} CASCADE")
    reader = RecordReader("id", None, ledger.ledger_id)
    record = reader.read(0, {"id": 1, "name": NAME, "email": "zqmark@example.com"})
    me = Claimant("test/1", "a" * 32, "table people", 60.0, 0.0)
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    said = caught(lambda: ledger.claim(me, "claim.1", [record], {"1": None}, moment))
    assert re.search(f"the ledger's database reported {CODES[database.kind]}. Check that", said)


class HookError(Exception):
    """An exception of a hook of its own."""


@pytest.mark.parametrize(
    "error", [HookError(NAME), KeyError(NAME), ValueError(NAME), ImportError(NAME), FileNotFoundError(2, NAME)]
)
def test_a_hooks_own_exception_is_shown_by_its_class(tmp_path, monkeypatch, error):
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "crm.db")}))
    engine = sql_engine("crm", "sql_conn_id")

    def connect(*_arguments):
        raise error

    monkeypatch.setattr(sql_drivers, "connect", connect)
    said = caught(engine.connect, PayarcConfigError)
    kind = type(error).__name__
    assert said.startswith(f"sql_conn_id: the connection crm cannot be opened ({kind}). Check its fields")
