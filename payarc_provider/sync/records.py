"""From a source's row to a record that can be claimed: its key, its PayArc fields, their digest."""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
import re
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from payarc_provider.api.fields import FIELDS, clean
from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.ledger.states import Errors

MAX_KEY = 255
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_LARGE = 10**MAX_KEY
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(slots=True)
class Record:
    """One record of the input.

    :param index: its place in the input, from 0
    :param key: the source's identity for it, as text; None where it has none that can be used
    :param fields: PayArc field → value, ready to send; empty where it is refused
    :param digest: keyed hash of the fields and their names (of the raw values where it is refused)
    :param errors: why it is refused by the rules, by field; empty where it is fit to be sent
    :param unstorable: refused in a way that must not touch the key's row, which belongs to another record
    """

    index: int
    key: str | None
    fields: dict[str, str]
    digest: str
    errors: Errors
    unstorable: bool = False

    @property
    def names(self) -> str:
        """The names of the fields sent, as the ledger keeps them."""
        return ",".join(sorted(self.fields))


class UnusableKey(ValueError):
    """A key that cannot identify a record; the text says why and what to do."""


def key_text(value: object) -> str:
    """The key as text, the same from JSON and from SQL: ``42``, ``"42"`` and ``Decimal("42")`` give ``42``.

    Numbers and moments have one text each: ``Decimal("4.50")`` gives ``4.5``, a moment with a zone its UTC time in ISO
    form. Text is taken as it is.

    :raises UnusableKey: for a missing, empty, binary or too long key, and for a float or a truth value
    """
    if type(value) is int and -_LARGE < value < _LARGE:
        return str(value)
    if value is None:
        raise UnusableKey("is missing: give every record a key")
    if isinstance(value, bool):
        raise UnusableKey("is a truth value: use a column that identifies the record")
    if isinstance(value, float):
        raise UnusableKey("is a floating-point number, which does not compare reliably: cast it to an integer or text")
    text = value if isinstance(value, str) else _as_text(value)
    if not text.strip():
        raise UnusableKey("is empty: give every record a key")
    if len(text) > MAX_KEY:
        raise UnusableKey(f"has {len(text)} characters, at most {MAX_KEY} are allowed: use a shorter column")
    if _CONTROL.search(text):
        raise UnusableKey("holds control characters: use another column")
    if not _encodes(text):
        raise UnusableKey("is not valid Unicode: correct it at the source")
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
    if abs(value.adjusted()) > 10 * MAX_KEY:  # writing it out would take all memory
        raise UnusableKey("is a number of too many digits: use another column")
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def share_of(key: str | None, shares: int) -> int:
    """Which of ``shares`` shares, from 0, a key belongs to: always the same; what has no key belongs to the first."""
    if key is None:
        return 0
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % shares


def looks_personal(key: str) -> bool:
    """Whether a key looks like an email address, which a key must not be."""
    return _EMAIL.search(key) is not None


def shown(key: str | None) -> str:
    """A key as logs and messages may show it."""
    if key is None:
        return "(no key)"
    return "(a key that looks like an email)" if looks_personal(key) else key


class RecordReader:
    """Turns rows into records by the operator's ``key`` and ``fields``.

    :param key: the column, or columns, that identify a record
    :param fields: PayArc field → source column; None takes the columns that bear PayArc's field names
    :param secret: the ledger's random id, which keys the digests
    :raises PayarcConfigError: for an unknown PayArc field, or no key column
    """

    def __init__(self, key: str | Sequence[str], fields: Mapping[str, str] | None, secret: str) -> None:
        self.key_columns = check_key(key)
        self.mapping = check_fields(fields)
        self._columns = dict(self.mapping) if self.mapping is not None else {name: name for name in FIELDS}
        self._keyed = hashlib.blake2b(key=secret.encode(), digest_size=16)
        self.unsent_lookalikes: dict[str, str] = {}
        self.personal_keys = 0
        self._shape: tuple[str, ...] | None = None
        self._of_shape: list[tuple[str, str]] = []
        self._seen_columns: set[str] = set()

    @property
    def met_mapping(self) -> dict[str, str]:
        """PayArc field → source column, of the columns that were named or have been met."""
        return {
            field: column
            for field, column in self._columns.items()
            if self.mapping is not None or column in self._seen_columns
        }

    def read(self, index: int, row: object) -> Record:
        """The record of one row; what is wrong with it stands in its ``errors``."""
        if not isinstance(row, Mapping):
            return self._refused(
                index, None, {}, {"record": [f"is a {type(row).__name__}, not a mapping of field names to values"]}
            )
        raw = {field: row[column] for field, column in self._present(row)}
        try:
            key = self._key(row)
        except UnusableKey as problem:
            return self._refused(index, None, raw, {",".join(self.key_columns): [str(problem)]})
        self.personal_keys += looks_personal(key)
        fields, errors = clean(raw)
        if not fields and not errors:
            errors = {"record": ["has no value in any PayArc field: nothing would be created"]}
        if errors:
            return self._refused(index, key, raw, errors)
        return Record(index, key, fields, self.digest(fields), {})

    def key_of(self, row: object) -> str | None:
        """The row's key, None where it has none that can be used."""
        try:
            return self._key(row) if isinstance(row, Mapping) else None
        except UnusableKey:
            return None

    def digest(self, fields: Mapping[str, str]) -> str:
        """Keyed hash of what is sent (32 hexadecimal digits); unambiguous, for values hold no control characters."""
        text = "\x1f".join([f"{name}\x1e{fields[name]}" for name in sorted(fields)])
        keyed = self._keyed.copy()
        keyed.update(text.encode())
        return keyed.hexdigest()

    def digest_of_customer(self, customer: Mapping[str, Any], names: str) -> str | None:
        """The digest of a listed customer as if ``names`` had been sent, or None where another field has a value."""
        present = {name: text for name in FIELDS if (text := _listed(customer.get(name)))}
        return self.digest(present) if ",".join(sorted(present)) == names else None

    def _key(self, row: Mapping[str, object]) -> str:
        if len(self.key_columns) == 1:
            return key_text(row.get(self.key_columns[0]))
        text = json.dumps(
            [key_text(row.get(column)) for column in self.key_columns], ensure_ascii=False, separators=(",", ":")
        )
        if len(text) > MAX_KEY:
            raise UnusableKey(
                f"has {len(text)} characters together, at most {MAX_KEY} are allowed: use shorter columns"
            )
        return text

    def _refused(self, index: int, key: str | None, raw: Mapping[str, object], errors: Errors) -> Record:
        digest = self.digest({name: repr(value) for name, value in raw.items() if value is not None})
        return Record(index, key, {}, digest, errors)

    def _present(self, row: Mapping[str, object]) -> list[tuple[str, str]]:
        """(PayArc field, column) of the mapped columns that the row has; the rows of a table all have the same."""
        shape = tuple(row)
        if shape != self._shape:
            self._note_columns(row)
            self._shape = shape
            self._of_shape = [(field, column) for field, column in self._columns.items() if column in row]
        return self._of_shape

    def _note_columns(self, row: Mapping[str, object]) -> None:
        if self.mapping is not None or row.keys() <= self._seen_columns:
            return
        for column in row.keys() - self._seen_columns - set(FIELDS) - set(self.key_columns):
            near = difflib.get_close_matches(str(column), FIELDS, n=1, cutoff=0.8)
            if near and near[0] not in row:
                self.unsent_lookalikes[str(column)] = near[0]
        self._seen_columns.update(row.keys())


def _listed(value: object) -> str:
    return unicodedata.normalize("NFC", str(value)).strip() if value is not None else ""


def check_key(key: str | Sequence[str]) -> tuple[str, ...]:
    """The key columns.

    :raises PayarcConfigError: when there is none, or one is not a name
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
    """The partition.

    :raises PayarcConfigError: when it is no share of a whole
    """
    if partition is None:
        return None
    numbers = list(partition) if isinstance(partition, Sequence) and not isinstance(partition, str) else []
    if [type(number) for number in numbers] != [int, int] or not 0 <= numbers[0] < numbers[1]:
        raise PayarcConfigError("partition: give (i, n) with i from 0 to n - 1, such as (0, 4) for the first of four")
    return numbers[0], numbers[1]


def check_fields(fields: Mapping[str, str] | None) -> dict[str, str] | None:
    """The field mapping.

    :raises PayarcConfigError: for an unknown PayArc field, by name with the nearest known one
    """
    if fields is None:
        return None
    if not isinstance(fields, Mapping) or not fields:
        raise PayarcConfigError(
            'fields: give a mapping of PayArc field to source column, such as {"email": "contact_email"}'
        )
    for name, column in fields.items():
        if name not in FIELDS:
            near = difflib.get_close_matches(str(name), FIELDS, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else f"; PayArc's fields are {', '.join(FIELDS)}"
            raise PayarcConfigError(f'fields: PayArc has no customer field "{name}"{hint}')
        if not isinstance(column, str) or not column:
            raise PayarcConfigError(f'fields: the column for "{name}" must be a column name')
    return dict(fields)
