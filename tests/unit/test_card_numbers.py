"""Card numbers in a record: rejected with the reason, and never shown."""

from __future__ import annotations

import pytest

from payarc_provider.api.card_numbers import has_card_number, is_card_number
from payarc_provider.api.fields import clean
from payarc_provider.sync.records import RecordReader

NUMBERS = {
    "Visa": ["4111111111111111", "4222222222222", "4000000000000000006"],
    "Mastercard": ["5555555555554444", "5105105105105100", "2223003122003222", "2720994326581252"],
    "American Express": ["378282246310005", "341111111111111"],
    "Discover": ["6011111111111117", "6445644564456445", "6500000000000002"],
    "JCB": ["3530111333300000", "3566002020360505"],
    "Diners Club": ["30569309025904", "36227206271667", "38520000023237"],
    "UnionPay": ["6200000000000005", "6212345678901232", "8171999927660000"],
    "Maestro": ["6759649826438453", "6799990100000000019", "5018000000000009"],
    "Mir": ["2200123456789019"],
}
ALL = [number for numbers in NUMBERS.values() for number in numbers]
WRITTEN = [
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111.1111.1111.1111",
    "4111 - 1111 1111 1111",
    "4111/1111/1111/1111",
    "4111, 1111, 1111, 1111",
    "41 11 11 11 11 11 11 11",
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
    "4111\u00a01111\u20111111\u20131111",
    "41111\u200b11111\u200b111111",
    "４１１１１１１１１１１１１１１１",
    "Visa 4111111111111111, 12/29",
    "4111 1111 1111 1111 1229 123",
    "1229 4111 1111 1111 1111",
    "Ann4111111111111111",
    "4111111111111111@example.com",
    "(4111111111111111)",
    "3782-822463-10005",
]
HARMLESS = [
    "John Smith", "103 Mason Street", "Donut shop customer 5d7gk7q2m9x4c1pz", "+1 (541) 754-3010", "10469-2345",
    "4111111111111112", "1766000000000", "9007199254740993", "2026-01-02 2026-01-03", "order 1234567890123452",
    "541-754-3010, 541-754-3011", "41111111111111111111", "4111 1111 1111", "",
]  # fmt: skip


@pytest.mark.parametrize("number", ALL)
def test_the_numbers_of_every_network_are_recognized_by_beginning_length_and_check_digit(number):
    assert is_card_number(number)
    assert has_card_number(f"card: {number}.")
    assert not is_card_number(number[:-1] + str((int(number[-1]) + 1) % 10)), "check digit"
    assert not is_card_number(number + "0" * 7), "length"
    assert not is_card_number("9" + number[1:]), "network"


@pytest.mark.parametrize("text", WRITTEN)
@pytest.mark.parametrize("field", ["name", "email", "zip", "phone", "description"])
@pytest.mark.parametrize("validation", ["guide", "payarc"])
def test_a_card_number_in_any_field_is_rejected_with_the_reason_and_not_shown(field, text, validation):
    sent, errors = clean({field: text}, validation)
    assert sent == {}
    (reason,) = errors[field]
    assert reason.startswith("contains what looks like a card number, ")
    assert reason.endswith(": remove it at the source")
    assert not any(part in reason for part in ("4111", "1111", "3782"))


@pytest.mark.parametrize("text", HARMLESS)
def test_other_numbers_are_no_card_numbers(text):
    assert not has_card_number(text)


def test_a_card_number_in_a_numeric_column_is_rejected_too():
    for value in (4111111111111111, 4111111111111111.0):
        for field in ("name", "phone", "zip", "description"):
            sent, errors = clean({field: value})
            assert sent == {}
            assert "4111" not in str(errors)


@pytest.mark.parametrize("key", ["4111111111111111", 4111111111111111, "4111 1111 1111 1111"])
def test_a_card_number_as_key_is_rejected_and_neither_stored_nor_shown(key):
    record = RecordReader("id", None, "0" * 32).read(0, {"id": key, "name": "John Smith"})
    assert record.key is None
    assert record.errors["id"][0].startswith("looks like a card number, and keys are stored: ")
    assert "4111" not in f"{record.errors}{record.digest}"


def test_the_search_takes_linear_time():
    assert not has_card_number("1 " * 500)
    assert not has_card_number("9" * 1000)
    assert not has_card_number("12345678901234567890-" * 50)
