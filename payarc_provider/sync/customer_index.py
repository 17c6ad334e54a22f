"""An index of PayArc's customers, filled while the list is read."""

from __future__ import annotations

import hashlib
import sqlite3
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from payarc_provider.api.fields import FIELDS, created_between, read_customer_id
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.reference import find_reference, without_reference


@dataclass(frozen=True, slots=True)
class IndexedCustomer:
    """What the index keeps of a customer.

    :param reference: the reference in its description, if there is one
    :param digest: the digest that a record with these fields would have; the reference does not count
    :param fields: the names of these fields, sorted
    :param created_after: the earliest possible time of its creation in Unix seconds; 0 if it cannot be read
    """

    customer_id: str
    reference: str | None
    digest: str
    fields: str
    created_after: float


class CustomerIndex:
    """Finds customers by email or reference.

    The index lives in a private temporary file that vanishes with the process, so that memory does not grow with the
    number of customers. It stores ids, references and hashes, and no value of a customer.

    :param secret: the key of the hashes, the ledger's id
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._reader = RecordReader("key", None, secret)
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute(
            "CREATE TABLE customer (id TEXT PRIMARY KEY, reference TEXT, digest TEXT, fields TEXT, created_after REAL, "
            "email BLOB)"
        )
        self._database.execute("CREATE INDEX by_email ON customer (email)")
        self._database.execute("CREATE INDEX by_reference ON customer (reference)")
        self._database.execute("BEGIN")

    def add(self, customer: Mapping[str, Any]) -> None:
        """Add a listed customer, unless the index has it already."""
        fields = _fields(customer)
        between = created_between(customer)
        row = (
            read_customer_id(customer),
            find_reference(customer.get("description")),
            self._reader.digest(fields),
            ",".join(sorted(fields)),
            between[0] if between else 0.0,
            self._hash(customer.get("email")),
        )
        self._database.execute("INSERT OR IGNORE INTO customer VALUES (?, ?, ?, ?, ?, ?)", row)

    def __len__(self) -> int:
        """The number of customers."""
        return int(self._database.execute("SELECT count(*) FROM customer").fetchone()[0])

    def by_email(self, email: str | None) -> list[IndexedCustomer]:
        """The customers with this email, oldest first; case and outer spaces are ignored."""
        hashed = self._hash(email)
        return self._find("email", hashed) if hashed else []

    def by_reference(self, reference: str) -> list[IndexedCustomer]:
        """The customers whose description carries this reference, oldest first."""
        return self._find("reference", reference)

    def _find(self, column: str, value: str | bytes) -> list[IndexedCustomer]:
        query = (
            f"SELECT id, reference, digest, fields, created_after FROM customer WHERE {column} = ? "  # noqa: S608
            "ORDER BY created_after, id"
        )
        return [IndexedCustomer(*row) for row in self._database.execute(query, (value,))]

    def _hash(self, email: object) -> bytes | None:
        text = str(email or "").strip().casefold()
        return hashlib.blake2b(text.encode(), key=self._secret, digest_size=16).digest() if text else None


def _fields(customer: Mapping[str, Any]) -> dict[str, str]:
    """The customer's fields, as they would be in a record."""
    fields = {name: unicodedata.normalize("NFC", str(customer[name])).strip() for name in FIELDS if customer.get(name)}
    fields["description"] = without_reference(fields.get("description", "")) or ""
    return {name: text for name, text in fields.items() if text}
