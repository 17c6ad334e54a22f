"""The same people have the same keys, whether they are read from a table, with a query or from XCom."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal

import pytest
from source_tables import SOURCE_KINDS, Table, read

from payarc_provider.sync.records import RecordReader

KINDS = SOURCE_KINDS

ID = "2f5b6c1e-9d3a-4d5f-8a51-0f6d8f6f2b11"
# What is stored, in a column of which type, and the values that JSON may have for it.
CASES = {
    "integer": ("INTEGER", 42, [42, "42"]),
    "bigint": ("BIGINT", 2**53 + 1, [2**53 + 1, str(2**53 + 1)]),
    "whole decimal": ("DECIMAL(20, 0)", 42, [42, "42"]),
    "decimal": ("DECIMAL(20, 4)", Decimal("4.5"), ["4.5"]),
    "decimal without decimals": ("DECIMAL(20, 4)", 42, [42, "42"]),
    "text": ("VARCHAR(20)", "Ä-042", ["Ä-042"]),
    "text of spaces at its end": ("VARCHAR(20)", "A 42  ", ["A 42  ", "A 42"]),
    "padded text": ("CHAR(10)", "A-042", ["A-042", "A-042     "]),
    "text as long as its column": ("CHAR(5)", "A-042", ["A-042"]),
    "uuid": ("UUID", ID, [ID]),
    "date": ("DATE", datetime.date(2026, 1, 2), ["2026-01-02"]),
    "time": ("TIMESTAMP", datetime.datetime(2026, 1, 2, 3, 4, 5), ["2026-01-02T03:04:05"]),
}


def stored(database, kind, value):
    """The type and the value to store: SQLite stores decimals, dates and UUIDs as text."""
    if database.kind != "sqlite":
        return kind, value
    text = value.isoformat() if isinstance(value, datetime.date) else value
    return ("TEXT", str(text)) if kind not in ("INTEGER", "BIGINT") else (kind, value)


def keys(rows, key="id"):
    reader = RecordReader(key, None, "secret")
    records = [reader.read(index, row) for index, row in enumerate(rows)]
    assert [record.errors for record in records] == [{}] * len(records)
    return [record.key for record in records]


@pytest.mark.parametrize("name", CASES)
def test_a_key_is_the_same_from_a_table_a_query_and_json(database, name):
    kind, value = stored(database, *CASES[name][:2])
    table = database.name("people")
    Table(database, table, [f"id {kind}", "name VARCHAR(20)"]).fill([(value, "John Smith")])
    from_json = keys(json.loads(json.dumps([{"id": one, "name": "John Smith"} for one in CASES[name][2]])))
    assert len(set(from_json)) == 1
    from_table = read(database, table_name=table)
    from_query = read(database, sql=f"SELECT id, name FROM {table} WHERE id IS NOT NULL")
    assert keys(from_table) == keys(from_query) == from_json[:1]


@pytest.mark.parametrize("name", CASES)
def test_a_row_that_airflows_hook_would_read_into_xcom_has_the_same_key(database, name):
    """``get_records`` passes on what the driver returns; XCom keeps dates, decimals and UUIDs or makes them text."""
    kind, value = stored(database, *CASES[name][:2])
    table = database.name("people")
    Table(database, table, [f"id {kind}", "name VARCHAR(20)"]).fill([(value, "John Smith")])
    row = dict(zip(("id", "name"), database.execute(f"SELECT id, name FROM {table}")[0], strict=True))
    as_text = {name: value.isoformat() if isinstance(value, datetime.date) else value for name, value in row.items()}
    through_json = json.loads(json.dumps(as_text, default=str))
    through_json["id"] = _shorter(through_json["id"])
    assert set(keys([row, through_json])) == set(keys(read(database, table_name=table)))


def _shorter(text):
    """JSON has no decimals, and their text keeps zeros, which whoever writes it must remove."""
    is_decimal = isinstance(text, str) and text.replace(".", "").isdigit() and "." in text
    return text.rstrip("0").rstrip(".") if is_decimal else text


def test_a_composite_key_is_the_same_from_a_table_and_from_json(database):
    table = database.name("people")
    Table(database, table, ["tenant CHAR(8)", "id BIGINT", "name VARCHAR(20)"]).fill([("north", 7, "John Smith")])
    from_json = keys([{"tenant": "north", "id": "7", "name": "John Smith"}], ["tenant", "id"])
    assert keys(read(database, ["tenant", "id"], table_name=table), ["tenant", "id"]) == from_json == ['["north","7"]']


def test_padded_keys_straddle_no_page(database):
    table = database.name("people")
    Table(database, table, ["id CHAR(8)", "name VARCHAR(20)"]).fill([(f"A{n}", f"Person {n}") for n in range(7)])
    for page_size in (1, 2, 7):
        assert keys(read(database, table_name=table, page_size=page_size)) == [f"A{n}" for n in range(7)]
