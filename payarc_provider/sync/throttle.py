"""Pace: when the next POST may go, by PayArc's answers and, where other workers use the same token, by agreement."""

from __future__ import annotations

import asyncio
import logging

from payarc_provider.exceptions import PayarcLedgerError
from payarc_provider.sync.state import MOMENT, RunState

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds; who waits longer for the ledger goes on by PayArc's answers alone
_MEANWHILE = 0.02  # seconds between looks while another sender asks the ledger


class Pace:
    """The rate limit of one run's POSTs. A worker that is alone asks the ledger for nothing."""

    def __init__(self, work: RunState) -> None:
        self._work = work
        self._asking = False

    async def wait(self, unsent: int) -> float:
        """Seconds after which to ask again; 0.0 has reserved a place for one POST.

        :param unsent: how many are ready to go
        """
        work = self._work
        wait = work.payarc.delay(reading=False)
        if wait <= 0:
            return wait
        if self._asking:
            return min(wait, _MEANWHILE)
        asking = work.payarc.asking(work.me.owner[:12], min(work.settings.concurrency, unsent))
        if asking is None:
            return wait
        self._asking = True
        try:
            granted = await asyncio.wait_for(work.ledger.places(asking), _PATIENCE)
        except (PayarcLedgerError, TimeoutError) as error:
            log.warning(
                "The ledger does not tell what other workers send (%s): going on by PayArc's answers alone",
                str(error) or "no answer in time",
            )
            granted = None
        finally:
            self._asking = False
        work.payarc.granted(granted)
        return MOMENT  # much may have happened meanwhile
