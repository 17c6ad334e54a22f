"""From a source's row to a record: its key, its fields, its digest."""

from __future__ import annotations

import datetime
import json
import uuid
from collections import Counter
from decimal import Decimal

import pytest

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.records import MAX_KEY, RecordReader, UnusableKey, key_text, share_of, shown

SECRET = "0" * 32
ID = uuid.UUID("2f5b6c1e-9d3a-4d5f-8a51-0f6d8f6f2b11")


def reader(key="id", fields=None, secret=SECRET):
    return RecordReader(key, fields, secret)


def through_json(value):
    """The value as XCom would hand it on."""
    return json.loads(json.dumps(value))


# ---- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((42, through_json(42), "42", Decimal("42"), Decimal("42.00"), Decimal("4.2E+1")), "42"),
        ((0, "0", Decimal("0"), Decimal("-0"), Decimal("0.000")), "0"),
        ((-7, "-7", Decimal("-7")), "-7"),
        ((9007199254740993, "9007199254740993", Decimal("9007199254740993")), "9007199254740993"),
        ((Decimal("1.5"), Decimal("1.50"), "1.5"), "1.5"),
        ((Decimal("1000000"), Decimal("1E+6"), 10**6), "1000000"),
        ((ID, str(ID), through_json(str(ID))), str(ID)),
        ((datetime.date(2026, 1, 2), "2026-01-02"), "2026-01-02"),
        ((datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"), "2026-01-02T03:04:05"),
    ],
)
def test_the_same_key_has_the_same_text_from_json_and_from_sql(values, text):
    assert {key_text(value) for value in values} == {text}


@pytest.mark.parametrize(
    "text", ["042", "42 ", " 42", "4 2", "A42", "a42", "ключ", "キー", "o'brien", 'a"b', "%s", "{{ 7*7 }}"]
)
def test_a_text_is_its_own_key_unchanged(text):
    assert key_text(text) == text


def test_numbers_that_differ_only_far_behind_the_point_have_different_keys():
    keys = [Decimal("12345678901234567890.12345678901"), Decimal("12345678901234567890.12345678902")]
    assert key_text(keys[0]) == "12345678901234567890.12345678901"
    assert key_text(keys[0]) != key_text(keys[1])


def test_one_instant_has_one_key_whatever_zone_the_database_session_shows_it_in():
    instant = datetime.datetime(2026, 1, 2, 12, 0, tzinfo=datetime.UTC)
    elsewhere = instant.astimezone(datetime.timezone(datetime.timedelta(hours=5)))
    assert key_text(instant) == key_text(elsewhere)


@pytest.mark.parametrize(
    ("value", "because"),
    [
        (None, "missing"),
        ("", "empty"),
        (" \t", "empty"),
        (1.0, "floating-point"),
        (42.0, "floating-point"),
        (float("nan"), "floating-point"),
        (True, "truth value"),
        (False, "truth value"),
        (b"42", "bytes"),
        pytest.param(memoryview(b"42"), "memoryview", id="memoryview"),
        (["42"], "list"),
        ({"id": 42}, "dict"),
        (Decimal("NaN"), "not a number"),
        (Decimal("Infinity"), "not a number"),
        ("k" * (MAX_KEY + 1), "256 characters"),
        (10**300, "301 characters"),
        (Decimal(10) ** 300, "301 characters"),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("\ud800", "Unicode"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_cannot_identify_a_record_is_no_key_and_the_text_says_what_to_do(value, because):
    with pytest.raises(UnusableKey, match=because) as caught:
        key_text(value)
    assert ":" in str(caught.value), "the remedy stands behind a colon"


def test_a_number_longer_than_python_writes_out_is_no_key():
    for value in (10**5000, Decimal(10) ** 5000, Decimal("1E+999999")):
        with pytest.raises(UnusableKey):
            key_text(value)


def test_255_characters_are_a_key_in_any_script():
    assert key_text("ж" * MAX_KEY) == "ж" * MAX_KEY
    assert key_text("𝒳" * MAX_KEY) == "𝒳" * MAX_KEY


@pytest.mark.parametrize(
    "row", [{"name": "John Smith"}, {"id": None, "name": "John Smith"}, {"id": 1.0, "name": "J S"}]
)
def test_a_record_without_a_usable_key_is_refused_under_the_key_columns_name(row):
    record = reader().read(3, row)
    assert (record.index, record.key, record.fields) == (3, None, {})
    assert list(record.errors) == ["id"]


def test_a_key_of_several_columns_tells_all_of_their_values_apart():
    rows = [("a", "b"), ("a,b", ""), ("a", "b,c"), ("a,b", "c"), ('a"', 'b"'), ("b", "a"), ("1", "11"), ("11", "1")]
    keys = {reader(["tenant", "id"]).read(0, {"tenant": a, "id": b, "name": "John Smith"}).key for a, b in rows}
    assert None in keys  # the empty one
    assert len(keys) == len(rows)


def test_a_key_of_several_columns_is_the_same_from_json_and_from_sql():
    from_sql = reader(["tenant", "id"]).read(0, {"tenant": ID, "id": Decimal("7"), "name": "John Smith"})
    from_json = reader(["tenant", "id"]).read(0, {"tenant": str(ID), "id": 7, "name": "John Smith"})
    assert from_sql.key == from_json.key == f'["{ID}","7"]'
    assert from_sql.digest == from_json.digest


def test_a_key_of_several_columns_lacking_one_is_refused_under_all_their_names():
    record = reader(["tenant", "id"]).read(0, {"tenant": "eu", "id": None, "name": "John Smith"})
    assert record.key is None
    assert list(record.errors) == ["tenant,id"]


def test_a_key_of_several_columns_that_is_too_long_together_is_refused():
    record = reader(["a", "b"]).read(0, {"a": "x" * 130, "b": "y" * 130, "name": "John Smith"})
    assert record.key is None
    assert "267 characters together" in record.errors["a,b"][0]


@pytest.mark.parametrize("key", [(), [], "", ["id", "id"], ["id", ""], [1]])
def test_a_key_argument_that_names_no_columns_is_refused(key):
    with pytest.raises(PayarcConfigError, match=r"^key: give"):
        reader(key)


def test_keys_that_look_like_emails_are_counted_and_never_shown():
    one = reader()
    for key in ("john@example.com", "42", "x john@example.com"):
        one.read(0, {"id": key, "name": "John Smith"})
    assert one.personal_keys == 2
    assert "example" not in shown("john@example.com")
    assert shown("42") == "42"
    assert shown(None) == "(no key)"


# ---- fields --------------------------------------------------------------------------------------------------------


def test_columns_that_bear_payarcs_names_are_sent_and_no_others():
    record = reader().read(0, {"id": 1, "name": " John Smith ", "email": None, "phone": 5417543010, "shoe_size": 44})
    assert record.fields == {"name": "John Smith", "phone": "5417543010"}
    assert record.names == "name,phone"
    assert record.errors == {}


def test_a_mapping_sends_its_columns_and_nothing_else():
    record = reader(fields={"name": "full name", "description": "order"}).read(
        0,
        {"id": 1, "full name": "John Smith", "order": "Donut shop", "name": "Somebody Else", "email": "j@example.com"},
    )
    assert record.fields == {"name": "John Smith", "description": "Donut shop"}


def test_one_column_may_feed_two_fields_and_the_key():
    record = reader("mail", {"email": "mail", "send_email_address": "mail"}).read(0, {"mail": "j@example.com"})
    assert record.key == "j@example.com"
    assert record.fields == {"email": "j@example.com", "send_email_address": "j@example.com"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"emial": "mail"}, 'no customer field "emial"; did you mean "email"?'),
        ({"xyzzy": "size"}, "PayArc's fields are name, email"),
        ({"email": ""}, 'the column for "email"'),
        ({"email": 3}, 'the column for "email"'),
        ({}, "give a mapping"),
        ([("email", "mail")], "give a mapping"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused_by_name(fields, says):
    with pytest.raises(PayarcConfigError) as caught:
        reader(fields=fields)
    assert str(caught.value).startswith("fields: ")
    assert says in str(caught.value)


def test_a_column_that_resembles_a_payarc_field_is_noted_unless_the_field_is_there_or_mapped():
    noting = reader()
    noting.read(0, {"id": 1, "e_mail": "j@example.com", "name": "John Smith"})
    assert noting.unsent_lookalikes == {"e_mail": "email"}
    for quiet, row in (
        (reader(), {"id": 1, "e_mail": "j@example.com", "email": "j@example.com"}),
        (reader(fields={"email": "e_mail"}), {"id": 1, "e_mail": "j@example.com"}),
        (reader("names"), {"names": 1, "name": "John Smith"}),
    ):
        quiet.read(0, row)
        assert quiet.unsent_lookalikes == {}


@pytest.mark.parametrize("row", ["text", 7, None, ["id", 1], ("id", 1)])
def test_a_row_that_is_no_mapping_is_refused_and_keeps_its_place(row):
    record = reader().read(5, row)
    assert (record.index, record.key) == (5, None)
    assert "mapping" in record.errors["record"][0]


@pytest.mark.parametrize("row", [{"id": 1}, {"id": 1, "name": None, "email": "  "}, {"id": 1, "other": "x"}])
def test_a_record_without_any_value_is_refused_since_an_empty_customer_helps_nobody(row):
    assert "no value" in reader().read(0, row).errors["record"][0]


def test_a_record_is_refused_whole_with_a_reason_per_field():
    record = reader().read(0, {"id": 1, "name": "Jo", "phone": "12345678901234", "email": "ok@example.com"})
    assert set(record.errors) == {"name", "phone"}
    assert record.fields == {}
    assert record.key == "1"


def test_no_reason_quotes_a_value():
    values = {
        "name": "Zq",
        "phone": "98765432109876",
        "email": "z" * 50 + "@example.com",
        "zip": "ABCDE",
        "country": "Q",
    }
    record = reader().read(0, {"id": 1, **values})
    texts = json.dumps(record.errors)
    assert set(record.errors) == set(values)
    assert not [value for name, value in values.items() if name != "country" and value in texts]


# ---- digests -------------------------------------------------------------------------------------------------------


def digest(row, **options):
    return reader(**options).read(0, {"id": 1, **row}).digest


def test_the_digest_is_of_what_is_sent_and_not_of_how_it_was_written():
    same = [
        {"name": "John Smith", "phone": "5417543010"},
        {"phone": 5417543010, "name": " John Smith "},
        {"name": "John Smith", "phone": "541-754-3010", "email": None, "city": ""},
        {"name": "John Smith", "phone": Decimal("5417543010"), "unsent": "x"},
    ]
    assert len({digest(row) for row in same}) == 1
    assert digest({"n": "John Smith", "p": "5417543010"}, fields={"name": "n", "phone": "p"}) == digest(same[0])


def test_the_digest_tells_values_and_fields_apart():
    different = [
        {"name": "John Smith"},
        {"name": "John Smyth"},
        {"city": "John Smith"},
        {"name": "John Smith", "city": "Boston"},
        {"name": "John", "city": "Smith"},
        {"name": "Smith", "city": "John"},
    ]
    assert len({digest(row) for row in different}) == len(different)


def test_the_digest_of_a_refused_record_changes_with_its_data_and_only_then():
    assert digest({"name": "Jo"}) == digest({"name": "Jo", "unsent": 1})
    assert digest({"name": "Jo"}) != digest({"name": "Ed"})


def test_the_digest_cannot_be_made_without_the_ledgers_own_secret():
    assert digest({"name": "John Smith"}) != digest({"name": "John Smith"}, secret="1" * 32)
    assert len(digest({"name": "John Smith"})) == 32


def test_a_listed_customer_has_the_digest_of_what_was_sent_for_it():
    one = reader()
    sent = one.read(0, {"id": 1, "name": "Zoë Ångström", "phone": "5417543010"})
    listed = {
        "customer_id": "c1",
        "name": "Zoe\u0308 A\u030angstro\u0308m",
        "phone": "5417543010 ",
        "email": None,
        "city": "",
    }
    assert one.digest_of_customer(listed, sent.names) == sent.digest


@pytest.mark.parametrize("more", [{"email": "j@example.com"}, {"phone": ""}, {"phone": None}, {"phone": "5417543011"}])
def test_a_listed_customer_with_another_field_or_value_has_another_digest_or_none(more):
    one = reader()
    sent = one.read(0, {"id": 1, "name": "John Smith", "phone": "5417543010"})
    listed = {"name": "John Smith", "phone": "5417543010", "source_id": None, **more}
    assert one.digest_of_customer(listed, sent.names) != sent.digest


# ---- shares --------------------------------------------------------------------------------------------------------


def test_a_key_belongs_to_the_same_share_for_ever():
    """Workers of different versions may share a table, so that these numbers must not change."""
    assert [share_of(key, 4) for key in ("1", "2", "3", "42", "é", '["north","1"]')] == [2, 0, 1, 2, 3, 3]
    assert share_of(None, 4) == 0


def test_shares_are_about_equal():
    counts = Counter(share_of(str(number), 4) for number in range(10_000))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 2_300
