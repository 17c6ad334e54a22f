"""PayArc's whole list, read at the pace that PayArc allows and with patience for failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from payarc_provider.api.client import CustomerPage, PayarcClient
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.exceptions import PayarcConnectionFailed, PayarcRateLimited, PayarcUnknownOutcome
from payarc_provider.sync.lookup import SeerT, read_window

ENDPOINT = "GET /customers"
MAX_FAILURES_IN_A_ROW = 8


class Listing:
    """Reads the list of one merchant.

    :param limiter: the same one that the client teaches
    :param tell: called with the page that was read last
    """

    def __init__(self, client: PayarcClient, limiter: RateLimiter, tell: Callable[[CustomerPage], None]) -> None:
        self._client = client
        self._limiter = limiter
        self._tell = tell

    def read(self, new_window: Callable[[], SeerT]) -> SeerT:
        """The window of a pass that has certainly met every customer.

        :raises PayarcError: when PayArc cannot be read, or the list moves so much that no pass proves anything
        """
        return asyncio.run(read_window(self._page, 0.0, new_window, asyncio.sleep))

    async def _page(self, number: int) -> CustomerPage:
        failures = 0
        while True:
            wait = self._limiter.acquire(ENDPOINT)
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            try:
                page = self._client.list_page(number)
            except PayarcRateLimited:
                continue  # how long to wait, the limiter knows
            except (PayarcConnectionFailed, PayarcUnknownOutcome):
                failures += 1
                if failures > MAX_FAILURES_IN_A_ROW:
                    raise
                wait = min(30.0, 0.25 * 2**failures)
            else:
                self._tell(page)
                return page
            await asyncio.sleep(wait)
