"""``match_existing``: customers that PayArc already has, from an index of its list, are adopted instead of created."""

from __future__ import annotations

import functools
import hashlib
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from payarc_provider.api.fields import created_between, read_customer_id, shown_value
from payarc_provider.sync.fingerprints import as_column, fingerprints, from_column, own_fields
from payarc_provider.sync.ledger import Carrier
from payarc_provider.sync.records import Record, RecordReader
from payarc_provider.sync.reference import find_reference
from payarc_provider.sync.state import RunState
from payarc_provider.sync.wording import counted


@dataclass(frozen=True, slots=True)
class IndexedCustomer:
    """What the index keeps of a customer.

    :param reference: the reference in its description, if there is one
    :param digest: the digest that a record with these fields would have; the reference does not count
    :param fingerprints: of these fields, as `fingerprints.as_column` writes them
    :param created_after: the earliest possible time of its creation in Unix seconds; 0 if it cannot be read
    """

    customer_id: str
    reference: str | None
    digest: str
    fingerprints: str
    created_after: float


def indexed(customer: Mapping[str, Any], secret: str) -> IndexedCustomer:
    """What the index keeps of a customer that PayArc has returned."""
    fields = own_fields(customer)
    between = created_between(customer)
    return IndexedCustomer(
        read_customer_id(customer) or "",
        find_reference(customer.get("description")),
        _reader(secret).digest(fields),
        as_column(fingerprints(secret, fields)),
        between[0] if between else 0.0,
    )


@functools.lru_cache(maxsize=4)
def _reader(secret: str) -> RecordReader:
    return RecordReader("key", None, secret)


class CustomerIndex:
    """Finds customers by email or reference.

    The index lives in a private temporary file that vanishes with the process, so that memory does not grow with the
    number of customers. It stores ids, references and hashes, and no value of a customer.

    :param secret: the key of the hashes, the ledger's id
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute(
            "CREATE TABLE customer (id TEXT PRIMARY KEY, reference TEXT, digest TEXT, fingerprints TEXT, "
            "created_after REAL, email BLOB)"
        )
        self._database.execute("CREATE INDEX by_email ON customer (email)")
        self._database.execute("CREATE INDEX by_reference ON customer (reference)")
        self._database.execute("BEGIN")

    def add(self, customer: Mapping[str, Any]) -> None:
        """Add a listed customer, unless the index has it already."""
        row = (*astuple(indexed(customer, self._secret)), self._hash(customer.get("email")))
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

    def with_tag(self, tag: str) -> Iterator[dict[str, Carrier]]:
        """The customers whose references begin with this tag, by id, some hundreds at a time."""
        query = "SELECT id, reference, fingerprints FROM customer WHERE reference >= ? AND reference < ?"
        found = self._database.execute(query, (tag, tag + "~"))
        while batch := found.fetchmany(500):
            yield {row[0]: Carrier(row[1], from_column(row[2], leave_out="description")) for row in batch}

    def _find(self, column: str, value: str | bytes) -> list[IndexedCustomer]:
        query = (
            f"SELECT id, reference, digest, fingerprints, created_after FROM customer WHERE {column} = ? "  # noqa: S608
            "ORDER BY created_after, id"
        )
        return [IndexedCustomer(*row) for row in self._database.execute(query, (value,))]

    def _hash(self, email: object) -> bytes | None:
        text = shown_value(email).casefold().encode(errors="surrogatepass")
        return hashlib.blake2b(text, key=self._secret.encode(), digest_size=16).digest() if text else None


log = logging.getLogger(__name__)


@dataclass(slots=True)
class Matches:
    """The customers that PayArc already has for a batch.

    :param adopt: key → (customer, "email" or "reference")
    :param wait: keys whose match may belong to another run's open row
    """

    adopt: dict[str, tuple[IndexedCustomer, str]] = field(default_factory=dict)
    wait: set[str] = field(default_factory=set)


class ExistingCustomers:
    """The customers that PayArc already has: read once per run, and only if a record needs a customer."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._index = CustomerIndex(state.ledger_id)

    async def read(self) -> None:
        """Read the whole list."""
        secret = self._state.ledger_id
        self._index = await self._state.payarc.read_list(0.0, lambda: CustomerIndex(secret))
        log.info("PayArc has %s to match by email", counted(len(self._index), "customer"))

    async def match(self, records: Mapping[str, Record]) -> Matches:
        """Match these records to customers. A record that matches several is rejected: its ``errors`` are set.

        A customer that carries a record's reference belongs to the record, unless a row already has the customer or its
        key was forgotten. A customer that a row already has, or that carries another row's reference, is never matched.
        """
        state, matches = self._state, Matches()
        by_email = {
            key: self._index.by_email(record.fields.get("email"))
            for key, record in records.items()
            if not record.errors
        }
        by_reference = {key: self._index.by_reference(state.reference_of(key)) for key in by_email}
        matched, held = any(by_email.values()), state.held_claims()
        doubtful = matched and await state.transact(lambda ledger: ledger.may_be_open_unrecognized(state.me, held))
        found = (*by_email.values(), *by_reference.values())
        taken = await self._taken([customer for customers in found for customer in customers])
        for key, candidates in by_email.items():
            own = [customer for customer in by_reference[key] if customer.customer_id not in taken]
            free = [
                customer
                for customer in candidates
                if customer.customer_id not in taken and customer.reference not in taken
            ]
            if own:
                self._adopt_or_reject(records[key], own, "reference", matches)
            elif free and doubtful:
                matches.wait.add(key)
            elif free:
                self._adopt_or_reject(records[key], free, "email", matches)
        return matches

    async def _taken(self, customers: list[IndexedCustomer]) -> set[str]:
        """The ids and references of these customers that belong to a row."""
        state = self._state
        ids = {customer.customer_id for customer in customers}
        references = {customer.reference for customer in customers if customer.reference}
        taken = await state.transact(lambda ledger: ledger.ids_with_rows(state.me, ids)) if ids else set()
        if references:
            taken |= await state.transact(lambda ledger: ledger.references_with_rows(state.me, references))
        return taken

    @staticmethod
    def _adopt_or_reject(record: Record, customers: list[IndexedCustomer], how: str, matches: Matches) -> None:
        if len(customers) == 1:
            matches.adopt[record.key or ""] = (customers[0], how)
            return
        listed = ", ".join(sorted(customer.customer_id for customer in customers)[:10])
        record.errors = {
            "email": [
                f"belongs to {len(customers)} customers at PayArc ({listed}): delete or change all but one of them "
                "there, then run again with retry_rejected=True"
            ]
        }
