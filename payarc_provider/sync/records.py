"""Turns rows of the source into records: a key, PayArc fields ready to send, and a digest of the fields."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from payarc_provider.api.fields import FIELDS, Validation, clean
from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.keys import UnusableKey, check_key, composite_key_text, key_text, personal_data_in
from payarc_provider.sync.versions import UnusableVersion, version_text

MAX_COLUMN = 64  # characters of a column's name that may be a misspelled field of PayArc

Errors = dict[str, list[str]]
"""Reasons for a rejection, by field."""


@dataclass(slots=True, repr=False)
class StoredRows:
    """The rows of a table that have one key, usually a single one, and what the column for the ids contains there.

    :param key: the values of the key columns, as the driver returned them
    :param values: the column's value in each of the rows
    """

    key: tuple[Any, ...]
    values: list[object]

    def lacking(self, customer_id: str) -> int:
        """How many of the rows have another value than this id. Spaces at the end come from CHAR columns."""
        return sum(not isinstance(value, str) or value.rstrip(" ") != customer_id for value in self.values)


@dataclass(slots=True, repr=False)
class Record:
    """One record of the source.

    :param index: its position in the source, from 0
    :param key: what identifies it, as text; None if it has no usable key
    :param fields: PayArc field → value, ready to send; empty if the record is rejected
    :param digest: keyed hash of the fields and their names, or of the raw values if the record is rejected
    :param errors: why the rules reject it: PayArc field or key column → reasons; empty if it can be sent
    :param unstorable: rejected, and its key's row belongs to another record, so the ledger must not store the rejection
    :param columns: PayArc fields for which its source has a column, whether it has a value or not
    :param version: by which newer data is told from older data, as `versions.version_text` writes it; None without one
    :param begun: what an earlier try under the same plan has claimed its row for, as `plan.begun_text` writes it
    :param rows: its rows in the source, if they receive the id of its customer
    """

    index: int
    key: str | None
    fields: dict[str, str]
    digest: str
    errors: Errors
    unstorable: bool = False
    columns: tuple[str, ...] = ()
    version: str | None = None
    begun: str = ""
    rows: StoredRows | None = None


class RecordReader:
    """Turns rows into records.

    :param key: the column, or columns, that identify a record
    :param fields: PayArc field → source column; None sends the columns that are named like PayArc fields
    :param secret: keys the digests; the ledger's random id
    :param version: the column by which newer data is told from older data
    :param write_back: the column whose values are `StoredRows` or None
    :param validation: whether the lengths and characters of PayArc's guide are checked
    :raises PayarcConfigError: if ``key`` names no column, or ``fields`` an unknown PayArc field
    """

    def __init__(
        self,
        key: str | Sequence[str],
        fields: Mapping[str, str] | None,
        secret: str,
        version: str | None = None,
        write_back: str | None = None,
        validation: Validation = "guide",
    ) -> None:
        self.key_columns = check_key(key)
        self._version = version
        self._write_back = write_back
        self._validation = validation
        self.lookalike_columns: dict[str, str] = {}
        """Source column → the PayArc field that it resembles. These columns are not sent."""
        self.personal_keys: Counter[str] = Counter()
        """How many keys look like personal data, by its kind."""
        self._mapping = check_fields(fields)
        self._columns = self._mapping if self._mapping is not None else {name: name for name in FIELDS}
        self._empty_hash = hashlib.blake2b(key=secret.encode(), digest_size=16)
        self._row_columns: tuple[str, ...] | None = None
        self._sent_columns: list[tuple[str, str]] = []
        self._sent_fields: tuple[str, ...] = ()
        self._columns_found: set[str] = set()

    @property
    def columns_found(self) -> dict[str, str]:
        """PayArc field → source column, for the columns that ``fields`` names or that the rows so far have."""
        return {
            field: column
            for field, column in self._columns.items()
            if self._mapping is not None or column in self._columns_found
        }

    def read(self, index: int, row: object) -> Record:
        """The record of one row. It never raises: a record's ``errors`` say what is wrong."""
        try:
            return self._read(index, row)
        except Exception as error:  # noqa: BLE001 - whatever a value does, it concerns this record alone
            problem = f"cannot be read ({type(error).__name__}): correct it at the source"
            return self._rejected(index, self.key_of(row), {}, {"record": [problem]})

    def _read(self, index: int, row: object) -> Record:
        if not isinstance(row, Mapping):
            problem = f"is a {type(row).__name__}, not a mapping of field names to values"
            return self._rejected(index, None, {}, {"record": [problem]})
        raw = {field: row[column] for field, column in self._columns_to_send(row)}
        try:
            key = self._key(row)
        except UnusableKey as error:
            return self._rejected(index, None, raw, {",".join(self.key_columns): [str(error)]})
        if kind := personal_data_in(key):
            self.personal_keys[kind] += 1
        fields, errors = clean(raw, self._validation)
        if not fields and not errors:
            errors = {"record": ["has no value in any PayArc field: nothing would be created"]}
        if errors:
            return self._rejected(index, key, raw, errors)
        record = Record(index, key, fields, self.digest(fields), {}, columns=self._sent_fields)
        if self._write_back is not None:
            record.rows = row.get(self._write_back)
        if self._version is not None:
            try:
                record.version = version_text(row.get(self._version))
            except UnusableVersion as error:
                return self._rejected(index, key, raw, {self._version: [str(error)]})
        return record

    def key_of(self, row: object) -> str | None:
        """The row's key, or None if it has no usable one."""
        try:
            return self._key(row) if isinstance(row, Mapping) else None
        except Exception:  # noqa: BLE001 - `read` says what is wrong with it
            return None

    def digest(self, fields: Mapping[str, str]) -> str:
        """Keyed hash of field names and values, 32 hexadecimal digits."""
        # Values contain no control characters, which separate them here, so different fields give different texts.
        text = "\x1f".join([f"{name}\x1e{fields[name]}" for name in sorted(fields)])
        keyed = self._empty_hash.copy()
        keyed.update(text.encode(errors="surrogatepass"))
        return keyed.hexdigest()

    def _key(self, row: Mapping[str, object]) -> str:
        if len(self.key_columns) == 1:
            return key_text(row.get(self.key_columns[0]))
        return composite_key_text(row.get(column) for column in self.key_columns)

    def _rejected(self, index: int, key: str | None, raw: Mapping[str, object], errors: Errors) -> Record:
        digest = self.digest({name: _raw_text(value) for name, value in raw.items() if value is not None})
        return Record(index, key, {}, digest, errors)

    def _columns_to_send(self, row: Mapping[str, object]) -> list[tuple[str, str]]:
        """(PayArc field, source column) of the mapped columns that the row has."""
        row_columns = tuple(row)
        if row_columns != self._row_columns:  # all rows of a table have the same columns
            self._row_columns = row_columns
            self._sent_columns = [(field, column) for field, column in self._columns.items() if column in row]
            self._sent_fields = tuple(field for field, _ in self._sent_columns)
            self.find_lookalikes(row)
        return self._sent_columns

    def find_lookalikes(self, columns: Iterable[str]) -> None:
        """Note those of a row's or a source's columns that resemble PayArc's fields and are not sent."""
        names = set(columns)
        if self._mapping is not None or names <= self._columns_found:
            return
        for column in names - self._columns_found - set(FIELDS) - set(self.key_columns):
            is_short = isinstance(column, str) and len(column) <= MAX_COLUMN
            near = difflib.get_close_matches(column, FIELDS, n=1, cutoff=0.8) if is_short else []
            if near and near[0] not in names:
                self.lookalike_columns[column] = near[0]
        self._columns_found.update(names)


def _raw_text(value: object) -> str:
    """A value of a rejected record for its digest. Some values have no text, such as lists that contain themselves."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a class may do anything
        return type(value).__name__


def check_fields(fields: Mapping[str, str] | None) -> dict[str, str] | None:
    """The mapping from PayArc field to source column that the argument ``fields`` gives, or None for the default.

    :raises PayarcConfigError: if it is no mapping, or names an unknown PayArc field
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
