"""Keys: which values identify a record, and how a key is written as text."""

from __future__ import annotations

import datetime
import hashlib
import json
import numbers
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from payarc_provider.api.card_numbers import key_has_card_number
from payarc_provider.exceptions import PayarcConfigError

MAX_KEY = 255  # characters
_SHORT = 10**12  # fewer digits than a card number has
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_DIGITS = re.compile(r"([0-9]+)")
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_MISSING = {"NaT", "<NA>", "nan", "NaN", "None", "null", "NULL"}
"""What missing values become if a program converts them to text."""
_TOO_LARGE = 10**1000
_PERSONAL = {
    "email address": re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+"),
    "social security number": re.compile(r"(?<![\w-])[0-9]{3}([- ])[0-9]{2}\1[0-9]{4}(?![\w-])", re.ASCII),
    "phone number": re.compile(
        r"(?<![\w+-])(?:\+[0-9](?:[ ().-]{0,2}[0-9]){6,14}"  # +44 20 7946 0958
        r"|(?:1[-. ])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-. ])[0-9]{3}[-. ][0-9]{4})(?![\w-])",  # (541) 754-3010
        re.ASCII,
    ),
}
"""Personal data that a key may look like. Digits alone say nothing: most keys consist of them."""
_may_be_number = re.compile(r"\+[0-9]|[ .-][0-9]{4}(?![\w-])", re.ASCII).search  # as such numbers begin or end; fast
_SHORT_NAMES = {
    "email address": "an email",
    "social security number": "a social security number",
    "phone number": "a phone number",
}


class UnusableKey(ValueError):
    """A value that cannot identify a record; the message says why and what to do."""


def key_text(value: object) -> str:
    """The key as text, the same from JSON and from SQL: ``42``, ``"42"`` and ``Decimal("42")`` all become ``42``.

    Numbers lose trailing zeros (``Decimal("4.50")`` becomes ``4.5``), and text loses the spaces at its end, with which
    databases pad CHAR columns. Times with a time zone are converted to UTC.

    :raises UnusableKey: for a missing, empty or too long key, a card number, a float, a boolean, bytes, or any type
        that is not in `KEY_TYPES`
    """
    if type(value) is int and -_SHORT < value < _SHORT:
        return str(value)
    text = value.rstrip(" ") if type(value) is str else _as_text(value)
    if not text.strip():
        raise UnusableKey("is empty: give every record a key")
    if len(text) > MAX_KEY:
        raise UnusableKey(f"must have at most {MAX_KEY} characters (it has {len(text)}): use a shorter column")
    if _CONTROL_CHARACTER.search(text):
        raise UnusableKey("contains control characters: use another column")
    if not _is_valid_unicode(text):
        raise UnusableKey("is not valid Unicode: correct it at the source")
    if text in _MISSING:
        raise UnusableKey("is a missing value that was converted to text: give every record a key")
    if key_has_card_number(text):
        raise UnusableKey(
            "looks like a card number, and keys are stored: use another column. If it is none, put a letter before it"
        )
    return text


def composite_key_text(values: Iterable[object]) -> str:
    """The key of several columns as text: a JSON list of the texts of its values.

    :raises UnusableKey: if one of the values is unusable, or all together are too long
    """
    text = json.dumps([key_text(value) for value in values], ensure_ascii=False, separators=(",", ":"))
    if len(text) > MAX_KEY:
        raise UnusableKey(f"must have at most {MAX_KEY} characters together (it has {len(text)}): use shorter columns")
    return text


def _as_text(value: object) -> str:
    if is_missing(value):
        raise UnusableKey("is missing: give every record a key")
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's, too
        raise UnusableKey("is a boolean: use a column that identifies the record")
    if isinstance(value, float):
        raise UnusableKey("is a floating-point number, which does not compare reliably: cast it to an integer or text")
    for kind, text_of in KEY_TYPES.items():
        if isinstance(value, kind):
            return text_of(value)
    raise UnusableKey(f"has the type {type(value).__name__}: cast it to an integer or text at the source")


def is_missing(value: object) -> bool:
    """Whether it is None or a missing value of NumPy or pandas, which are unlike everything, even themselves."""
    if value is None or type(value).__name__ == "NAType":
        return True
    may_be = isinstance(value, float | datetime.date) or type(value).__name__ == "datetime64"
    return may_be and bool(value != value)  # noqa: PLR0124


def _integer_text(value: Any) -> str:
    number = int(value)
    if abs(number) >= _TOO_LARGE:  # Python refuses to convert some of these to text, and takes long for others
        raise UnusableKey("is a number with too many digits: use another column")
    return str(number)


def _number_text(value: Decimal) -> str:
    if not value.is_finite():
        raise UnusableKey("is not a number: use a column that identifies the record")
    if abs(value.adjusted()) > 10 * MAX_KEY:  # formatting it could exhaust memory
        raise UnusableKey("is a number with too many digits: use another column")
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _moment_text(value: datetime.datetime) -> str:
    return (value.astimezone(datetime.UTC) if value.tzinfo else value).isoformat()


KEY_TYPES: dict[type, Callable[[Any], str]] = {
    str: lambda value: str.__str__(value).rstrip(" "),
    numbers.Integral: _integer_text,  # NumPy's integers, too
    Decimal: _number_text,
    uuid.UUID: str,
    datetime.datetime: _moment_text,
    datetime.date: datetime.date.isoformat,
}
"""Types of usable keys, and how each is written as text; the first that fits counts."""


def _is_valid_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def natural_order(key: str) -> tuple[list[str | int], str]:
    """What to sort keys by to have ``c-2`` before ``c-10``."""
    parts = _DIGITS.split(key)  # text and digits by turns, beginning with text
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], key


def personal_data_in(key: str) -> str | None:
    """What personal data a key looks like: ``email address``, ``phone number`` or ``social security number``.

    Keys are stored, so they should not be personal data. None if it looks like none.
    """
    if "@" not in key and not _may_be_number(key):
        return None
    return next((kind for kind, pattern in _PERSONAL.items() if pattern.search(key)), None)


def display_key(key: str | None) -> str:
    """A key as logs, messages, the command line and the page may show it.

    One that looks like personal data is replaced by a placeholder. Characters that cannot be seen or that turn the
    direction of writing are escaped, so that no key looks like another or changes the text around it.
    """
    if key is None:
        return "(no key)"
    if kind := personal_data_in(key):
        return f"(a key that looks like {_SHORT_NAMES[kind]})"
    return display_text(key)


def display_text(text: str) -> str:
    """Text from outside, such as a source's name, on one line and without characters that cannot be seen."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if _is_invisible(char) else char for char in text)


def _is_invisible(char: str) -> bool:
    """Whether nobody sees the character, or it turns the direction of writing; some count as letters or marks."""
    return not char.isprintable() or _BLANK.fullmatch(char) is not None


def partition_of(key: str | None, partitions: int) -> int:
    """The partition, from 0, that a key belongs to. It never changes. Records without a usable key belong to 0."""
    if key is None:
        return 0
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % partitions


def check_key(key: str | Sequence[str]) -> tuple[str, ...]:
    """The key columns that the argument ``key`` names.

    :raises PayarcConfigError: if it names none, names one twice, contains anything but names, or has no fixed order
    """
    if not isinstance(key, str | list | tuple):
        raise PayarcConfigError(
            f"key: got {type(key).__name__}, which is no column name and no list of them. "
            'Give a name, or several in a fixed order: key=["tenant", "id"]'
        )
    columns = (key,) if isinstance(key, str) else tuple(key)
    if (
        not columns
        or not all(isinstance(column, str) and column for column in columns)
        or len(set(columns)) < len(columns)
    ):
        raise PayarcConfigError(
            'key: give a column name such as key="id", or several different ones such as key=["tenant", "id"]'
        )
    return columns


def check_partition(partition: Sequence[int] | None) -> tuple[int, int] | None:
    """The partition (i, n) that the argument ``partition`` names, or None for all records.

    :raises PayarcConfigError: if it is not two integers with 0 <= i < n
    """
    if partition is None:
        return None
    numbers = list(partition) if isinstance(partition, Sequence) and not isinstance(partition, str) else []
    if [type(number) for number in numbers] != [int, int] or not 0 <= numbers[0] < numbers[1]:
        raise PayarcConfigError("partition: give (i, n) with i from 0 to n - 1, such as (0, 4) for the first of four")
    return numbers[0], numbers[1]
