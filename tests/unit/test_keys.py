"""Keys: the same text from JSON and SQL, and values that cannot be keys."""

from __future__ import annotations

import datetime
import json
import uuid
from collections import Counter
from decimal import Decimal

import pytest

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.keys import (
    MAX_KEY,
    UnusableKey,
    check_key,
    composite_key_text,
    display_key,
    key_text,
    looks_like_email,
    partition_of,
)

ID = uuid.UUID("2f5b6c1e-9d3a-4d5f-8a51-0f6d8f6f2b11")


def through_json(value):
    """The value as XCom would pass it on."""
    return json.loads(json.dumps(value))


# ---- text ----------------------------------------------------------------------------------------------------------


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
def test_text_is_its_own_key(text):
    assert key_text(text) == text


def test_numbers_that_differ_in_the_eleventh_decimal_have_different_keys():
    keys = [Decimal("12345678901234567890.12345678901"), Decimal("12345678901234567890.12345678902")]
    assert key_text(keys[0]) == "12345678901234567890.12345678901"
    assert key_text(keys[0]) != key_text(keys[1])


def test_one_instant_has_the_same_key_in_every_time_zone():
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
        (True, "boolean"),
        (False, "boolean"),
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
def test_a_value_that_cannot_identify_a_record_is_unusable_and_the_message_gives_a_remedy(value, because):
    with pytest.raises(UnusableKey, match=because) as caught:
        key_text(value)
    assert ":" in str(caught.value), "the remedy follows a colon"


def test_a_number_that_python_does_not_convert_to_text_is_unusable():
    for value in (10**5000, Decimal(10) ** 5000, Decimal("1E+999999")):
        with pytest.raises(UnusableKey):
            key_text(value)


def test_a_key_may_have_255_characters_of_any_script():
    assert key_text("ж" * MAX_KEY) == "ж" * MAX_KEY
    assert key_text("𝒳" * MAX_KEY) == "𝒳" * MAX_KEY


# ---- several columns -----------------------------------------------------------------------------------------------


def test_a_composite_key_distinguishes_all_values():
    rows = [("a", "b"), ("a,b", "x"), ("a", "b,c"), ("a,b", "c"), ('a"', 'b"'), ("b", "a"), ("1", "11"), ("11", "1")]
    assert len({composite_key_text(row) for row in rows}) == len(rows)


def test_a_composite_key_is_the_same_from_json_and_from_sql():
    assert composite_key_text([ID, Decimal("7")]) == composite_key_text([str(ID), 7]) == f'["{ID}","7"]'


def test_a_composite_key_needs_all_of_its_values():
    with pytest.raises(UnusableKey, match="missing"):
        composite_key_text(["eu", None])


def test_a_composite_key_has_at_most_255_characters_together():
    assert len(composite_key_text(["x" * 125, "y" * 123])) == MAX_KEY
    with pytest.raises(UnusableKey, match="267 characters together"):
        composite_key_text(["x" * 130, "y" * 130])


# ---- display -------------------------------------------------------------------------------------------------------


def test_a_key_that_looks_like_an_email_is_never_displayed():
    assert looks_like_email("x john@example.com")
    assert "example" not in display_key("john@example.com")
    assert display_key("42") == "42"
    assert display_key(None) == "(no key)"


# ---- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [(), [], "", ["id", "id"], ["id", ""], [1]])
def test_a_key_argument_that_names_no_columns_is_rejected(key):
    with pytest.raises(PayarcConfigError, match=r"^key: give"):
        check_key(key)


# ---- partitions ----------------------------------------------------------------------------------------------------


def test_the_partition_of_a_key_never_changes():
    """Workers of different versions may split a table, so these numbers must stay the same."""
    assert [partition_of(key, 4) for key in ("1", "2", "3", "42", "é", '["north","1"]')] == [2, 0, 1, 2, 3, 3]
    assert partition_of(None, 4) == 0


def test_partitions_are_about_equal():
    counts = Counter(partition_of(str(number), 4) for number in range(10_000))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 2_300
