"""PayArc's customers by the reference they bear, beside the keys that are looked for among them."""

from __future__ import annotations

import itertools
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from payarc_provider.api.fields import FIELDS, created_between, customer_id
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.reference import find_reference, reference, without_reference

BATCH = 500


@dataclass(frozen=True, slots=True)
class Bearer:
    """A listed customer that bears a reference.

    :param digest: of its fields, the reference taken off, as if they had been sent
    :param fields: their names
    :param since: the earliest moment of its creation, Unix seconds; 0 where it cannot be read
    """

    customer_id: str
    digest: str
    fields: str
    since: float


@dataclass(frozen=True, slots=True)
class Match:
    """A key, its reference, and who bears it."""

    key: str
    reference: str
    bearers: list[Bearer]


class CustomerIndex:
    """Keys and customers, in a private temporary file that vanishes with the process: memory does not grow with them.

    Of a customer nothing is kept but ids and hashes.

    :param ledger_id: of the ledger that the references were made by, and under which account
    """

    def __init__(self, ledger_id: str, account: str) -> None:
        self._ledger_id = ledger_id
        self._account = account
        self._reader = RecordReader("key", None, ledger_id)
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE wanted (key TEXT PRIMARY KEY, reference TEXT)")
        columns = "id TEXT PRIMARY KEY, reference TEXT, digest TEXT, fields TEXT, since REAL"
        self._database.execute(f"CREATE TABLE customer ({columns})")
        self._database.execute("CREATE INDEX by_reference ON customer (reference)")
        self._database.execute("BEGIN")

    def want(self, keys: Iterable[str]) -> int:
        """Look for these keys too; returns how many there are by now, each counted once."""
        rows = ((key, reference(self._ledger_id, self._account, key)) for key in keys)
        self._database.executemany("INSERT OR IGNORE INTO wanted VALUES (?, ?)", rows)
        return int(self._database.execute("SELECT count(*) FROM wanted").fetchone()[0])

    def emptied(self) -> Self:
        """The shelf without customers, for another pass over the list."""
        self._database.execute("DELETE FROM customer")
        return self

    def add(self, customer: Mapping[str, Any]) -> None:
        """Keep a listed customer."""
        fields = _fields(customer)
        between = created_between(customer)
        row = (
            customer_id(customer),
            find_reference(customer.get("description")),
            self._reader.digest(fields),
            ",".join(sorted(fields)),
            between[0] if between else 0.0,
        )
        self._database.execute("INSERT OR IGNORE INTO customer VALUES (?, ?, ?, ?, ?)", row)

    def listed(self) -> int:
        """How many customers PayArc has."""
        return int(self._database.execute("SELECT count(*) FROM customer").fetchone()[0])

    def matched(self) -> int:
        """How many of them bear the reference of a key that is looked for."""
        query = "SELECT count(*) FROM wanted JOIN customer USING (reference)"
        return int(self._database.execute(query).fetchone()[0])

    def batches(self) -> Iterator[list[Match]]:
        """The keys, in their order, some hundreds at a time."""
        after = ""
        while batch := list(itertools.islice(self._matches(after), BATCH)):
            yield batch
            after = batch[-1].key

    def _matches(self, after: str) -> Iterator[Match]:
        query = """
            SELECT wanted.key, wanted.reference, customer.id, customer.digest, customer.fields, customer.since
            FROM wanted LEFT JOIN customer ON customer.reference = wanted.reference
            WHERE wanted.key > ? ORDER BY wanted.key, customer.since, customer.id
        """
        rows = self._database.execute(query, (after,))
        for (key, code), group in itertools.groupby(rows, key=lambda row: (row[0], row[1])):
            yield Match(key, code, [Bearer(*row[2:]) for row in group if row[2] is not None])


def _fields(customer: Mapping[str, Any]) -> dict[str, str]:
    """The customer's fields as a record would have them."""
    fields = {name: unicodedata.normalize("NFC", str(customer[name])).strip() for name in FIELDS if customer.get(name)}
    fields["description"] = without_reference(fields.get("description", "")) or ""
    return {name: text for name, text in fields.items() if text}
