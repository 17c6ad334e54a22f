"""Reads of PayArc, repeated with patience: they change nothing, and a failed one proves nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from payarc_provider.exceptions import PayarcConnectionFailed, PayarcRateLimited, PayarcUnknownOutcome
from payarc_provider.sync.state import RunState

T = TypeVar("T")


async def read(work: RunState, call: Callable[[], Awaitable[T]]) -> T:
    """What the call gives.

    :raises PayarcError: after several failures in a row, or at once where reading again cannot help
    """
    failures = 0
    while True:
        if work.stop:
            raise work.stop
        wait = await work.payarc.acquire(reading=True)
        if wait > 0:
            await work.sleep(wait)
            continue
        try:
            return await call()
        except PayarcRateLimited:
            work.counts["rate_limited"] += 1  # how long to wait, the rate limit knows
            continue
        except (PayarcConnectionFailed, PayarcUnknownOutcome):
            failures += 1
            if failures > work.settings.max_connection_failures_in_a_row or work.stop:
                raise
            wait = min(30.0, 0.25 * 2**failures)
        await work.sleep(wait)
