"""``match_existing``: customers that PayArc has already are adopted instead of created."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from payarc_provider.api.fields import customer_id
from payarc_provider.sync.records import Record
from payarc_provider.sync.reference import find_reference
from payarc_provider.sync.state import RunState

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Matches:
    """What a batch has at PayArc.

    :param adopt: key → (customer id, "email" or "reference")
    :param wait: keys whose match may belong to another run's open row
    """

    adopt: dict[str, tuple[str, str]] = field(default_factory=dict)
    wait: set[str] = field(default_factory=set)


class Index:
    """The customers that PayArc has, by a hash of their email and by the reference they bear.

    Kept in a private temporary file that vanishes with the process, so that memory does not grow with their number,
    and hashed, so that no address lies on a disk.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE customer (id TEXT PRIMARY KEY, email BLOB, reference TEXT)")
        self._database.execute("CREATE INDEX by_email ON customer (email)")
        self._database.execute("CREATE INDEX by_reference ON customer (reference)")
        self._database.execute("BEGIN")

    def add(self, customer: Mapping[str, Any]) -> None:
        """Keep a listed customer."""
        its_id = customer_id(customer)
        row = (its_id, self._hash(customer.get("email")), find_reference(customer.get("description")))
        self._database.execute("INSERT OR IGNORE INTO customer VALUES (?, ?, ?)", row)

    def count(self) -> int:
        """How many there are."""
        found: int = self._database.execute("SELECT count(*) FROM customer").fetchone()[0]
        return found

    def by_email(self, email: str | None) -> list[tuple[str, str | None]]:
        """(id, reference) of the customers with this email, without regard to case and outer spaces."""
        hashed = self._hash(email)
        if hashed is None:
            return []
        return self._database.execute("SELECT id, reference FROM customer WHERE email = ?", (hashed,)).fetchall()

    def by_reference(self, code: str) -> list[str]:
        """The ids of the customers that bear this reference."""
        return [row[0] for row in self._database.execute("SELECT id FROM customer WHERE reference = ?", (code,))]

    def _hash(self, email: object) -> bytes | None:
        text = str(email or "").strip().casefold()
        return hashlib.blake2b(text.encode(), key=self._secret, digest_size=16).digest() if text else None


class Existing:
    """The customers that PayArc has already: read once per run, and only when something is to be sent."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._index = Index(state.ledger_id)

    async def read(self) -> None:
        """Read the whole list."""
        self._index = await self._state.payarc.read_list(0.0, lambda: Index(self._state.ledger_id))
        log.info("PayArc has %d customers to match by email", self._index.count())

    async def match(self, records: Mapping[str, Record]) -> Matches:
        """What PayArc has for these records; a record for which it has several customers is rejected, in place.

        A customer that carries the record's own reference is its own, unless a row already has it or its key was
        forgotten. Beyond that, customers that a row already has, or that carry another row's reference, are left alone.
        """
        state, matches = self._state, Matches()
        by_email = {
            key: self._index.by_email(record.fields.get("email"))
            for key, record in records.items()
            if not record.errors
        }
        by_code = {key: self._index.by_reference(state.reference_of(key)) for key in by_email}
        candidates = [candidate for found in by_email.values() for candidate in found]
        doubtful = bool(candidates) and await state.transact(lambda ledger: ledger.open_without_reference(state.me))
        taken = await self._taken(candidates + [(its_id, None) for found in by_code.values() for its_id in found])
        for key, found in by_email.items():
            own = [its_id for its_id in by_code[key] if its_id not in taken]
            free = sorted(its_id for its_id, code in found if its_id not in taken and code not in taken)
            if own:
                self._decide(records[key], own, "reference", matches)
            elif free and doubtful:
                matches.wait.add(key)
            elif free:
                self._decide(records[key], free, "email", matches)
        return matches

    async def _taken(self, candidates: list[tuple[str, str | None]]) -> set[str]:
        """Ids and references that are a row's."""
        state = self._state
        ids = {its_id for its_id, _ in candidates}
        codes = {code for _, code in candidates if code}
        taken = await state.transact(lambda ledger: ledger.ids_with_rows(state.me, ids)) if ids else set()
        if codes:
            taken |= await state.transact(lambda ledger: ledger.references_with_rows(state.me, codes))
        return taken

    @staticmethod
    def _decide(record: Record, customer_ids: list[str], how: str, matches: Matches) -> None:
        if len(customer_ids) == 1:
            matches.adopt[record.key or ""] = (customer_ids[0], how)
            return
        listed = ", ".join(customer_ids[:10])
        record.errors = {
            "email": [
                f"belongs to {len(customer_ids)} customers at PayArc ({listed}): delete or change all but one of them "
                "there, then run again with retry_rejected=True"
            ]
        }
