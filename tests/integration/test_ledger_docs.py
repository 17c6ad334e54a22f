"""``docs/ledger.md`` is true: it has every column, state, fact and verdict, and every query runs."""

from __future__ import annotations

import dataclasses
import datetime
import re
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql

from payarc_provider.ledger.output import rejected, statements, status
from payarc_provider.sync.keys import natural_order
from payarc_provider.sync.ledger import EPOCH, Claimant, Ledger, Resolution, State, UpdateClaim, UpdateResult
from payarc_provider.sync.ledger.overview import Hold, Overview
from payarc_provider.sync.ledger.rebuild import Verdict
from payarc_provider.sync.ledger.schema import schema
from payarc_provider.sync.records import RecordReader

TEXT = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
QUERIES = re.findall(r"^```sql\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
DIALECT = postgresql.dialect()
SCHEMA = schema("payarc_customers", None, DIALECT)

# What each query finds first in its rows, in the order in which they stand there.
FOUND = [
    [("live/main", "created"), ("live/main", "pending"), ("live/main", "rejected"), ("test/main", "pending")],
    ["2", "4"],
    [("live/main", 2), ("test/main", 1)],
    ["3"],
    [(1, "John Smith", "c1"), (6, "John Smith", "c6")],
    [(2, "pending"), (3, "rejected"), (4, "pending"), (5, None)],
    [("1", "c1"), ("6", "c6")],
    [("1", "c1")],
    [("6", "c6")],
    [("6", "c6", "reference")],
    ["has_customers:live/main", "ledger_id"],
]


def first_cells(heading):
    """The first column of the table with this heading."""
    lines = TEXT[TEXT.index(heading) :].splitlines()[2:]
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append(line.split("|")[1].strip(" `"))
    return cells


def test_every_column_is_documented_in_order():
    assert first_cells("| column | meaning |") == [column.name for column in SCHEMA.rows.columns]


def test_every_state_hold_and_verdict_is_documented():
    assert first_cells("| state | meaning |") == list(State)
    assert first_cells("| hold | in the row |") == list(Hold)
    assert first_cells("| verdict | meaning |") == list(Verdict)


def test_every_kind_of_fact_is_documented():
    package = Path(__file__).parents[2] / "payarc_provider"
    code = "".join(path.read_text() for path in package.glob("sync/**/*.py"))
    for name in first_cells("| name | value |"):
        assert f'"{re.split("[:]", name)[0]}' in code
    for name in re.findall(r'(?:remember|fact)\(f?"(\w+)', code):
        assert name in TEXT


def test_every_value_of_matched_by_is_documented():
    described = next(line for line in TEXT.splitlines() if line.startswith("| `matched_by` |"))
    for how in ("reference", "fields", "email", "person"):
        assert f"`{how}`" in described


def test_the_ddl_is_the_one_that_the_command_prints():
    [given] = re.findall(r"^```postgresql\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert given.strip() == statements(SCHEMA.ddl(DIALECT))


def test_every_command_is_documented(capsys):
    from payarc_provider.ledger.__main__ import main

    main(["--help"])
    commands = re.findall(r"^    ([a-z-]+)  ", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(commands) == 12
    table = " ".join(first_cells("| command | what it does |"))
    assert set(commands) == set(re.findall(r"(?<!-)\b[a-z]+(?:-[a-z]+)?\b", table))


def test_records_are_counted_in_the_words_that_the_text_shows(sqlite_database):
    counts, shown = re.findall(r"^```text\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    ledger = Ledger(sqlite_database.engine(), sqlite_database.name())
    ledger.open()
    me = Claimant("live/main", "a" * 32, "table people of crm", 120, 60, "sync", "run", "create")
    reader = RecordReader("id", None, ledger.ledger_id)
    short = [f"c-{key}" for key in (5, 12, 40, 41, 77, *range(1000, 1140))]
    records = [reader.read(0, {"id": key, "name": "Zo"}) for key in short]
    taken = [reader.read(0, {"id": key, "name": "John Smith"}) for key in ("c-9", "c-200")]
    ledger.claim(me, "claim", records + taken, {}, EPOCH)
    refused = {"email": ["has already been taken"]}
    ledger.record(me, [Resolution(record.key, "claim", errors=refused) for record in taken])

    rows = sorted(Overview(ledger, "live/main").rejected(), key=lambda row: natural_order(row.key))

    assert rejected(rows) == shown.strip()

    created = [reader.read(0, {"id": f"c-{key}", "name": "John Smith"}) for key in range(2000, 3053)]
    ledger.claim(me, "claim", created, {}, EPOCH)
    ledger.record(me, [Resolution(record.key, "claim", customer_id=f"id{record.key}") for record in created])
    now, accounts = Overview(ledger, "live/main").counts()
    tables = ["payarc_customers", "payarc_customers_facts"]

    assert status(re.findall("[0-9a-f]{32}", counts)[0], tables, "postgresql", now, accounts) == counts.rstrip()


def change(ledger, me, key, **result):
    """Change a customer, as a run with the version 2 does."""
    row = ledger.rows(me, [key])[key]
    ledger.claim_updates(me, [UpdateClaim("update", row, "", "n:2")])
    version = row.version if result else "n:2"
    ledger.record_updates(me, [UpdateResult(key, "update", "", "", version, None, None, **result, sent=not result)])


@pytest.fixture
def tables(database):
    """A ledger and the CRM's people.

    1 and 6 are created, 6 after a look-up; 1 was changed, and a change of 6 rejected; 2 is open, 3 rejected, 4 unsent,
    5 unknown.
    """
    database.stop_clock()
    ledger = Ledger(database.engine(), database.name("payarc_customers"))
    ledger.open()
    run = ("payarc_from_table", "scheduled__2030-01-01T00:00:00+00:00", "create")
    me = Claimant("live/main", "a" * 32, "table people of crm", 120, 60, *run)
    reader = RecordReader("id", None, ledger.ledger_id)

    def claim(who, *keys):
        records = [reader.read(0, {"id": key, "name": "John Smith"}) for key in keys]
        ledger.claim(who, "claim", records, {}, datetime.datetime(2029, 12, 31, tzinfo=datetime.UTC))

    claim(me, 1, 2, 3, 4, 6)
    claim(dataclasses.replace(me, account="test/main"), 1)
    answers = [Resolution("1", "claim", customer_id="c1"), Resolution("3", "claim", errors={"email": ["is taken"]})]
    ledger.record(me, [*answers, Resolution("6", "claim", customer_id="c6", matched_by="reference")])
    ledger.record_absence(me, {"4": "claim"})
    change(ledger, me, "1")
    change(ledger, me, "6", errors={"email": ["is taken"]})
    people = database.name("people")
    database.execute(f"CREATE TABLE {people} (id integer, name varchar(50))")
    for key in range(1, 7):
        database.execute(f"INSERT INTO {people} VALUES ({key}, 'John Smith')")
    return {"payarc_customers": ledger.schema.rows.name, "people": people}


def test_every_query_runs_and_finds_what_the_text_says(database, tables):
    assert len(QUERIES) == len(FOUND)
    for query, found in zip(QUERIES, FOUND, strict=True):
        text = re.sub(r"\b(FROM|JOIN) (payarc_customers|people)", lambda match: f"{match[1]} {tables[match[2]]}", query)
        rows = database.execute(text.strip().rstrip(";"))
        width = len(found[0]) if isinstance(found[0], tuple) else 1
        assert [row[:width] if width > 1 else row[0] for row in rows] == found, query
