"""Reads PayArc's customer list, newest first, until a reading is known to be complete.

The list shifts while it is read. New customers push the others down, so that a customer may appear on two pages. A
deletion pulls them up, so that a customer may be missed. Customers created in the same second may be ordered
differently on each page, so that one may appear twice while another is missed. A reading is therefore complete only if
it accounts for every position: the total never fell, and there were as many different customers as positions down to
the first customer that is too old, minus those added at the top in the meantime.

A reading ends at the first customer that is too old. So a list that is not newest first proves nothing.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from payarc_provider.api.client import CustomerPage
from payarc_provider.api.fields import created_between, read_customer_id
from payarc_provider.exceptions import (
    PayarcConnectionFailed,
    PayarcError,
    PayarcRateLimited,
    PayarcRunStopped,
    PayarcUnknownOutcome,
)
from payarc_provider.sync.limit_waits import LimitWaits
from payarc_provider.sync.outcomes import problem_of
from payarc_provider.sync.runtime import LIST, Runtime
from payarc_provider.sync.wording import counted, tally

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_READINGS = 20
MAX_FAILURES = 8  # in a row
FRESH_SECONDS = 5.0  # the list's times are whole seconds, and PayArc's clocks may differ a little


class Collector(Protocol):
    """Collects what it needs from a list."""

    def add(self, customer: dict[str, Any]) -> None:
        """Take in a listed customer, which may be passed more than once."""


CollectorT = TypeVar("CollectorT", bound=Collector)
ReadPage = Callable[[int], Awaitable[CustomerPage]]


class PatientReader:
    """Reads from PayArc and retries with backoff, which is safe because a read changes nothing.

    :param on_rate_limited: called for each 429
    :param on_failure: called with the error of each attempt that got no usable response
    :param limit_waits: logs and bounds the waits for the rate limit
    :param max_failures: how many attempts in a row may fail
    :param sleep: may return early when the run is stopped
    :param stop: returns the error that stopped the run, or None
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        on_rate_limited: Callable[[], None] = lambda: None,
        on_failure: Callable[[PayarcError], None] = lambda error: None,
        limit_waits: LimitWaits | None = None,
        max_failures: int = MAX_FAILURES,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        stop: Callable[[], PayarcError | None] = lambda: None,
    ) -> None:
        self._runtime = runtime
        self._on_rate_limited = on_rate_limited
        self._on_failure = on_failure
        self._limit_waits = limit_waits or LimitWaits(runtime.now)
        self._max_failures = max_failures
        self._sleep = sleep or runtime.sleep
        self._stop = stop

    async def read(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a request that only reads.

        :raises PayarcError: too many attempts in a row failed, another attempt cannot help, or the run was stopped
        """
        failures = 0
        problems: Counter[str] = Counter()
        while True:
            if stop := self._stop():
                raise stop
            if (wait := await self._runtime.acquire(LIST)) > 0:
                self._limit_waits.note_wait(LIST, wait)
                await self._sleep(wait)
                continue
            try:
                result = await call()
            except PayarcRateLimited:
                self._on_rate_limited()  # the limiter knows how long to wait
                self._limit_waits.note_429(LIST)
            except (PayarcConnectionFailed, PayarcUnknownOutcome) as error:
                failures += 1
                problems[problem_of(error)] += 1
                self._on_failure(error)
                if failures > self._max_failures and isinstance(error, PayarcUnknownOutcome):
                    raise PayarcUnknownOutcome(
                        f"PayArc gave no usable response to {counted(failures, 'read')} in a row: {tally(problems)}. "
                        "Run again when PayArc works; nothing is sent twice",
                        status=error.status,
                        may_have_acted=False,
                    ) from None
                if failures > self._max_failures or self._stop():
                    raise
                pause = min(30.0, 0.25 * 2**failures)
                log.warning(
                    "A read from PayArc failed (%s): trying again in %.1f s (%d of %d)",
                    problem_of(error),
                    pause,
                    failures,
                    self._max_failures,
                )
                await self._sleep(pause)
            else:
                self._limit_waits.note_response(LIST)
                return result

    async def read_list(
        self,
        since: float,
        new_collector: Callable[[], CollectorT],
        on_page: Callable[[CustomerPage], None] = lambda page: None,
    ) -> CollectorT:
        """All customers created at ``since`` (PayArc's clock, Unix seconds) or later.

        :param on_page: called with each page
        :return: the collector of a reading that is known to be complete
        :raises PayarcRunStopped: the list is not newest first, or changed too much for any reading to be complete
        """

        async def read_page(number: int) -> CustomerPage:
            page = await self.read(lambda: self._runtime.list_page(number))
            on_page(page)
            return page

        return await read_completely(read_page, since, new_collector, self._sleep)


async def read_completely(
    read_page: ReadPage,
    since: float,
    new_collector: Callable[[], CollectorT],
    sleep: Callable[[float], Awaitable[None]],
) -> CollectorT:
    """Read the list again and again until a reading is known to be complete; see `PatientReader.read_list`."""
    reading: Reading[CollectorT] | None = None
    for number in range(MAX_READINGS):
        if number:
            if number > 1:  # some lists always need two readings
                log.info("PayArc's customer list changed, reading it again (%d of %d)", number + 1, MAX_READINGS)
            await sleep(min(2.0, 0.25 * number))
        if reading is None or not reading.unchanged:
            reading = Reading(new_collector())
        await reading.read(read_page, since)
        if reading.complete:
            return reading.collector
    raise PayarcRunStopped(
        f"PayArc's customer list changed during each of {MAX_READINGS} readings, so it proves nothing. "
        "Run again when fewer customers are deleted at PayArc; nothing is sent twice"
    )


class Reading(Generic[CollectorT]):
    """One pass over the list, or several passes over a list that does not change, whose customers are combined.

    ``complete``: whether every customer has certainly been collected. ``unchanged``: whether nothing shows that a
    customer was added or deleted since the first pass began. ``_fresh``: customers created so shortly before the first
    pass that a customer created after it may have the same time. They are at the top of the list and counted apart.
    """

    def __init__(self, collector: CollectorT) -> None:
        self.collector = collector
        self.unchanged = True
        self.complete = False
        self._started: float | None = None  # PayArc's clock
        self._fresh_from: float | None = None  # creation time from which a customer counts as fresh
        self._total: int | None = None
        self._fresh: set[str] = set()
        self._seen: set[str] = set()
        self._seen_before: set[str] | None = None
        self._has_undated = False

    async def read(self, read_page: ReadPage, since: float) -> None:
        """Read from the newest customer down to the first that is too old."""
        seen: set[str] = set()
        positions = number = added = listed = 0
        total: int | None = None
        last = False
        while not last:
            number += 1
            page = await read_page(number)
            if number == 1:
                first_pass = self._begin_pass(page)
            elif page.total is None or total is None:
                self.unchanged = page.total is total
            elif page.total < total:
                self.unchanged = False  # something was deleted: a customer may have slipped past
                return
            else:
                added += page.total - total
            total = page.total
            wanted = [customer for customer in page.customers if not is_before(customer, since)]
            positions += len(wanted)
            listed += len(page.customers) + len(page.unreadable)
            for customer in wanted:
                self.collector.add(customer)
                self._count(customer, seen, on_top=first_pass and number == 1)
            last = len(wanted) < len(page.customers) or _is_empty(page) or _is_last(page)
        if len(wanted) == len(page.customers) and total is not None and listed < total:
            self.unchanged = False  # the list ended early, and nothing is known about the rest
            return
        self._check_complete(seen, positions, added, total)

    def _begin_pass(self, page: CustomerPage) -> bool:
        """Take in the first page of a pass; returns whether it is the first pass."""
        if self._fresh_from is None:
            newest = created_between(page.customers[0]) if page.customers else None
            self._fresh_from = newest[0] - FRESH_SECONDS if newest else -math.inf
            self._started = page.date
            self._total = page.total
            return True
        self.unchanged = self.unchanged and page.total == self._total
        return False

    def _count(self, customer: dict[str, Any], seen: set[str], *, on_top: bool) -> None:
        customer_id = read_customer_id(customer) or ""
        between = created_between(customer)
        self._has_undated = self._has_undated or between is None
        if between is None or self._predates_reading(*between):
            seen.add(customer_id)
        elif on_top:
            self._fresh.add(customer_id)
        elif customer_id not in self._fresh:
            self.unchanged = False

    def _predates_reading(self, earliest: float, latest: float) -> bool:
        """Whether a customer created between these times is older than any created since the first pass began."""
        by_clock = self._started is not None and latest < self._started - FRESH_SECONDS
        return by_clock or (self._fresh_from is not None and earliest < self._fresh_from)

    def _check_complete(self, seen: set[str], positions: int, added: int, total: int | None) -> None:
        if total is None or self._has_undated:  # without totals or times, two passes have to agree
            self.complete = len(seen) + len(self._fresh) == positions and seen == self._seen_before
            self._seen_before, self.unchanged = seen, True
            return
        self._seen |= seen
        if not self.unchanged:
            return
        expected = positions - len(self._fresh)
        if added:
            self.complete = len(seen) == expected - added
            self.unchanged = False
        else:
            self.complete = expected in (len(seen), len(self._seen))


class Order:
    """Checks that one pass over the list shows customers newest first.

    Times without a zone are compared with each other only, so the lowest time is kept for each precision.
    """

    def __init__(self) -> None:
        self._lowest: dict[float, float] = {}
        self._seen: set[str] = set()

    def holds(self, page: CustomerPage) -> bool:
        """Take in the next page; returns False if a customer stands below an older one."""
        for customer in page.customers:
            customer_id, between = read_customer_id(customer) or "", created_between(customer)
            if between is None or customer_id in self._seen:  # new customers push those of the last page down again
                continue
            self._seen.add(customer_id)
            earliest, precision = between[0], between[1] - between[0]
            lowest = self._lowest.get(precision, earliest)
            if earliest > lowest + FRESH_SECONDS:
                return False
            self._lowest[precision] = min(lowest, earliest)
        return True


def _is_last(page: CustomerPage) -> bool:
    return page.total_pages is not None and page.page >= page.total_pages


def _is_empty(page: CustomerPage) -> bool:
    return not page.customers and not page.unreadable


def is_before(customer: dict[str, Any], since: float) -> bool:
    """Whether the customer was certainly created before ``since``."""
    between = created_between(customer)
    return between is not None and between[1] < since
