"""Looking up: what PayArc's newest-first list proves about rows whose outcome is unknown.

The list moves while it is read. New customers push the others down, so a customer may be met twice; a deletion pulls
them up, so one may be missed; and customers of the same second may stand in another order on each page, so one may be
met twice while another is missed. A reading therefore proves absence only when it accounts for every position: the
total never fell, and as many different customers were met as there are places down to the first one that is too old,
less those that came on top meanwhile.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from payarc_provider.api.client import CustomerPage
from payarc_provider.api.fields import created_between, customer_id
from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.ledger import Row
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.reference import find_reference, without_reference

log = logging.getLogger(__name__)

MAX_PASSES = 20
FRESH_SECONDS = 5.0  # the list's times are whole seconds, and PayArc's clocks may differ a little


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

    def __init__(self, rows: Iterable[Row], reader: RecordReader, *, altering: bool = False) -> None:
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
            self.altering = self.altering or not self._as_sent(customer, borne or "")
        for names in self.field_sets:
            digest = self.reader.digest_of_customer(customer, names)
            if digest in self.digests:
                self.by_digest[digest][its_id] = candidate
            elif digest is not None:
                self.altered[names][its_id] = candidate

    def _as_sent(self, customer: dict[str, Any], borne: str) -> bool:
        """Whether a customer that is recognised by its reference has the values that were sent."""
        plain = {**customer, "description": without_reference(customer["description"])}
        rows = [row for row in self.rows if row.reference == borne]
        return all(self.reader.digest_of_customer(plain, row.fields) == row.digest for row in rows)

    def candidates(self) -> list[Candidate]:
        """The customers that may be one of the rows'."""
        return [
            candidate
            for group in (self.by_reference, self.by_digest, self.altered)
            for found in group.values()
            for candidate in found.values()
        ]

    def decide(self, ids_with_rows: set[str]) -> Findings:
        """What the window proves.

        :param ids_with_rows: which of the candidates a row has already; they are nobody else's
        """
        findings = Findings()
        equal: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            if row.reference:
                self._decide_by_reference(row, ids_with_rows, findings)
            else:
                equal[row.digest].append(row)
        for digest, rows in equal.items():
            free = {its_id: one for its_id, one in self.by_digest[digest].items() if its_id not in ids_with_rows}
            altered = self.altered[rows[0].fields].keys() - ids_with_rows if self.altering else set()
            self._decide_by_fields(rows, free, sorted(altered), findings)
        return findings

    def _decide_by_reference(self, row: Row, ids_with_rows: set[str], findings: Findings) -> None:
        ids = sorted(self.by_reference[row.reference or ""].keys() - ids_with_rows)
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


async def read_window(
    read_page: ReadPage, since: float, new_window: Callable[[], SeerT], sleep: Callable[[float], Awaitable[None]]
) -> SeerT:
    """Read the list, newest first, back to ``since`` (PayArc's time, Unix seconds), until a pass proves absence.

    :return: the window of the pass that has certainly met every customer
    :raises PayarcRunStopped: when the list moves so much that no pass proves anything
    """
    reading: _Reading[SeerT] | None = None
    for number in range(MAX_PASSES):
        if number:
            await sleep(min(2.0, 0.25 * number))
        if reading is None or not reading.still:
            reading = _Reading(new_window())
        await reading.read(read_page, since)
        if reading.proves:
            return reading.window
    raise PayarcRunStopped(
        f"PayArc's customer list changed during each of {MAX_PASSES} readings, so that nothing could be proved; "
        "run again when fewer customers are deleted at PayArc. Nothing is sent twice"
    )


class _Reading(Generic[SeerT]):
    """One pass over the list, or several over a list that stands still, whose customers then add up.

    ``still``: nothing shows that a customer came or went since the first pass began. ``_fresh``: the customers made so
    shortly before it that one made after it might look the same; they lie on top, and are counted apart.
    """

    def __init__(self, window: SeerT) -> None:
        self.window = window
        self.still = True
        self.proves = False
        self._began: float | None = None
        self._top: float | None = None  # the list's own time from which a customer counts as fresh
        self._total: int | None = None
        self._fresh: set[str] = set()
        self._met: set[str] = set()
        self._met_before: set[str] | None = None

    async def read(self, read_page: ReadPage, since: float) -> None:
        """Read from the newest customer down to the first that is too old."""
        met: set[str] = set()
        places = number = came = listed = 0
        total: int | None = None
        last = False
        while not last:
            number += 1
            page = await read_page(number)
            if number == 1:
                first = self._begin(page)
            elif page.total is None or total is None:
                self.still = page.total is total
            elif page.total < total:
                self.still = False  # something was deleted: a customer may have slipped past
                return
            else:
                came += page.total - total
            total = page.total
            young = [customer for customer in page.customers if not _is_older(customer, since)]
            places += len(young)
            listed += len(page.customers)
            for customer in young:
                self.window.see(customer)
                self._meet(customer, met, top=first and number == 1)
            last = len(young) < len(page.customers) or not page.customers or _is_last(page)
        if len(young) == len(page.customers) and total is not None and listed < total:
            self.still = False  # the list ended before all that it says it has: what is left out may be anybody's
            return
        self._judge(met, places, came, total)

    def _begin(self, page: CustomerPage) -> bool:
        """The first page of a pass; returns whether it is the first pass."""
        if self._top is None:
            newest = created_between(page.customers[0]) if page.customers else None
            self._top = newest[0] - FRESH_SECONDS if newest else -math.inf
            self._began = page.date
            self._total = page.total
            return True
        self.still = self.still and page.total == self._total
        return False

    def _meet(self, customer: dict[str, Any], met: set[str], *, top: bool) -> None:
        its_id = customer_id(customer) or ""
        between = created_between(customer)
        if between is not None and self._is_older(*between):
            met.add(its_id)
        elif top:
            self._fresh.add(its_id)
        elif its_id not in self._fresh:
            self.still = False

    def _is_older(self, earliest: float, latest: float) -> bool:
        """Than any customer that came after the first pass began: by PayArc's clock, or by the newest one then."""
        by_clock = self._began is not None and latest < self._began - FRESH_SECONDS
        return by_clock or (self._top is not None and earliest < self._top)

    def _judge(self, met: set[str], places: int, came: int, total: int | None) -> None:
        if total is None:  # PayArc gives no totals: two passes that agree
            self.proves = len(met) + len(self._fresh) == places and met == self._met_before
            self._met_before, self.still = met, True
            return
        self._met |= met
        if not self.still:
            return
        expected = places - len(self._fresh)
        if came:
            self.proves = len(met) == expected - came
            self.still = False
        else:
            self.proves = expected in (len(met), len(self._met))


def _is_last(page: CustomerPage) -> bool:
    return page.total_pages is not None and page.page >= page.total_pages


def _is_older(customer: dict[str, Any], since: float) -> bool:
    between = created_between(customer)
    return between is not None and between[1] < since
