"""The rules for a record's fields, and the errors of values that break them."""

from __future__ import annotations

import random
from datetime import date
from decimal import Decimal

import pytest

from payarc_provider.api import fields
from payarc_provider.api.fields import FIELDS, clean

GUIDE = {
    "name": "John Smith",
    "email": "customer@xyz.com",
    "description": "Donut shop customer",
    "send_email_address": "invoicing@xyz.com",
    "cc_email_address": "cc@xyz.com",
    "country": "US",
    "address_1": "103 Mason Street",
    "address_2": "2nd Floor",
    "city": "New York",
    "state": "NY",
    "zip": "10469-2345",
    "phone": "541754301",
}


def fault(name: str, value: object) -> str:
    sent, errors = clean({name: value})
    assert sent == {}
    assert list(errors) == [name]
    return " ".join(errors[name])


def test_the_guides_own_example_goes_through_unchanged_and_in_order():
    sent, errors = clean(GUIDE)
    assert list(sent.items()) == list(GUIDE.items())
    assert errors == {}
    assert set(GUIDE) == set(FIELDS)


@pytest.mark.parametrize(
    "name",
    [
        "Sinéad O'Connor", "Shaquille O’Neal", "Jean-Luc Picard", "José Müller", "Łukasz Żółć", "Smith & Sons, Inc.",
        "A/B #C", "李小龙", "Владимир", "नरेन्द्र", "محمد علي", "J. R. R.", "Ærøskøbing",
    ],
)  # fmt: skip
def test_names_as_people_write_them(name):
    assert clean({"name": name, "city": name}) == ({"name": name, "city": name}, {})


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("name", "  John Smith\n", "John Smith"),
        ("name", "Jose\u0301 Muller", "José Muller"),
        ("name", "e\u0301" * 50, "é" * 50),
        ("phone", "+1 (541) 754-3010", "15417543010"),
        ("phone", "541.754/301", "541754301"),
        ("phone", "06\u00a012\u202f34", "061234"),
        ("phone", 541754301, "541754301"),
        ("phone", 541754301.0, "541754301"),
        ("zip", 10469.0, "10469"),
        ("zip", Decimal("10469.00"), "10469"),
        ("zip", Decimal("1E+3"), "1000"),
        ("zip", " 10469-2345 ", "10469-2345"),
        ("description", Decimal("42.50"), "42.50"),
        ("description", 123456, "123456"),
        ("address_1", "Straße 5, 2. Stock – links", "Straße 5, 2. Stock – links"),
        ("description", "café ☕ 👩‍🍳", "café ☕ 👩‍🍳"),
        ("email", "x", "x"),
        ("email", "no-at-sign.example", "no-at-sign.example"),
    ],
)
def test_values_are_normalized_without_loss(field, value, text):
    assert clean({field: value}) == ({field: text}, {})


def test_text_of_a_subclass_becomes_plain_text():
    class Marked(str):
        def __str__(self) -> str:
            return "something else"

    sent, _ = clean({"name": Marked("John Smith")})
    assert sent == {"name": "John Smith"}
    assert type(sent["name"]) is str


@pytest.mark.parametrize("value", [None, "", "  ", "\t\n", "\u00a0"])
@pytest.mark.parametrize("field", ["name", "phone", "zip", "email", "description"])
def test_empty_values_are_left_out(field, value):
    assert clean({field: value}) == ({}, {})


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("country", "U", "must have at least 2 characters (it has 1): fix it at the source"),
        ("name", "Al", "must have at least 3 characters (it has 2): fix it at the source"),
        ("name", "a" * 51, "must have at most 50 characters (it has 51): fix it at the source"),
        ("address_1", "1 St", "must have at least 5 characters (it has 4): fix it at the source"),
        ("description", "d" * 51, "must have at most 50 characters (it has 51): fix it at the source"),
        ("email", "a" * 38 + "@xyz.example", "must have at most 40 characters (it has 50): fix it at the source"),
        ("send_email_address", "a@b", "must have at least 5 characters (it has 3): fix it at the source"),
        ("cc_email_address", "c" * 41, "must have at most 40 characters (it has 41): fix it at the source"),
        ("zip", "10469-23456", "must have at most 10 characters (it has 11): fix it at the source"),
        ("phone", "+49 (151) 1234-56789", "must have at most 11 digits (it has 14): fix it at the source"),
        ("phone", "5", "must have at least 2 digits (it has 1): fix it at the source"),
        ("phone", "---", "must have at least 2 digits (it has 0): fix it at the source"),
    ],
)
def test_a_wrong_length_names_limit_length_and_remedy(field, value, text):
    assert fault(field, value) == text


@pytest.mark.parametrize(
    ("field", "least", "most", "char"),
    [
        ("name", 3, 50, "a"), ("email", 1, 40, "@"), ("description", 5, 50, "d"), ("send_email_address", 5, 40, "@"),
        ("cc_email_address", 5, 40, "@"), ("country", 2, 50, "U"), ("address_1", 5, 50, "1"), ("address_2", 5, 50, "2"),
        ("city", 2, 50, "c"), ("state", 2, 50, "s"), ("zip", 1, 10, "9"), ("phone", 2, 11, "5"),
    ],
)  # fmt: skip
def test_lengths_are_the_guides(field, least, most, char):
    assert [n for n in range(1, 60) if clean({field: char * n})[0]] == list(range(least, most + 1))


def test_a_phone_with_letters_has_one_fault():
    assert len(clean({"phone": "call 555 123 456 7890 ask for x12"})[1]["phone"]) == 1


def test_zero_is_a_value():
    assert clean({"zip": 0, "phone": Decimal("0.0")}) == (
        {"zip": "0"},
        {"phone": ["must have at least 2 digits (it has 1): fix it at the source"]},
    )


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("zip", "ABCDE", '(it has the letter "A")'),
        ("zip", "10469 2345", "must contain only digits and hyphens (it has white space)"),
        ("zip", "١٠٤٦٩", '(it has the digit "١")'),
        ("zip", "10469–2345", '(it has the character "–")'),
        ("phone", "541 754 301 x12", '(it has the letter "x")'),
        ("phone", "541*754", '(it has the character "*")'),
        ("email", "two words@xyz.com", "must not contain white space: fix"),
        ("zip", "A", "must contain only digits and hyphens (it has a letter)"),
    ],
)
def test_an_invalid_character_is_named(field, value, words):
    text = fault(field, value)
    assert words in text
    assert text.count("fix it at the source") >= 1


def test_every_fault_of_a_value_is_reported():
    _, errors = clean({"zip": "1" * 60 + "A"})
    assert len(errors["zip"]) == 2


@pytest.mark.parametrize("field", ["name", "city", "state", "country", "address_1"])
def test_any_characters_are_allowed_in_a_name(field):
    assert clean({field: "{{ 7*7 }} 3rd $"}) == ({field: "{{ 7*7 }} 3rd $"}, {})


@pytest.mark.parametrize("field", list(FIELDS))
@pytest.mark.parametrize("char", ["\n", "\t", "\x00", "\x7f", "\x85", "\u2028", "\ud83d"])
def test_unsendable_characters_are_rejected_in_every_field(field, char):
    assert f"U+{ord(char):04X}" in fault(field, f"1234{char}5678")


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("name", True, "has the type bool: it must be text"),
        ("zip", False, "has the type bool: it must be text"),
        ("name", b"John Smith", "has the type bytes: it must be text"),
        ("description", date(2024, 1, 1), "has the type date: it must be text"),
        ("description", 42.0, "has the type float: it must be text"),
        ("zip", 10469.5, "has the type float: it must be text"),
        ("phone", float("inf"), "has the type float: it must be text"),
        ("phone", float("nan"), "is NaN, which is pandas' missing value: use None or leave the field out"),
        ("name", ["John"], "has the type list: it must be text"),
        ("phone", Decimal("5417543.5"), "is negative or has decimals: it must be text or a whole number"),
        ("zip", -10469, "is negative or has decimals: it must be text or a whole number"),
        ("zip", Decimal("NaN"), "is not a number of at most 60 digits: fix it at the source"),
        ("description", Decimal("1E+999999999"), "is not a number of at most 60 digits: fix it at the source"),
        ("description", Decimal("1E-999999999"), "is not a number of at most 60 digits: fix it at the source"),
        (
            "phone",
            "541754301.0",
            'ends in ".0", like a float converted to text: read the phone as text at the source',
        ),
    ],
)
def test_other_types_than_text_are_rejected_with_a_remedy(field, value, text):
    assert fault(field, value) == text


def test_a_number_too_long_to_write_out_is_rejected():
    assert fault("description", 10**5000) == "is not a number of at most 60 digits: fix it at the source"


def test_no_fault_shows_the_value():
    values = {
        "name": "S1", "email": "secret one@x.com", "description": "secret\x00secret", "country": "S",
        "zip": "secretzip", "phone": "541-SECRET", "city": "7", "state": "7", "address_1": "s3cr",
    }  # fmt: skip
    sent, errors = clean(values)
    assert sent == {}
    for name, texts in errors.items():
        assert values[name] not in " ".join(texts).replace("at least 2", "").replace("at most", "")


def test_the_valid_fields_of_an_invalid_record_are_returned():
    sent, errors = clean({"name": "Al", "city": "New York"})
    assert (sent, list(errors)) == ({"city": "New York"}, ["name"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("emial", 'unknown field "emial": did you mean "email"?'),
        ("Phone", 'unknown field "Phone": did you mean "phone"?'),
        ("address1", 'unknown field "address1": did you mean "address_1"?'),
        ("favourite", f'unknown field "favourite": choose from {", ".join(FIELDS)}'),
    ],
)
def test_an_unknown_field_is_rejected_even_without_a_value(name, text):
    assert clean({name: None, "city": "New York"}) == ({"city": "New York"}, {name: [text]})


def test_a_field_name_must_be_text():
    assert clean({7: "x"}) == ({}, {"record": ["a field name has the type int: it must be text"]})  # type: ignore[dict-item]


def test_the_fast_path_decides_like_the_slow_path(monkeypatch):
    rng = random.Random(7)
    alphabet = "ab Z09'-._@,&/#$~é٣\u0301\n\u00a0x"
    samples = [
        "".join(rng.choices(alphabet, k=rng.choice([0, 1, 2, 3, 4, 5, 10, 11, 12, 40, 41, 50, 51])))
        for _ in range(1500)
    ]
    samples += ["".join(rng.choices("0123456789-", k=n)) for n in range(14) for _ in range(5)]
    samples += ["".join(rng.choices("abcdef", k=n)) for n in range(1, 54)]
    short = [clean({name: value}) for name in FIELDS for value in samples]
    accepted = sum(bool(sent) for sent, _ in short)
    monkeypatch.setattr(fields, "_READY", {name: lambda value: None for name in FIELDS})
    assert [clean({name: value}) for name in FIELDS for value in samples] == short
    assert 500 < accepted < len(short) - 500
