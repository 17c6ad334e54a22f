"""One run's access to the rate limit, which it shares with the other workers on its ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.exceptions import PayarcLedgerError
from payarc_provider.sync.ledger import Ledger

log = logging.getLogger(__name__)

Transact = Callable[[Callable[[Ledger], Any]], Awaitable[Any]]

_PATIENCE = 10.0  # seconds to wait for the ledger before going on by PayArc's responses alone


class Throttle:
    """Asks the limiter for slots, and the ledger where other workers use the same merchant's windows.

    A worker that is alone asks the ledger once in a window. The ledger's fact ``rate_limit:<account>`` holds numbers,
    times and the workers' random ids.

    :param transact: runs a call with the ledger; None where there is no ledger, and nothing is shared
    :param worker: a random id of this run
    """

    def __init__(
        self,
        limiter: RateLimiter,
        transact: Transact | None,
        account: str,
        worker: str,
    ) -> None:
        self._limiter = limiter
        self._transact = transact
        self._fact = f"rate_limit:{account}"
        self._worker = worker
        self._asking = False
        self._sharing = True

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        """Seconds after which to ask again; 0.0: a slot is taken for one request.

        :param ready: how many requests could go now
        """
        if self._transact is not None and not self._asking and self._limiter.asks_ledger(endpoint):
            self._asking = True
            try:
                await self._ask_ledger(self._transact, endpoint, ready)
            finally:
                self._asking = False
        return self._limiter.acquire(endpoint)

    def release(self, endpoint: str) -> None:
        """Return a slot that was not used."""
        self._limiter.release(endpoint)

    async def _ask_ledger(self, transact: Transact, endpoint: str, ready: int) -> None:
        def change(value: str | None, now: float) -> str:
            return self._limiter.exchange(value, now, endpoint, self._worker, max(1, ready))

        try:
            await asyncio.wait_for(transact(lambda ledger: ledger.update_fact(self._fact, change)), _PATIENCE)
        except (PayarcLedgerError, TimeoutError) as error:
            self._limiter.go_alone(endpoint)
            if self._sharing:
                log.warning(
                    "The ledger could not share the rate limit among workers (%s); PayArc's responses limit the rate",
                    str(error) or "it did not respond in time",
                )
            self._sharing = False
        else:
            self._sharing = True
