"""Keys: the same text from JSON and SQL, and values that cannot be keys."""

from __future__ import annotations

import datetime
import enum
import inspect
import json
import random
import re
import uuid
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy
import pandas
import pytest

from payarc_provider.api.card_numbers import is_card_number
from payarc_provider.api.fields import clean
from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync import keys
from payarc_provider.sync.keys import (
    KEY_TYPES,
    MAX_KEY,
    UnusableKey,
    check_key,
    composite_key_text,
    display_key,
    key_text,
    natural_order,
    partition_of,
    personal_data_in,
)

ID = uuid.UUID("2f5b6c1e-9d3a-4d5f-8a51-0f6d8f6f2b11")


def through_json(value):
    """The value as XCom would pass it on."""
    return json.loads(json.dumps(value))


# ---- text ----------------------------------------------------------------------------------------------------------


ROW = re.compile(r"^\| (.+?) \| (`.+`) \| (.+?) \|$", re.MULTILINE)
VALUES = {
    **vars(datetime),
    "Decimal": Decimal,
    "UUID": uuid.UUID,
    "numpy": numpy,
    "pandas": pandas,
}


def documented(heading):
    """The rows of the table under a heading of the documentation: (what it is, its examples, the last column)."""
    page = (Path(__file__).parents[2] / "docs" / "keys.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [(kind, re.findall("`([^`]+)`", examples), last) for kind, examples, last in ROW.findall(section)]
    assert len(rows) == section.count("\n| ") - 1
    return rows


def text_of(example):
    value = eval(example, dict(VALUES))
    return composite_key_text(value) if isinstance(value, list) and len(value) > 1 else key_text(value)


@pytest.mark.parametrize(("kind", "examples", "text"), documented("Supported types"))
def test_a_documented_type_of_key_gives_the_documented_text(kind, examples, text):
    assert [text_of(example) for example in examples] == [text.strip("`")]


@pytest.mark.parametrize(("kind", "examples", "reason"), documented("Rejected keys"))
def test_what_the_documentation_says_cannot_be_a_key_is_unusable_for_the_documented_reason(kind, examples, reason):
    for example in examples:
        with pytest.raises(UnusableKey, match=rf"^{reason}\b.*: "):
            text_of(example)


def test_the_documentation_has_every_type_and_every_reason():
    shown = [eval(example, dict(VALUES)) for _, examples, _ in documented("Supported types") for example in examples]
    assert {kind for kind in KEY_TYPES if not any(isinstance(value, kind) for value in shown)} == set()
    reasons = [reason for _, _, reason in documented("Rejected keys")]
    in_code = re.findall(r'UnusableKey\(\s*f?"([^"]+)"', inspect.getsource(keys))
    assert len(in_code) >= len(set(reasons)) > 10
    for text in in_code:
        pattern = re.sub(r"\{.*?\}", ".*", re.split(r"[:,]| \(", text)[0]).removesuffix(" .*")
        assert any(re.match(pattern, reason) for reason in reasons), text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((42, through_json(42), "42", Decimal("42"), Decimal("42.00"), Decimal("4.2E+1"), "42 ", "42".ljust(10)), "42"),
        ((numpy.int64(42), numpy.uint8(42), numpy.str_("42"), pandas.Series([42])[0], 42), "42"),
        ((1, enum.IntEnum("Number", "ONE").ONE, enum.StrEnum("Text", {"ONE": "1"}).ONE), "1"),
        ((pandas.Timestamp(2026, 1, 2), datetime.datetime(2026, 1, 2), "2026-01-02T00:00:00"), "2026-01-02T00:00:00"),
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
    "text",
    ["042", " 42", "null value", "nano", "4 2", "A42", "a42", "ключ", "キー", "o'brien", 'a"b', "%s", "{{ 7*7 }}"],
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
        (float("nan"), "missing"),
        (True, "boolean"),
        (False, "boolean"),
        (b"42", "bytes"),
        pytest.param(memoryview(b"42"), "memoryview", id="memoryview"),
        (["42"], "list"),
        ({"id": 42}, "dict"),
        (Decimal("NaN"), "not a number"),
        (Decimal("Infinity"), "not a number"),
        ("k" * (MAX_KEY + 1), "(it has 256)"),
        (10**300, "(it has 301)"),
        (Decimal(10) ** 300, "(it has 301)"),
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


CARDS = ["4111111111111111", "5555-5555-5555-4444", "2223 0031 2200 3222", "378282246310005", "3782 822463 10005"]
CARDS += ["6011111111111117", "3566002020360505", "30569309025904", "3056 930902 5904"]
CARDS += ["41111111-11111111", "north 4111 1111 1111 1111", "card_4111111111111111", "4111–1111–1111–1111"]
CARDS += ["٤١١١١١١١١١١١١١١١", "6200000000000005", "6759649826438453", "4000000000000000006"]
NO_CARDS = ["4111111111111112", "9007199254740993", "1766000000000", "1766000000000000", "1234567890123452", "4242"]
NO_CARDS += ["1867123456789012345", "4222222222222", "x4111111111111111", "4111111111111111b", "41111111111111111"]
NO_CARDS += ["4111-1111-111", "a4111111-1111-1111"]


@pytest.mark.parametrize("number", CARDS)
def test_a_card_number_is_no_key(number):
    values = [number, Decimal(number), int(number)] if number.isdecimal() else [number]
    for value in values:
        with pytest.raises(UnusableKey, match=r"^looks like a card number") as caught:
            key_text(value)
        assert number not in str(caught.value)
    with pytest.raises(UnusableKey):
        composite_key_text(["north", number])


@pytest.mark.parametrize("number", NO_CARDS)
def test_numbers_that_are_no_card_numbers_are_keys(number):
    assert key_text(number) == number


def test_a_missing_value_of_a_data_frame_is_no_key():
    frame = pandas.DataFrame(
        {"day": pandas.to_datetime(["2026-01-02", None]), "number": pandas.array([1, None], "Int64")}
    )
    first, second = frame.to_dict("records")
    assert [key_text(value) for value in first.values()] == ["2026-01-02T00:00:00", "1"]
    as_text = frame.astype(str).to_dict("records")[1]
    for value in [*second.values(), *as_text.values(), frame["day"].to_numpy()[1]]:
        with pytest.raises(UnusableKey, match=r"^is (a )?missing"):
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
    with pytest.raises(UnusableKey, match=r"characters together \(it has 267\)"):
        composite_key_text(["x" * 130, "y" * 130])


# ---- display -------------------------------------------------------------------------------------------------------


PERSONAL = [
    ("john@example.com", "an email"), ("x john@example.com", "an email"), ("+15417543010", "a phone number"),
    ("+44 20 7946 0958", "a phone number"), ("(541) 754-3010", "a phone number"), ("541.754.3010", "a phone number"),
    ("1-541-754-3010", "a phone number"), ('["north","541-754-3010"]', "a phone number"),
    ("123-45-6789", "a social security number"), ('["north","123 45 6789"]', "a social security number"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "shown"), PERSONAL)
def test_a_key_that_looks_like_personal_data_is_never_displayed(key, shown):
    assert display_key(key) == f"(a key that looks like {shown})"
    assert key_text(key) == key, "it can be a key all the same"


@pytest.mark.parametrize(
    "key",
    [
        "5417543010", "123456789", "2026-01-02", "2026-01-02T03:04:05+00:00", str(ID), "1234-56-7890", "c-2b",
        "12-345-6789", "A-541-754-3010", "123-45-6789-1", "10.0.0.1", '["1","7"]', "-7", "1.5", "+4",
    ],
)  # fmt: skip
def test_ordinary_keys_look_like_no_personal_data(key):
    assert personal_data_in(key) is None
    assert display_key(key) == key


def test_uuids_are_never_taken_for_card_numbers():
    """One in some thousands has enough digits and a right check digit."""
    numbers = random.Random(1)
    for _ in range(200):
        digits = f"4{numbers.randrange(10**14):014d}"
        digits += next(str(last) for last in range(10) if is_card_number(digits + str(last)))
        text = f"{digits[:8]}-{digits[8:12]}-{digits[12:]}-8a51-0f6d8f6f2b11"
        assert key_text(text) == key_text(uuid.UUID(text)) == text
        assert clean({"description": text})[1] == {}


def test_characters_that_cannot_be_seen_are_escaped():
    assert display_key("ä 日本") == "ä 日本"
    assert display_key("a\u202etxt\u200b\x85") == r"a\u202etxt\u200b\x85"
    assert display_key("42\ufe0f\u3164\u2800\u115f") == r"42\ufe0f\u3164\u2800\u115f"
    assert display_key("a\n[2026-01-01] INFO\x1b[2K\r") == r"a\n[2026-01-01] INFO\x1b[2K\r"
    assert display_key("\u2066a\u2069\ufeff\U000e0041") == r"\u2066a\u2069\ufeff\U000e0041"
    assert display_key("42") == "42"
    assert display_key(None) == "(no key)"


def test_natural_order_compares_numbers_as_numbers():
    keys = ["c-2", "c-10", "c", "10", "9", "c-2b", "c-02", "a9" * 100, "", "9" * 255, "b7", "b7c1", "b7c", "٣"]

    assert sorted(keys, key=natural_order) == [
        "", "9", "10", "9" * 255, "a9" * 100, "b7", "b7c", "b7c1", "c", "c-02", "c-2", "c-2b", "c-10", "٣",
    ]  # fmt: skip


# ---- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [(), [], "", ["id", "id"], ["id", ""], [1]])
def test_a_key_argument_that_names_no_columns_is_rejected(key):
    with pytest.raises(PayarcConfigError, match=r"^key: give"):
        check_key(key)


@pytest.mark.parametrize(
    "key",
    [
        {"tenant", "id"},
        frozenset({"id"}),
        {"tenant": 1, "id": 2},
        {"tenant": 1, "id": 2}.keys(),
        iter(["tenant", "id"]),
        (name for name in ("tenant", "id")),
        map(str, ["id"]),
        b"id",
        None,
        1,
        datetime.date,
    ],
    ids=lambda value: type(value).__name__,
)
def test_key_columns_without_a_fixed_order_are_rejected(key):
    """The order of a set differs from process to process, and with it every key; a generator can be read once."""
    with pytest.raises(PayarcConfigError, match=rf"^key: got {type(key).__name__}, .* in a fixed order") as caught:
        check_key(key)
    assert len(str(caught.value)) <= 200


def test_key_columns_have_the_order_in_which_they_are_given():
    assert check_key(["tenant", "id"]) == check_key(("tenant", "id")) == ("tenant", "id")
    assert check_key("id") == check_key(["id"]) == ("id",)


# ---- partitions ----------------------------------------------------------------------------------------------------


def test_the_partition_of_a_key_never_changes():
    """Workers of different versions may split a table, so these numbers must stay the same."""
    assert [partition_of(key, 4) for key in ("1", "2", "3", "42", "é", '["north","1"]')] == [2, 0, 1, 2, 3, 3]
    assert partition_of(None, 4) == 0


def test_partitions_are_about_equal():
    counts = Counter(partition_of(str(number), 4) for number in range(10_000))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 2_300
