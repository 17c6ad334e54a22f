"""Fingerprints: what a row keeps of the values that were sent."""

from __future__ import annotations

import pytest

from payarc_provider.sync.fingerprints import as_column, fingerprints, from_column, listed_fields, without_description

SECRET = "7f" * 16
SENT = {"name": "Zoë Ångström", "phone": "5417543010"}
LISTED = {
    "customer_id": "c1",
    "name": "Zoe\u0308 A\u030angstro\u0308m",
    "phone": "5417543010 ",
    "email": None,
    "city": "",
}


def test_a_listed_customer_has_the_fingerprints_of_what_was_sent():
    assert fingerprints(SECRET, listed_fields(LISTED)) == fingerprints(SECRET, SENT)


@pytest.mark.parametrize("more", [{"email": "j@example.com"}, {"phone": ""}, {"phone": None}, {"phone": "5417543011"}])
def test_a_listed_customer_with_another_field_or_value_has_other_fingerprints(more):
    assert fingerprints(SECRET, listed_fields(LISTED | more)) != fingerprints(SECRET, SENT)


def test_equal_values_have_different_fingerprints_in_other_fields_and_ledgers():
    prints = fingerprints(SECRET, {"name": "Same text", "description": "Same text"})
    assert len(set(prints.values())) == 2
    assert fingerprints("7e" * 16, {"name": "Same text"})["name"] not in prints.values()


def test_the_column_holds_every_field_and_fits():
    names = (
        "name email description send_email_address cc_email_address country address_1 address_2 city state zip phone"
    )
    prints = fingerprints(SECRET, dict.fromkeys(names.split(), "x"))
    assert len(as_column(prints)) <= 400
    assert from_column(as_column(prints)) == prints
    assert from_column(without_description(prints)) == {
        name: one for name, one in prints.items() if name != "description"
    }
    assert from_column("") == {}
