"""Keys: which values identify a record, how a key is written as text, and the reference by which PayArc shows it."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from decimal import Decimal

from payarc_provider.exceptions import PayarcConfigError

MAX_KEY = 255  # characters
_LARGEST = 10**MAX_KEY
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


class UnusableKey(ValueError):
    """A value that cannot identify a record; the message says why and what to do."""


def key_text(value: object) -> str:
    """The key as text, the same from JSON and from SQL: ``42``, ``"42"`` and ``Decimal("42")`` all become ``42``.

    Numbers lose trailing zeros (``Decimal("4.50")`` becomes ``4.5``), times with a time zone are converted to UTC, and
    text stays as it is.

    :raises UnusableKey: for a missing, empty or too long key, a float, a boolean, bytes, or any other type
    """
    if type(value) is int and -_LARGEST < value < _LARGEST:
        return str(value)
    if value is None:
        raise UnusableKey("is missing: give every record a key")
    if isinstance(value, bool):
        raise UnusableKey("is a boolean: use a column that identifies the record")
    if isinstance(value, float):
        raise UnusableKey("is a floating-point number, which does not compare reliably: cast it to an integer or text")
    text = value if isinstance(value, str) else _as_text(value)
    if not text.strip():
        raise UnusableKey("is empty: give every record a key")
    if len(text) > MAX_KEY:
        raise UnusableKey(f"has {len(text)} characters, but at most {MAX_KEY} are allowed: use a shorter column")
    if _CONTROL_CHARACTER.search(text):
        raise UnusableKey("contains control characters: use another column")
    if not _is_valid_unicode(text):
        raise UnusableKey("is not valid Unicode: correct it at the source")
    return text


def composite_key_text(values: Iterable[object]) -> str:
    """The key of several columns as text: a JSON list of the texts of its values.

    :raises UnusableKey: if one of the values is unusable, or all together are too long
    """
    text = json.dumps([key_text(value) for value in values], ensure_ascii=False, separators=(",", ":"))
    if len(text) > MAX_KEY:
        raise UnusableKey(
            f"has {len(text)} characters together, but at most {MAX_KEY} are allowed: use shorter columns"
        )
    return text


def _as_text(value: object) -> str:
    if isinstance(value, int | Decimal):
        return _number_text(Decimal(value))
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return (value.astimezone(datetime.UTC) if value.tzinfo else value).isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise UnusableKey(f"has the type {type(value).__name__}: cast it to an integer or text at the source")


def _number_text(value: Decimal) -> str:
    if not value.is_finite():
        raise UnusableKey("is not a number: use a column that identifies the record")
    if abs(value.adjusted()) > 10 * MAX_KEY:  # formatting it could exhaust memory
        raise UnusableKey("is a number with too many digits: use another column")
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _is_valid_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def looks_like_email(key: str) -> bool:
    """Whether a key contains what looks like an email address. Keys are stored, so they should not be personal data."""
    return _EMAIL.search(key) is not None


def display_key(key: str | None) -> str:
    """A key as logs and messages may show it: one that looks like an email address is replaced by a placeholder."""
    if key is None:
        return "(no key)"
    return "(a key that looks like an email)" if looks_like_email(key) else key


def partition_of(key: str | None, partitions: int) -> int:
    """The partition, from 0, that a key belongs to. It never changes. Records without a usable key belong to 0."""
    if key is None:
        return 0
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % partitions


def check_key(key: str | Sequence[str]) -> tuple[str, ...]:
    """The key columns that the argument ``key`` names.

    :raises PayarcConfigError: if it names none, names one twice, or contains anything but names
    """
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


ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o or u, which are easily misread
LENGTH = 12
MAX_DESCRIPTION = 50  # characters, by PayArc's guide
_NO_DESCRIPTION = "ref"
_AT_END = re.compile(rf"#([{ALPHABET}]{{{LENGTH}}})\s*\Z", re.IGNORECASE)


@functools.lru_cache(maxsize=4096)
def reference(ledger_id: str, account: str, key: str) -> str:
    """The reference of a key in an account of a ledger: 12 characters, 60 bits. It reveals nothing about the key."""
    text = "\x00".join((account, key)).encode()
    number = int.from_bytes(hashlib.blake2b(text, key=ledger_id.encode(), digest_size=8).digest(), "big")
    return "".join(ALPHABET[number >> (5 * position) & 31] for position in range(LENGTH))


def with_reference(description: str | None, code: str) -> str | None:
    """The description with the reference at its end, or None if it does not fit: a description is never cut."""
    text = f"{description or _NO_DESCRIPTION} #{code}"
    return text if len(text) <= MAX_DESCRIPTION else None


def find_reference(description: object) -> str | None:
    """The reference at the end of a listed customer's description, or None if it has none."""
    found = _AT_END.search(description) if isinstance(description, str) else None
    return found.group(1).lower() if found else None


def without_reference(description: str) -> str | None:
    """The record's own description, without the reference; None if the record has none."""
    own = _AT_END.sub("", description).rstrip()
    return None if own == _NO_DESCRIPTION else own
