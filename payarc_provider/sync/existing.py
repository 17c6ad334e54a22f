"""``match_existing``: customers that PayArc has already are adopted instead of created."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from payarc_provider.api.client import CustomerPage
from payarc_provider.sync.customer_index import CustomerIndex, IndexedCustomer
from payarc_provider.sync.lookup import read_window
from payarc_provider.sync.reads import read
from payarc_provider.sync.records import Record
from payarc_provider.sync.reference import reference
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


class Existing:
    """The customers that PayArc has already: read once per run, and only when something is to be sent."""

    def __init__(self, work: RunState) -> None:
        self._work = work
        self._index = CustomerIndex(work.ledger_id)

    async def read(self) -> None:
        """Read the whole list, until a pass has certainly met every customer."""
        secret = self._work.ledger_id
        self._index = await read_window(self._page, 0.0, lambda: CustomerIndex(secret), self._work.sleep)
        log.info("PayArc has %d customers, which are matched by email", len(self._index))

    async def _page(self, number: int) -> CustomerPage:
        return await read(self._work, lambda: self._work.payarc.list_page(number))

    async def match(self, records: Mapping[str, Record]) -> Matches:
        """What PayArc has of these records; a record for which it has several customers is refused, in place.

        A customer that bears the record's own reference is its own, unless a row already has it or its key was
        forgotten. Beyond that, customers that a row already has, or that bear another row's reference, are nobody
        else's.
        """
        work, matches = self._work, Matches()
        by_email = {
            key: self._index.by_email(record.fields.get("email"))
            for key, record in records.items()
            if not record.errors
        }
        own_codes = {key: reference(work.ledger_id, work.me.account, key) for key in by_email}
        by_code = {key: self._index.by_reference(code) for key, code in own_codes.items()}
        doubtful = await work.in_ledger(work.ledger.open_without_reference) if any(by_email.values()) else False
        taken = await self._taken([customer for found in (*by_email.values(), *by_code.values()) for customer in found])
        for key, found in by_email.items():
            own = [one.customer_id for one in by_code[key] if one.customer_id not in taken]
            free = sorted(
                one.customer_id for one in found if one.customer_id not in taken and one.reference not in taken
            )
            if own:
                self._decide(records[key], own, "reference", matches)
            elif free and doubtful:
                matches.wait.add(key)
            elif free:
                self._decide(records[key], free, "email", matches)
        return matches

    async def _taken(self, customers: list[IndexedCustomer]) -> set[str]:
        """Ids and references that are a row's."""
        ledger = self._work.ledger
        ids = {one.customer_id for one in customers}
        references = {one.reference for one in customers if one.reference}
        taken = await self._work.in_ledger(lambda: ledger.ids_with_rows(ids)) if ids else set()
        if references:
            taken |= await self._work.in_ledger(lambda: ledger.references_with_rows(references))
        return taken

    @staticmethod
    def _decide(record: Record, customer_ids: list[str], how: str, matches: Matches) -> None:
        if len(customer_ids) == 1:
            matches.adopt[record.key or ""] = (customer_ids[0], how)
            return
        listed = ", ".join(customer_ids[:10])
        record.errors = {
            "email": [
                f"is the one of {len(customer_ids)} customers at PayArc ({listed}): delete or change all but one "
                "of them "
                "there, then run again with retry_rejected=True"
            ]
        }
