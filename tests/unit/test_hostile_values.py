"""No value, of a record or in a response, stops a run or takes long: one record is rejected, or one outcome unknown."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from decimal import Decimal

import numpy
import pandas
import pytest

from payarc_provider.api.client import PayarcClient
from payarc_provider.api.fields import FIELDS, clean, created_between, shown_value
from payarc_provider.exceptions import PayarcConfigError, PayarcUnknownOutcome
from payarc_provider.operators.options import read_options
from payarc_provider.operators.records import _rows, check_records
from payarc_provider.sync.candidates import Candidates
from payarc_provider.sync.existing import CustomerIndex, indexed
from payarc_provider.sync.fingerprints import altered_fields, fingerprints, own_fields
from payarc_provider.sync.records import RecordReader

SECRET = "0" * 32
BASE = "https://testapi.payarc.net/v1"
FAST = 10.0  # seconds; what this is about takes minutes
KINDS = ("name", "email", "zip", "phone")  # a field for each kind of rule


def nested(depth, *, mapping):
    value: object = "x"
    for _ in range(depth):
        value = {"a": value} if mapping else [value]
    return value


class Hostile:
    """Everything that can be asked of it raises."""

    def _raise(self, *_):
        raise ZeroDivisionError("s3cret")

    __repr__ = __str__ = __eq__ = __ne__ = __bool__ = __len__ = __iter__ = __hash__ = _raise  # type: ignore[assignment]


class HostileText(str):
    def __repr__(self):
        raise ZeroDivisionError("s3cret")

    __str__ = __hash__ = __eq__ = __repr__  # type: ignore[assignment]


class HostileRow(Mapping):
    def __getitem__(self, name):
        raise ZeroDivisionError("s3cret")

    def __iter__(self):
        return iter(["id", "name"])

    def __len__(self):
        return 2


def recursive():
    value: list[object] = []
    value.append({"again": value})
    return value


VALUES = {
    "huge integer": 10**100_000,
    "larger than Python prints": -(10**5_000),
    "huge decimal": Decimal("1E+999999"),
    "huge exact decimal": Decimal(10) ** 5_000,
    "signalling NaN": Decimal("sNaN"),
    "infinity": float("inf"),
    "NaN": float("nan"),
    "NumPy's NaN": numpy.float32("nan"),
    "pandas' missing value": pandas.NA,
    "pandas' missing time": pandas.NaT,
    "boolean": True,
    "bytes": b"\xff\xfe",
    "memory": memoryview(b"x"),
    "array": numpy.arange(3),
    "frame": pandas.DataFrame({"a": [1, 2]}),
    "set": {1, 2},
    "deep dict": nested(100_000, mapping=True),
    "deep list": nested(100_000, mapping=False),
    "recursive list": recursive(),
    "lone surrogate": "\ud800 John",
    "control characters": "John\x00Smith",
    "line separator": "John\u2028Smith",
    "combining marks": "e" + "\u0301" * 90_000,
    "long text": "x" * 1_000_000,
    "long digits": "4" * 100_000,
    "long phone": "1 " * 100_000,
    "time": datetime.timedelta(days=1),
    "hostile object": Hostile(),
    "type": Hostile,
}


@pytest.fixture(autouse=True)
def soon():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < FAST


@pytest.fixture
def reader():
    return RecordReader("id", None, SECRET, version="version")


@pytest.mark.parametrize("field", KINDS)
@pytest.mark.parametrize("validation", ["guide", "payarc"])
@pytest.mark.parametrize("kind", VALUES)
def test_a_value_in_a_field_is_rejected_or_sent_as_it_is(kind, field, validation):
    sent, errors = clean({field: VALUES[kind]}, validation)
    assert set(errors) == {field}
    assert sent == {}
    assert len(str(errors)) < 250
    assert "s3cret" not in str(errors)


NAMES = [10**5000, None, "x" * 1_000_000, "na\u202eme", "a\nb", "4111111111111111", ("a",), 1.5]


@pytest.mark.parametrize("name", NAMES, ids=[str(number) for number in range(len(NAMES))])
def test_a_field_of_an_unknown_name_is_one_error_that_does_not_quote_it(name):
    sent, errors = clean({name: "John Smith"})
    assert (sent, list(errors)) == ({}, ["record"])
    assert errors["record"][0].startswith("a field")
    assert len(errors["record"][0]) < 250


@pytest.mark.parametrize("place", ["id", "name", "version"])
@pytest.mark.parametrize("kind", [kind for kind in VALUES if kind != "line separator"])
def test_one_record_is_rejected_and_the_next_one_is_not(reader, kind, place):
    record = reader.read(0, {"id": 1, "name": "John Smith", "version": 1, place: VALUES[kind]})
    assert record.errors
    assert record.fields == {} or place == "version"
    assert (record.key is None) == (place == "id")
    text = json.dumps([record.key, record.errors, record.digest])
    assert len(text) < 400
    assert "s3cret" not in text
    assert reader.read(1, {"id": 2, "name": "John Smith", "version": 1}).errors == {}


@pytest.mark.parametrize("kind", ["deep dict", "hostile object", "huge integer", "recursive list"])
def test_the_columns_that_are_not_sent_may_have_any_value(reader, kind):
    assert reader.read(0, {"id": 1, "name": "John Smith", "version": 1, "note": VALUES[kind]}).errors == {}


@pytest.mark.parametrize(
    "row",
    [None, 7, "text", b"x", [1], HostileRow(), nested(100_000, mapping=True), {}, {"id": 1}, {None: 1}, {10**5000: 1}],
    ids=lambda row: type(row).__name__,
)
def test_a_row_of_any_shape_is_one_rejected_record(reader, row):
    record = reader.read(0, row)
    assert record.errors
    assert "s3cret" not in str(record.errors)
    assert reader.key_of(row) in (None, "1")


def test_column_names_of_any_kind_are_no_problem(reader):
    odd = {10**5000: 1, None: 2, ("a", "b"): 3, "n" * 1_000_000: 4, "na\u202eme": 5, "e_mail": 6}
    assert reader.read(0, {"id": 1, "name": "John Smith", "version": 1, **odd}).errors == {}
    assert reader.lookalike_columns.get("e_mail") == "email"
    assert all(len(column) < 100 for column in reader.lookalike_columns)


def test_deeply_nested_json_as_records_or_options_is_one_clear_error():
    with pytest.raises(PayarcConfigError, match=r"^records: .* is not valid JSON"):
        _rows("[" * 100_000)
    for value in ("[" * 100_000, "9" * 5000, -(10**5000)):
        with pytest.raises(PayarcConfigError, match=r"^max_rejected: "):
            read_options({"max_rejected": value}, key="id", fields=None, partition=None, rendered=True)
    check_records([{"id": 1, "name": nested(100_000, mapping=True)}])


# ---- PayArc's answers -----------------------------------------------------------------------------------------------

IDS = [
    "null", '""', '" "', "7", "-7", "1.5", "true", "NaN", "1e999", "[]", '["x"]', "{}", '{"id": "x"}', "9" * 4000,
    '"' + "9" * 4000 + '"', '"../charges"', '"x/../y"', '"x?y"', '"x#y"', '"a b"', '"a\\u0000b"', '"a\\nb"',
    '"\\u202ex"', '"\\ud800"', '"cus_"', '"é"', '"' + "a" * 65 + '"', "[" * 100_000, "9" * 5000,
]  # fmt: skip


@pytest.fixture
def client():
    return PayarcClient(BASE, lambda refresh: "t")


@pytest.mark.parametrize("customer_id", IDS, ids=lambda text: text[:20])
def test_an_answer_without_a_usable_id_is_an_unknown_outcome(requests_mock, client, customer_id):
    requests_mock.register_uri(
        "POST", f"{BASE}/customers", status_code=201, text=f'{{"data": {{"id": {customer_id}}}}}'
    )
    with pytest.raises(PayarcUnknownOutcome) as caught:
        client.create_customer({"name": "John Smith"})
    assert caught.value.may_have_acted
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("customer_id", IDS[:-2], ids=lambda text: text[:20])
def test_a_listed_customer_without_a_usable_id_is_noted_as_unreadable(requests_mock, client, customer_id):
    requests_mock.get(f"{BASE}/customers", text=f'{{"data": [{{"id": {customer_id}}}, {{"id": "x"}}]}}')
    page = client.list_page(1)
    assert [one["customer_id"] for one in page.customers] == ["x"]
    assert page.unreadable == (0,)


SHOWN = ["null", "7", "true", "1.5", "NaN", "1e999", "9" * 4000, "[]", '{"a": 1}', '"\\ud800"', '"a\\u0000b"',
         '"' + "e" + "\\u0301" * 90_000 + '"', '"' + "x" * 100_000 + '"', "[" * 900 + "]" * 900]  # fmt: skip


@pytest.mark.parametrize("value", SHOWN, ids=lambda text: text[:20])
def test_a_listed_customer_may_show_any_values(requests_mock, client, value):
    shown = ", ".join(f'"{name}": {value}' for name in (*FIELDS, "created_at", "card"))
    requests_mock.get(f"{BASE}/customers", text=f'{{"data": [{{"customer_id": "x", {shown}}}]}}')
    (customer,) = client.list_page(1).customers
    prints = fingerprints(SECRET, own_fields(customer))
    assert all(len(one) == 16 for one in prints.values())
    assert altered_fields({"name": "John Smith"}, customer) == {"name"}
    assert len(indexed(customer, SECRET).digest) == 32
    Candidates([], SECRET).add(customer)
    index = CustomerIndex(SECRET)
    index.add(customer)
    assert len(index) == 1
    assert created_between(customer) is None or len(created_between(customer) or ()) == 2


def test_what_is_no_text_equals_no_records_value():
    for value in ([], ["John Smith"], {"name": "John Smith"}, 10**100, float("nan"), "x" * 2000):
        assert clean({"name": shown_value(value)})[0] == {}
    assert shown_value(None) == shown_value("") == ""
    assert (shown_value(7), shown_value(" e\u0301 ")) == ("7", "é")
