"""From a row to a record: its key, its fields, its digest."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal

import pytest

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.records import Record, RecordReader

SECRET = "0" * 32
ID = uuid.UUID("2f5b6c1e-9d3a-4d5f-8a51-0f6d8f6f2b11")


def reader(key="id", fields=None, secret=SECRET):
    return RecordReader(key, fields, secret)


# ---- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", [{"name": "John Smith"}, {"id": None, "name": "John Smith"}, {"id": 1.0, "name": "J S"}]
)
def test_a_record_without_a_usable_key_is_rejected_with_an_error_for_the_key_column(row):
    record = reader().read(3, row)
    assert (record.index, record.key, record.fields) == (3, None, {})
    assert list(record.errors) == ["id"]


def test_a_composite_key_is_the_same_from_json_and_from_sql():
    from_sql = reader(["tenant", "id"]).read(0, {"tenant": ID, "id": Decimal("7"), "name": "John Smith"})
    from_json = reader(["tenant", "id"]).read(0, {"tenant": str(ID), "id": 7, "name": "John Smith"})
    assert from_sql.key == from_json.key == f'["{ID}","7"]'
    assert from_sql.digest == from_json.digest


def test_a_composite_key_that_lacks_a_value_is_rejected_with_an_error_for_all_key_columns():
    record = reader(["tenant", "id"]).read(0, {"tenant": "eu", "id": None, "name": "John Smith"})
    assert record.key is None
    assert list(record.errors) == ["tenant,id"]


def test_keys_that_look_like_personal_data_are_counted_by_kind():
    one = reader()
    for key in ("john@example.com", "42", "x john@example.com", "+1 541 754 3010", "123-45-6789", "2026-01-02"):
        one.read(0, {"id": key, "name": "John Smith"})
    assert one.personal_keys == {"email address": 2, "phone number": 1, "social security number": 1}


# ---- fields --------------------------------------------------------------------------------------------------------


def test_only_columns_named_like_payarc_fields_are_sent():
    record = reader().read(0, {"id": 1, "name": " John Smith ", "email": None, "phone": 5417543010, "shoe_size": 44})
    assert record.fields == {"name": "John Smith", "phone": "5417543010"}
    assert record.errors == {}


def test_with_a_mapping_only_mapped_columns_are_sent():
    record = reader(fields={"name": "full name", "description": "order"}).read(
        0,
        {"id": 1, "full name": "John Smith", "order": "Donut shop", "name": "Somebody Else", "email": "j@example.com"},
    )
    assert record.fields == {"name": "John Smith", "description": "Donut shop"}


def test_one_column_may_be_the_key_and_two_fields():
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
def test_a_wrong_mapping_is_rejected_and_names_what_is_wrong(fields, says):
    with pytest.raises(PayarcConfigError) as caught:
        reader(fields=fields)
    assert str(caught.value).startswith("fields: ")
    assert says in str(caught.value)


def test_a_column_that_resembles_a_payarc_field_is_reported_unless_the_field_is_present_or_mapped():
    warning = reader()
    warning.read(0, {"id": 1, "e_mail": "j@example.com", "name": "John Smith"})
    assert warning.lookalike_columns == {"e_mail": "email"}
    for silent, row in (
        (reader(), {"id": 1, "e_mail": "j@example.com", "email": "j@example.com"}),
        (reader(fields={"email": "e_mail"}), {"id": 1, "e_mail": "j@example.com"}),
        (reader("names"), {"names": 1, "name": "John Smith"}),
    ):
        silent.read(0, row)
        assert silent.lookalike_columns == {}


@pytest.mark.parametrize("row", ["text", 7, None, ["id", 1], ("id", 1)])
def test_a_row_that_is_not_a_mapping_is_rejected_and_keeps_its_index(row):
    record = reader().read(5, row)
    assert (record.index, record.key) == (5, None)
    assert "mapping" in record.errors["record"][0]


@pytest.mark.parametrize("row", [{"id": 1}, {"id": 1, "name": None, "email": "  "}, {"id": 1, "other": "x"}])
def test_a_record_without_any_value_is_rejected(row):
    assert "no value" in reader().read(0, row).errors["record"][0]


def test_a_record_with_several_bad_fields_is_rejected_with_a_reason_for_each():
    record = reader().read(0, {"id": 1, "name": "Jo", "phone": "12345678901234", "email": "ok@example.com"})
    assert set(record.errors) == {"name", "phone"}
    assert record.fields == {}
    assert record.key == "1"


def test_no_reason_contains_a_value():
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


def test_the_repr_of_a_record_shows_no_values():
    record = reader().read(0, {"id": "key7", "name": "John Smith"})
    assert isinstance(record, Record)
    assert "John" not in repr(record)
    assert "key7" not in repr(record)


# ---- digests -------------------------------------------------------------------------------------------------------


def digest(row, **options):
    return reader(**options).read(0, {"id": 1, **row}).digest


def test_the_digest_depends_on_what_is_sent_and_not_on_how_it_was_written():
    same = [
        {"name": "John Smith", "phone": "5417543010"},
        {"phone": 5417543010, "name": " John Smith "},
        {"name": "John Smith", "phone": "541-754-3010", "email": None, "city": ""},
        {"name": "John Smith", "phone": Decimal("5417543010"), "unsent": "x"},
    ]
    assert len({digest(row) for row in same}) == 1
    assert digest({"n": "John Smith", "p": "5417543010"}, fields={"name": "n", "phone": "p"}) == digest(same[0])


def test_different_values_or_fields_have_different_digests():
    different = [
        {"name": "John Smith"},
        {"name": "John Smyth"},
        {"city": "John Smith"},
        {"name": "John Smith", "city": "Boston"},
        {"name": "John", "city": "Smith"},
        {"name": "Smith", "city": "John"},
    ]
    assert len({digest(row) for row in different}) == len(different)


def test_the_digest_of_a_rejected_record_changes_only_with_its_data():
    assert digest({"name": "Jo"}) == digest({"name": "Jo", "unsent": 1})
    assert digest({"name": "Jo"}) != digest({"name": "Ed"})


def test_the_digest_depends_on_the_ledgers_secret():
    assert digest({"name": "John Smith"}) != digest({"name": "John Smith"}, secret="1" * 32)
    assert len(digest({"name": "John Smith"})) == 32
