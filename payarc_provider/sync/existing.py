"""``match_existing``: customers that PayArc already has are adopted instead of created."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from payarc_provider.sync.customer_index import CustomerIndex, IndexedCustomer
from payarc_provider.sync.records import Record
from payarc_provider.sync.state import RunState

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Matches:
    """The customers that PayArc already has for a batch.

    :param adopt: key → (customer id, "email" or "reference")
    :param wait: keys whose match may belong to another run's open row
    """

    adopt: dict[str, tuple[str, str]] = field(default_factory=dict)
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
        log.info("PayArc has %d customers to match by email", len(self._index))

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
        doubtful = matched and await state.transact(lambda ledger: ledger.open_without_reference(state.me, held))
        found = (*by_email.values(), *by_reference.values())
        taken = await self._taken([customer for customers in found for customer in customers])
        for key, candidates in by_email.items():
            own = [customer.customer_id for customer in by_reference[key] if customer.customer_id not in taken]
            free = sorted(
                customer.customer_id
                for customer in candidates
                if customer.customer_id not in taken and customer.reference not in taken
            )
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
    def _adopt_or_reject(record: Record, customer_ids: list[str], how: str, matches: Matches) -> None:
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
