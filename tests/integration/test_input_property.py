"""Whatever the input: one customer for each acceptable key, each record the id of its own data, no silent rejection.

Hypothesis makes up lists and tables. The expectation comes from the values' documented meaning, not from our code. The
examples are the same in each run; a failure prints the input and a decorator that repeats it. To try 50 times as many
and others each time, set ``PAYARC_TEST_EXAMPLES=50``.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy
import pandas
import pytest
from engine_bench import QUICK, Bench
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from source_tables import Table, source

from payarc_provider.sandbox import make_token
from payarc_provider.sync import runner

EXAMPLES = {"sqlite": 24, "postgresql": 5, "mariadb": 5}
TIMES = int(os.environ.get("PAYARC_TEST_EXAMPLES", "1"))
_numbers = itertools.count(1)


def examples(kind):
    """Settings for tests with this kind of database."""
    return settings(
        max_examples=EXAMPLES[kind] * TIMES,
        derandomize=TIMES == 1,
        print_blob=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


# ---- the input, and what it means ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """A row, and what it means.

    :param key: None if it has no usable key
    :param data: the fields to send, or the raw values of a row that the rules reject
    :param faults: the names under which the rules reject it; empty if they do not
    """

    row: Any
    key: str | None
    data: tuple[tuple[str, str], ...] = ()
    faults: frozenset[str] = frozenset()


INVALID = object()
NAMES = [
    ("John Smith", "John Smith"),
    ("  John Smith\t", "John Smith"),
    ("Zoë Park", "Zoë Park"),
    ("Zoe\N{COMBINING DIAERESIS} Park", "Zoë Park"),
    ("{{ 7*7 }}", "{{ 7*7 }}"),
    (None, None),
    ("", None),
    ("  ", None),
    ("Jo", INVALID),
    ("x" * 51, INVALID),
]
EMAILS = [
    ("john@example.com", "john@example.com"),
    ("John@example.com", "John@example.com"),
    (" mary@example.com ", "mary@example.com"),
    (None, None),
    ("", None),
    ("mary jones@example.com", INVALID),
    ("e" * 41, INVALID),
]
GOOD = st.sampled_from(NAMES[:5])
ODD = [
    (value, INVALID) for value in (7.5, True, b"John Smith", ["John Smith"], {"name": "John Smith"}, "John\x00Smith")
]
NUMBERS = [(1234, "1234"), (Decimal("1234.00"), "1234"), (Decimal("1234.5"), "1234.5")]


def key_as(*forms):
    """An integer from a small range, so that keys repeat, in one of these forms."""
    return st.tuples(st.integers(0, 9), st.sampled_from(forms)).map(lambda made: (made[1](made[0]), str(made[0])))


TEXT_KEYS = st.text("aAäÄß1 -%_'\\", min_size=1, max_size=3).map(lambda text: (text, text.rstrip(" ") or None))
DATE_KEYS = st.dates(datetime.date(2026, 1, 1), datetime.date(2026, 1, 4)).map(lambda day: (day, day.isoformat()))
DECIMAL_KEYS = st.integers(0, 600).map(lambda cents: (Decimal(cents) / 100, _plain(cents)))
MISSING = [None, float("nan"), pandas.NaT, pandas.NA, numpy.datetime64("NaT"), Decimal("NaN"), "", "nan", "NaT"]
UNUSABLE = [1.0, numpy.float64(2), True, numpy.bool_(True), b"1", [1], {"id": 1}, "1\n", "x" * 256, "\ud800"]
UNUSABLE += [4111111111111111, "4111 1111 1111 1111"]
LIST_KEYS = st.one_of(
    key_as(int, str, "{}  ".format, Decimal, lambda n: Decimal(f"{n}.00"), numpy.int64, numpy.uint8),
    TEXT_KEYS,
    DECIMAL_KEYS,
    DATE_KEYS,
    st.integers(0, 3).map(lambda n: (uuid.UUID(int=n), str(uuid.UUID(int=n)))),
    st.sampled_from(MISSING).map(lambda value: (value, None)),
    st.sampled_from(UNUSABLE).map(lambda value: (value, None)),
)


def _plain(cents):
    return f"{cents // 100}.{cents % 100:02}".rstrip("0").rstrip(".")


def few_or_many(elements, at_least=0):
    """Lists, most of which are long; failures shrink to short ones."""
    short, long = st.lists(elements, min_size=at_least, max_size=9), st.lists(elements, min_size=15, max_size=40)
    return st.one_of(short, long, long)


def record(id_and_key, name, email, left_out=()):
    """The input of these (value, meaning) pairs."""
    (value, key), pairs = id_and_key, {"name": name, "email": email}
    row = {"id": value} | {field: raw for field, (raw, _) in pairs.items()}
    row = {column: value for column, value in row.items() if column not in left_out}
    if "id" not in row or key is None:
        return Input(row, None, (), frozenset({"id"}))
    means = {field: meaning for field, (_, meaning) in pairs.items() if field in row and meaning is not None}
    faults = frozenset(field for field, meaning in means.items() if meaning is INVALID)
    if faults or not means:
        raw = tuple((field, repr(row[field])) for field in pairs if row.get(field) is not None)
        return Input(row, key, raw, faults or frozenset({"record"}))
    return Input(row, key, tuple(means.items()))


NO_RECORDS = st.sampled_from(["John Smith", 5, None, ("1", "John Smith"), [{"id": 1}]]).map(
    lambda row: Input(row, None, (), frozenset({"record"}))
)
RECORDS = st.builds(
    record,
    LIST_KEYS,
    st.one_of(GOOD, GOOD, st.sampled_from([*NAMES, *ODD, *NUMBERS])),
    st.one_of(st.sampled_from(EMAILS[:3]), st.sampled_from([*EMAILS, *ODD])),
    st.sets(st.sampled_from(["id", "name", "email"]), max_size=1),
)
LISTS = few_or_many(st.one_of(RECORDS, RECORDS, RECORDS, RECORDS, NO_RECORDS))

NULL = st.just((None, None))
# The type of a table's key column, and its values: SQLite lets each row have a type of its own.
COLUMNS = {
    "sqlite": {
        "": st.one_of(key_as(int, str, "{} ".format), TEXT_KEYS, NULL, st.sampled_from([(1.5, None), (b"1", None)])),
        "INTEGER": st.one_of(key_as(int), NULL),
        "TEXT": st.one_of(key_as(str), TEXT_KEYS, NULL),
        "TEXT COLLATE NOCASE": st.one_of(TEXT_KEYS, NULL),
    },
    "others": {
        "INTEGER": st.one_of(key_as(int), NULL),
        "VARCHAR(9)": st.one_of(key_as(str), TEXT_KEYS, NULL),
        "CHAR(9)": st.one_of(key_as(str), TEXT_KEYS, NULL),
        "DECIMAL(9, 2)": st.one_of(key_as(Decimal), DECIMAL_KEYS, NULL),
        "DATE": st.one_of(DATE_KEYS, NULL),
        "DOUBLE PRECISION": st.sampled_from([(1.0, None), (1.5, None), (None, None)]),
    },
}


@st.composite
def tables(draw, kind):
    """The type of the key column, and the rows."""
    columns = COLUMNS.get(kind, COLUMNS["others"])
    column = draw(st.sampled_from(sorted(columns)))
    rows = st.builds(record, columns[column], st.one_of(GOOD, st.sampled_from(NAMES)), st.sampled_from(EMAILS))
    return column, draw(few_or_many(rows, at_least=1))


SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7))


# ---- what must be true -----------------------------------------------------------------------------------------------


def check_run(inputs, outcome, customers, *, in_order):
    """Check one run's results.

    :param customers: PayArc's customers, by id
    :param in_order: whether the run has read the input in this order, so that the first of several records counts
    """
    assert outcome.error is None
    sent = {customer_id: _sent(customer) for customer_id, customer in customers.items()}
    accepted = {one["key"]: sent[one["customer_id"]] for one in outcome.results.customers()}
    assert len(accepted) == len(outcome.ids) == len(set(outcome.ids)) == len(customers), "one customer for each key"

    rejected, reasons = defaultdict(Counter), 0
    for one in outcome.results.rejected():
        assert one["errors"]
        assert all(texts and all(texts) for texts in one["errors"].values()), "each rejection has its reasons"
        rejected[one["key"]][frozenset(one["errors"])] += 1
        reasons += 1
    assert len(accepted) + reasons + outcome.end.repeated == outcome.end.records_read == len(inputs)

    by_key = defaultdict(list)
    for one in inputs:
        by_key[one.key].append(one)
    assert rejected.pop(None, Counter()) == Counter(one.faults for one in by_key.pop(None, []))
    for key, same_key in by_key.items():
        found = accepted.pop(key, None)
        assert any(
            rejected[key] == _expected(one, same_key) and found == (None if one.faults else dict(one.data))
            for one in (same_key[:1] if in_order else same_key)
        ), "the id is that of the first record's data, and the others are rejected unless they are equal"
    assert not accepted
    assert set(rejected) <= set(by_key)


def _expected(first, same_key):
    """The rejections of the records of one key, if this one was read first: equal ones count once, others conflict."""
    conflicts = sum((one.data, one.faults) != (first.data, first.faults) for one in same_key)
    return Counter([first.faults] if first.faults else []) + Counter({frozenset({"id"}): conflicts})


def _sent(customer):
    return {field: customer[field] for field in ("name", "email") if customer.get(field)}


def run_twice(database, sandbox, inputs, rows, sizes, *, in_order):
    """Run over the input twice, with batches of these sizes, and check both runs.

    :param rows: returns the records, or their source
    """
    note(f"rows: {[one.row for one in inputs]}")
    bench, merchant = Bench(database, sandbox), f"m{next(_numbers)}"

    def run(number, size):
        options = dataclasses.replace(QUICK, batch_size=size)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "PAGE", size)
            outcome = bench.run(rows(), options, run_id=f"run {number}", token=make_token(merchant), source="people")
        customers = {customer["customer_id"]: customer for customer in sandbox.customers(merchant)}
        check_run(inputs, outcome, customers, in_order=in_order)
        return outcome

    first, second = (run(number, size) for number, size in enumerate(sizes))
    assert first.requests.get("POST", 0) == len(first.ids)
    assert (second.requests, second.ids) == ({}, first.ids)
    database.disconnect()


@pytest.mark.parametrize("database", EXAMPLES, indirect=True)
def test_lists(database, payarc_sandbox):
    @examples(database.kind)
    @given(LISTS, SIZES)
    def holds(inputs, sizes):
        run_twice(database, payarc_sandbox, inputs, lambda: [one.row for one in inputs], sizes, in_order=True)

    holds()


@pytest.mark.parametrize("database", EXAMPLES, indirect=True)
def test_tables(database, payarc_sandbox):
    @examples(database.kind)
    @given(tables(database.kind), SIZES, st.integers(1, 7))
    def holds(table, sizes, page_size):
        column, inputs = table
        name = database.name("people")
        columns = [f"id {column}", "name VARCHAR(60)", "email VARCHAR(60)"]
        Table(database, name, columns).fill([tuple(one.row.values()) for one in inputs])
        note(f"id {column}, pages of {page_size}")
        run_twice(
            database,
            payarc_sandbox,
            inputs,
            lambda: source(database, table_name=name, page_size=page_size),
            sizes,
            in_order=False,
        )

    holds()
