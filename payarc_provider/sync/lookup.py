"""Looking up: what PayArc's newest-first list proves about rows whose outcome is unknown.

The list moves while it is read. New customers push the others down, so a customer may be met twice; a deletion pulls
them up, so one may be missed; and customers of the same second may stand in another order on each page, so one may be
met twice while another is missed. A pass therefore proves absence only when it accounts for every position it read:
the total never fell, and exactly as many customers were met twice as the total grew.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from payarc_provider.api.client import CustomerPage
from payarc_provider.api.customer import created_between, customer_id
from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.ledger import Row
from payarc_provider.sync.records import Reader
from payarc_provider.sync.reference import find_reference

log = logging.getLogger(__name__)

MAX_PASSES = 12


@dataclass(frozen=True, slots=True)
class Candidate:
    """A listed customer that may be a row's: its id, the latest moment of its creation, the reference it bears."""

    customer_id: str
    created_by: float | None
    reference: str | None


@dataclass(slots=True)
class Findings:
    """What a look-up proved of each row's key.

    :param found: key → (customer id, "reference" or "fields")
    :param absent: keys for which no customer was made
    :param undecided: key → ids of the customers between which the list cannot decide
    """

    found: dict[str, tuple[str, str]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    undecided: dict[str, list[str]] = field(default_factory=dict)


class Window:
    """What one pass over the list kept: only customers that may be one of the rows'.

    :param rows: the rows to be looked up
    :param reader: gives the digest of a listed customer
    :param altering: whether PayArc is known to alter values, so that equality proves nothing
    """

    def __init__(self, rows: Iterable[Row], reader: Reader, *, altering: bool = False) -> None:
        self.rows = list(rows)
        self.reader = reader
        self.altering = altering
        self.references = {row.reference for row in self.rows if row.reference}
        self.field_sets = {row.fields for row in self.rows if not row.reference}
        self.digests = {row.digest for row in self.rows if not row.reference}
        self.by_reference: dict[str, dict[str, Candidate]] = defaultdict(dict)
        self.by_digest: dict[str, dict[str, Candidate]] = defaultdict(dict)
        self.altered: dict[str, dict[str, Candidate]] = defaultdict(dict)

    def see(self, customer: dict[str, Any]) -> None:
        """Keep the customer if it may be one of the rows'."""
        its_id = customer_id(customer)
        if its_id is None:
            return
        borne = find_reference(customer.get("description"))
        between = created_between(customer)
        candidate = Candidate(its_id, between[1] if between else None, borne)
        if borne in self.references:
            self.by_reference[borne or ""][its_id] = candidate
            return
        for names in self.field_sets:
            digest = self.reader.digest_of_customer(customer, names)
            if digest is None:
                continue
            if digest in self.digests:
                self.by_digest[digest][its_id] = candidate
            elif self.altering:
                self.altered[names][its_id] = candidate

    def candidates(self) -> list[Candidate]:
        """The customers that equality may adopt."""
        return [
            candidate
            for group in (self.by_digest, self.altered)
            for found in group.values()
            for candidate in found.values()
        ]

    def decide(self, ids_with_rows: set[str], references_with_rows: set[str]) -> Findings:
        """What the window proves; equality skips customers that a row has, or that bear a row's reference."""
        findings = Findings()
        equal: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            if row.reference:
                self._decide_by_reference(row, findings)
            else:
                equal[row.digest].append(row)
        for digest, rows in equal.items():
            eligible = {
                candidate.customer_id: candidate
                for candidate in self.by_digest[digest].values()
                if candidate.customer_id not in ids_with_rows and candidate.reference not in references_with_rows
            }
            doubtful = [
                candidate.customer_id
                for candidate in self.altered[rows[0].fields].values()
                if candidate.customer_id not in ids_with_rows and candidate.reference not in references_with_rows
            ]
            self._decide_by_fields(rows, eligible, doubtful, findings)
        return findings

    def _decide_by_reference(self, row: Row, findings: Findings) -> None:
        ids = sorted(self.by_reference[row.reference or ""])
        if len(ids) == 1:
            findings.found[row.key] = (ids[0], "reference")
        elif ids:
            findings.undecided[row.key] = ids
        else:
            findings.absent.add(row.key)

    def _decide_by_fields(
        self, rows: list[Row], eligible: dict[str, Candidate], doubtful: list[str], findings: Findings
    ) -> None:
        rows = sorted(
            rows,
            key=lambda row: (row.sent_after.timestamp() if row.sent_after else 0.0, row.key),
            reverse=True,
        )
        free = dict(eligible)
        for place, row in enumerate(rows):  # the row with the fewest possible customers first
            since = row.sent_after.timestamp() if row.sent_after else 0.0
            ids = sorted(one.customer_id for one in free.values() if one.created_by is None or one.created_by >= since)
            if not ids:
                findings.undecided.update({row.key: sorted(doubtful)} if doubtful else {})
                findings.absent.update(() if doubtful else {row.key})
            elif len(ids) <= len(rows) - place:  # equal records: which of them gets which customer makes no difference
                findings.found[row.key] = (ids[0], "fields")
                del free[ids[0]]
            else:
                findings.undecided[row.key] = ids


class Seer(Protocol):
    """What keeps of a list what it needs."""

    def see(self, customer: dict[str, Any]) -> None:
        """One listed customer, once in a pass."""


ReadPage = Callable[[int], Awaitable[CustomerPage]]
SeerT = TypeVar("SeerT", bound=Seer)


async def read_window(read_page: ReadPage, since: float, new_window: Callable[[], SeerT]) -> SeerT:
    """Read the list, newest first, back to ``since`` (PayArc's time, Unix seconds), until a pass proves absence.

    :return: the window of the pass that has certainly met every customer
    :raises PayarcRunStopped: when the list moves so much that no pass proves anything
    """
    earlier: set[str] | None = None
    for _ in range(MAX_PASSES):
        window = new_window()
        proof = await _pass(read_page, since, window)
        if proof.whole or (proof.uncounted and proof.ids == earlier):
            return window
        earlier = proof.ids if proof.uncounted else None
    raise PayarcRunStopped(
        f"PayArc's customer list changed during each of {MAX_PASSES} readings, so that nothing could be proved; "
        "run again when fewer customers are deleted at PayArc. Nothing is sent twice"
    )


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a pass is worth: ``whole`` if it accounts for every position; ``uncounted`` if PayArc gave no totals and nothing was met twice."""

    ids: set[str]
    whole: bool = False
    uncounted: bool = False


async def _pass(read_page: ReadPage, since: float, window: Seer) -> _Proof:
    seen: set[str] = set()
    repeated = 0
    first_total: int | None = None
    last_total: int | None = None
    number = 1
    while True:
        page = await read_page(number)
        if page.total is not None:
            if last_total is not None and page.total < last_total:
                return _Proof(seen)  # something was deleted: a customer may have slipped past
            first_total = page.total if first_total is None else first_total
            last_total = page.total
        for customer in page.customers:
            its_id = customer_id(customer)
            if its_id is None or its_id in seen:
                repeated += 1
                continue
            seen.add(its_id)
            window.see(customer)
        if _is_last(page, since):
            if first_total is None or last_total is None:
                return _Proof(seen, uncounted=repeated == 0)
            return _Proof(seen, whole=repeated == last_total - first_total)
        number += 1


def _is_last(page: CustomerPage, since: float) -> bool:
    if not page.customers or (page.total_pages is not None and page.page >= page.total_pages):
        return True
    oldest = created_between(page.customers[-1])
    return oldest is not None and oldest[1] < since
