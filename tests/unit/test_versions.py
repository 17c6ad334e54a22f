"""Versions: the number or time by which newer data is told from older data."""

from __future__ import annotations

import datetime
import itertools
import uuid
from decimal import Decimal

import numpy
import pandas
import pendulum
import pytest

from payarc_provider.sync.versions import (
    MAX_VERSION,
    UnusableVersion,
    are_comparable,
    describe_kind,
    is_newer,
    version_text,
)

DAY = datetime.date(2026, 1, 2)
TIME = datetime.datetime(2026, 1, 2, 3, 4, 5)
HERE = datetime.timezone(datetime.timedelta(hours=2))
ZONED = datetime.datetime(2026, 1, 2, 5, 4, 5, tzinfo=HERE)
NUMBER = "is a number with too many digits"
NOT_A_VERSION = "is text, but no number, date or time"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((7, "7", " 7 ", "+7", "007", "7.0", 7.0, Decimal("7.00"), Decimal("7E0")), "n:7"),
        ((numpy.int64(7), numpy.uint8(7), numpy.float64(7), numpy.str_("7"), pandas.Series([7])[0]), "n:7"),
        ((0, -0.0, "-0", "0.00", Decimal("-0.0"), Decimal("0E-7")), "n:0"),
        ((-1.5, "-1.50", Decimal("-1.5"), numpy.float64(-1.5)), "n:-1.5"),
        ((0.1, "0.1", Decimal("0.1"), numpy.float64(0.1)), "n:0.1"),
        ((100, "100", 1e2, Decimal("1E+2")), "n:100"),
        ((2**63, str(2**63), Decimal(2**63)), "n:9223372036854775808"),
        ((1e22, 10**22, Decimal("1E22")), f"n:1{'0' * 22}"),
        ((DAY, "2026-01-02", " 2026-01-02 "), "d:2026-01-02"),
        ((TIME, pandas.Timestamp(TIME), "2026-01-02T03:04:05", "2026-01-02 03:04:05"), "t:2026-01-02T03:04:05.000000"),
        (("2026-01-02 03:04", "2026-01-02T03:04:00"), "t:2026-01-02T03:04:00.000000"),
        (
            (TIME.replace(microsecond=120_000), "2026-01-02 03:04:05.12", "2026-01-02T03:04:05.120000"),
            "t:2026-01-02T03:04:05.120000",
        ),
        (
            (
                ZONED,
                ZONED.astimezone(datetime.UTC),
                pandas.Timestamp(ZONED),
                pendulum.instance(ZONED),
                "2026-01-02T05:04:05+02:00",
                "2026-01-02 05:04:05+02",
                "2026-01-02T03:04:05Z",
            ),
            "z:2026-01-02T03:04:05.000000",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_version_is_the_same_from_json_from_sql_and_from_pandas(values, text):
    assert {version_text(value) for value in values} == {text}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "is missing") for value in (None, "", "  ", float("nan"), pandas.NA, pandas.NaT)),
        (numpy.datetime64("NaT"), "is missing"),
        (numpy.float64("nan"), "is missing"),
        (True, "has the type bool"),
        (numpy.bool_(True), "has the type bool"),
        (b"7", "has the type bytes"),
        ([7], "has the type list"),
        (uuid.UUID(int=7), "has the type UUID"),
        (datetime.time(3, 4), "has the type time"),
        (datetime.timedelta(1), "has the type timedelta"),
        (numpy.float32(7), "has the type float32"),
        (float("inf"), "is not a number"),
        (numpy.float64("-inf"), "is not a number"),
        *((Decimal(text), "is not a number") for text in ("NaN", "sNaN", "Infinity", "-Infinity")),
        *(
            (text, NOT_A_VERSION)
            for text in ("yesterday", "7,5", "1e5", "0x7", "7.", ".5", "1_000", "٧", "v7", "Infinity")
        ),
        *(
            (text, NOT_A_VERSION)
            for text in ("2026-13-01", "2026-02-30", "02/01/2026", "20260102T030405", "2026-W01-1")
        ),
        *((text, NOT_A_VERSION) for text in ("2026-01-02T25:00", "2026-01-02 03:04:05 CET", "2026-01-02\n03:04:05")),
        (Decimal("1E+9999"), NUMBER),
        (Decimal("1E-9999"), NUMBER),
        (10**5000, NUMBER),
        ("9" * 5000, NUMBER),
        (1e300, NUMBER),
        (10 ** (MAX_VERSION - 2), NUMBER),
        (datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=1))), "cannot be converted"),
        ("0001-01-01T00:00:00+01:00", "cannot be converted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_a_version_is_rejected_with_the_reason(value, reason):
    with pytest.raises(UnusableVersion, match=reason) as caught:
        version_text(value)
    assert "\n" not in str(caught.value)


def test_the_longest_number_fits_into_the_ledger():
    longest = 10 ** (MAX_VERSION - 2) - 1
    assert len(version_text(longest)) == MAX_VERSION
    assert is_newer(version_text(longest), version_text(longest - 1))


def test_a_rejection_does_not_quote_the_value():
    with pytest.raises(UnusableVersion) as caught:
        version_text("john@example.com")
    assert "john" not in str(caught.value)


@pytest.mark.parametrize(
    "ascending",
    [
        (-10, "-9.5", -1, 0, 0.5, "9", Decimal("9.25"), 10, 2**53, 2**53 + 1, 10**40, 10**40 + 1),
        (datetime.date(999, 12, 31), DAY, "2026-01-10", "2026-10-01", datetime.date.max),
        (
            datetime.datetime.min,
            TIME,
            TIME + datetime.timedelta(microseconds=1),
            "2026-01-02 10:00",
            datetime.datetime.max,
        ),
        (ZONED, "2026-01-02T04:00:00Z", "2026-01-02T03:30:00-01:00", ZONED + datetime.timedelta(days=1)),
    ],
    ids=["numbers", "dates", "times", "times with zones"],
)
def test_versions_of_one_kind_are_compared_by_value(ascending):
    texts = [version_text(value) for value in ascending]
    assert all(len(text) <= MAX_VERSION for text in texts)
    for (first, one), (second, other) in itertools.product(enumerate(texts), repeat=2):
        assert are_comparable(one, other)
        assert is_newer(one, other) == (first > second)


def test_versions_of_different_kinds_cannot_be_compared():
    kinds = {"a number": 7, "a date": DAY, "a time without a time zone": TIME, "a time with a time zone": ZONED}
    for (one, first), (other, second) in itertools.product(kinds.items(), repeat=2):
        assert are_comparable(version_text(first), version_text(second)) == (one == other)
        assert describe_kind(version_text(first)) == one


def test_a_row_without_a_version_is_older_than_every_record_with_one():
    assert are_comparable(None, "n:7")
    assert are_comparable("d:2026-01-02", None)
    assert is_newer("n:-7", None)
    assert not is_newer(None, "n:-7")
    assert not is_newer(None, None)
