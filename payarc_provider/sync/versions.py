"""Versions: the number or time of a record by which newer data is told from older data.

A version is stored as a letter for its kind and its value: ``n:42``, ``d:2026-01-02``, ``t:2026-01-02T03:04:05.000000``
without a time zone, ``z:…`` with one, in UTC. Only versions of the same kind can be compared.
"""

from __future__ import annotations

import datetime
import numbers
import re
from decimal import Decimal

from payarc_provider.sync.keys import is_missing

MAX_VERSION = 64  # characters
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME = re.compile(_DATE.pattern + r"[T ][0-9]{2}:.*", re.ASCII)
_NAMES = {"n": "a number", "d": "a date", "t": "a time without a time zone", "z": "a time with a time zone"}


class UnusableVersion(ValueError):
    """A value by which data cannot be compared; the message says why and what to do."""


def version_text(value: object) -> str:
    """The version as text, the same from JSON and from SQL: ``7``, ``"7"`` and ``Decimal("7.0")`` all become ``n:7``.

    :raises UnusableVersion: for a missing value, a boolean, and anything else that is no number, date or time
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise UnusableVersion("is missing: give every record a version")
    if isinstance(value, str):
        value = _from_text(value.strip())
    if isinstance(value, datetime.datetime):
        return _time_text(value)
    if isinstance(value, datetime.date):
        return f"d:{value.isoformat()}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral | Decimal | float):
        raise UnusableVersion(f"has the type {type(value).__name__}: use a column of numbers, dates or times")
    if isinstance(value, float):
        value = Decimal(float.__repr__(value))  # NumPy's own is "np.float64(7.0)"
    return _number_text(value if isinstance(value, Decimal) else Decimal(int(value)))


def _from_text(text: str) -> object:
    if _NUMBER.fullmatch(text):
        return Decimal(text)
    try:
        if _DATE.fullmatch(text):
            return datetime.date.fromisoformat(text)
        if _TIME.fullmatch(text):
            return datetime.datetime.fromisoformat(text)
    except ValueError:
        pass
    raise UnusableVersion("is text, but no number, date or time in ISO format: use a column of such a type")


def _time_text(value: datetime.datetime) -> str:
    try:
        moment = value.astimezone(datetime.UTC) if value.tzinfo is not None else value
    except (OverflowError, ValueError):
        raise UnusableVersion("is a time that cannot be converted to UTC: correct it at the source") from None
    kind = "z" if value.tzinfo is not None else "t"
    return f"{kind}:{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}"


def _number_text(value: Decimal) -> str:
    if not value.is_finite():
        raise UnusableVersion("is not a number: correct it at the source")
    if abs(value.adjusted()) > MAX_VERSION:  # formatting it could exhaust memory
        raise UnusableVersion("is a number with too many digits: use another column")
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    if len(text) > MAX_VERSION - len("n:"):
        raise UnusableVersion("is a number with too many digits: use another column")
    return f"n:{'0' if text in ('-0', '') else text}"


def describe_kind(version: str) -> str:
    """The kind of a version, in words."""
    return _NAMES[version[0]]


def are_comparable(version: str | None, other: str | None) -> bool:
    """Whether one can be newer than the other. None, of a row that was written without a version, is older than all."""
    return version is None or other is None or version[0] == other[0]


def is_newer(version: str | None, other: str | None) -> bool:
    """Whether the version is newer than another one of its kind, by value."""
    if version is None or other is None:
        return version is not None and other is None
    if version[0] == "n":
        return Decimal(version[2:]) > Decimal(other[2:])
    return version > other  # dates and times have a fixed format
