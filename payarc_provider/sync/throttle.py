"""One run's access to the rate limit, shared with the other workers on the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from payarc_provider.api.http import now as machine_clock
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.exceptions import PayarcLedgerError
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.places import take_places

log = logging.getLogger(__name__)

_PATIENCE = 10.0
_MEANWHILE = 0.02
_MOMENT = 0.001
_CREATE = "POST /customers"


class Throttle:
    """Asks the limiter, and the ledger where other workers use the same token."""

    def __init__(
        self,
        limiter: RateLimiter,
        transact: Callable[[Callable[[Ledger], Any]], Awaitable[Any]] | None,
        account: str,
        worker: str,
    ) -> None:
        self._limiter = limiter
        self._transact = transact
        self._account = account
        self._worker = worker
        self._asking = False
        if transact is not None:
            limiter.use_account(_CREATE)

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        """Seconds after which to ask again; 0.0 has taken a slot."""
        wait = self._limiter.delay(endpoint)
        if wait <= 0 or endpoint != _CREATE or self._transact is None:
            return wait
        if self._asking:
            return min(wait, _MEANWHILE)
        asking = self._limiter.asking(_CREATE, self._worker, ready)
        if asking is None:
            return wait
        self._asking = True
        try:
            granted = await asyncio.wait_for(
                self._transact(
                    lambda ledger: take_places(ledger, self._account, _CREATE, asking, machine_clock),
                ),
                _PATIENCE,
            )
        except (PayarcLedgerError, TimeoutError) as error:
            log.warning("The ledger does not share the rate limit (%s)", error or "no answer in time")
            granted = None
        finally:
            self._asking = False
        self._limiter.granted(_CREATE, granted)
        return _MOMENT

    def release(self, endpoint: str) -> None:
        """Return a slot that was not used."""
        self._limiter.release(endpoint)
