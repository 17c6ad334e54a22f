"""Whether the time of the ledger's database is evidence that a lease has ended.

Leases end by the database's clock. If that clock steps forward, live leases seem to have ended, and their rows would be
taken over while their owner still sends. Two other clocks show the step. A run compares the database's clock with its
machine's in every transaction that depends on the time. A step before that shows in the comparison with PayArc's clock,
which an earlier run has stored in the ledger. Without that evidence, a row is taken over only after this machine's
clock has seen its lease unchanged for the lease's whole length and ``settle``.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from payarc_provider.api.client import CustomerPage
    from payarc_provider.sync.ledger import Row

TOLERANCE = 3.0  # seconds: more than the clocks of two machines drift apart between two transactions
PAYARC_TOLERANCE = 5.0  # PayArc's clock is read in whole seconds, and its servers' clocks may differ a little
WIDEST = 1.0  # an offset measured less exactly proves nothing
MEASUREMENTS = 3

log = logging.getLogger(__name__)


class Offset(NamedTuple):
    """By how many seconds one clock is ahead of another: at least ``low``, at most ``high``."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """How inexactly it was measured."""
        return self.high - self.low

    def distance(self, other: Offset) -> float:
        """By how much the two differ at least."""
        return max(0.0, self.low - other.high, other.low - self.high)

    def is_within(self, seconds: float, other: Offset) -> bool:
        """Whether the two certainly differ by no more than so many seconds."""
        return max(self.high - other.low, other.high - self.low) <= seconds


class ClockWatch:
    """Compares the clock of the ledger's database with this machine's and with PayArc's, for one run.

    ``steps``: how many steps of the database's clock were noticed. ``must_compare``: whether a row could be taken over
    if the clocks were compared with PayArc's.

    :param now: this machine's clock in seconds; it keeps running while the machine is suspended
    :param on_step: called when a step is noticed, within the transaction that notices it
    """

    def __init__(self, now: Callable[[], float], on_step: Callable[[], None] = lambda: None) -> None:
        self._now = now
        self._on_step = on_step
        self._offset: Offset | None = None
        self._is_exact = False
        self._trusted: bool | None = None  # None: not compared with PayArc's clock
        self._sightings: dict[str, tuple[tuple[object, ...], float]] = {}
        self.steps = 0
        self.must_compare = False

    def measure(self, read: Callable[[], datetime.datetime]) -> datetime.datetime:
        """The database's time, which is compared with this machine's clock.

        :param read: reads the database's time with one statement
        """
        for _ in range(MEASUREMENTS):
            before = self._now()
            moment = read()
            after = self._now()
            found = Offset(moment.timestamp() - after, moment.timestamp() - before)
            self._is_exact = found.width <= WIDEST
            if self._is_exact:
                break
        known = self._offset
        if known is not None and found.distance(known) > TOLERANCE:
            self._note_step(known, found)
        if known is None or found.distance(known) > 0:
            self._offset = found
        else:
            self._offset = Offset(max(found.low, known.low), min(found.high, known.high))
        return moment

    def _note_step(self, known: Offset, found: Offset) -> None:
        self._trusted = False
        self.steps += 1
        seconds = found.low - known.high if found.low > known.high else known.low - found.high
        log.warning(
            "The clock of the ledger's database went %s by %.0f s. Until leases are renewed, nothing is sent. Check "
            "that machine's time service",
            "forward" if found.low > known.high else "back",
            seconds,
        )
        self._on_step()

    def proves_end(self, row: Row) -> bool:
        """Whether a row may be taken over whose lease and ``settle`` have passed by the database's clock.

        Call it in the transaction that has locked the row, after `measure`.
        """
        if self._trusted is None:
            self.must_compare = True
            return False
        return self._is_exact and self.remaining(row) == 0.0

    def remaining(self, row: Row) -> float:
        """For how many seconds the row's lease still has to be seen unchanged."""
        if self._trusted is not False or row.lease is None:
            return 0.0
        seen, now = (row.claim, row.lease_until), self._now()
        first, since = self._sightings.get(row.key, (None, now))
        if first != seen:
            since = now
            self._sightings[row.key] = seen, now
        return max(0.0, since + row.lease + (row.settle or 0.0) - now)

    def compare(self, fact: str | None, payarc: Offset | None, longest: float, own: float) -> str | None:
        """Compare with PayArc's clock, after `measure`; returns what to store as the ledger's fact, None to keep it.

        The fact says by how much the database's clock is ahead of PayArc's, since when (by PayArc's clock), and how
        long from then on leases may be open that were given before.

        :param payarc: by how much PayArc's clock is ahead of this machine's; None if PayArc shows no time
        :param longest: the longest lease and ``settle`` of the account's open rows
        :param own: this run's lease and ``settle``
        """
        self.must_compare = False
        if payarc is None or self._offset is None:
            self._trusted = fact is None and self.steps == 0
            return None
        found = Offset(self._offset.low - payarc.high, self._offset.high - payarc.low)
        is_exact = found.width <= PAYARC_TOLERANCE / 2
        now = self._now() + payarc.low
        if fact is None:
            self._trusted = is_exact and longest == 0.0 and self.steps == 0
            return _fact(found, now, longest) if is_exact else None
        known, since, wait = _read(fact)
        if found.is_within(PAYARC_TOLERANCE, known):
            self._trusted = now >= since + wait and self.steps == 0
            drifted = found.distance(known) > 1.0
            return _fact(found, since, wait) if drifted and is_exact else None
        self._trusted = False
        if not is_exact:
            return None
        log.warning(
            "The clock of the ledger's database has been changed by about %.0f s since an earlier run. Rows are taken "
            "over only after their lease was seen unchanged",
            found.low - known.low,
        )
        return _fact(found, now, max(longest, own) + PAYARC_TOLERANCE)


def _fact(offset: Offset, since: float, wait: float) -> str:
    return json.dumps({"offset": [round(offset.low, 3), round(offset.high, 3)], "since": round(since), "wait": wait})


def _read(fact: str) -> tuple[Offset, float, float]:
    values = json.loads(fact)
    low, high = values["offset"]
    return Offset(low, high), values["since"], values["wait"]


class PayarcClock:
    """PayArc's clock, as one request of this run has shown it.

    :param now: this machine's clock
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.offset: Offset | None = None
        """By how much it is ahead of this machine's; None if PayArc has not shown its time."""

    async def read(self, request: Callable[[], Awaitable[CustomerPage]]) -> CustomerPage:
        """Make the request, and learn PayArc's time from its response."""
        before = self._now()
        page = await request()
        if page.date is not None:  # in whole seconds
            self.offset = Offset(page.date - self._now(), page.date + 1.0 - before)
        return page

    def earliest(self) -> float | None:
        """PayArc's time now, in Unix seconds, or an earlier one; None if it is not known."""
        return None if self.offset is None else self.offset.low + self._now()
