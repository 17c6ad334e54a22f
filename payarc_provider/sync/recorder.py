"""Recording answers, a group at a time, and keeping the leases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.intent import Claim
from payarc_provider.sync.ledger import LedgerUnavailable, Resolution
from payarc_provider.sync.state import RunState
from payarc_provider.sync.states import Status

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02  # a transaction costs about the same for one answer as for ten


class Recorder:
    """Records what has been answered, in one transaction per group, while the next answers gather."""

    def __init__(self, work: RunState, on_recorded: Callable[[], None]) -> None:
        self._work = work
        self._on_recorded = on_recorded
        self._answers: list[tuple[Claim, Resolution]] = []
        self._answered = asyncio.Event()
        self._recording = False

    @property
    def idle(self) -> bool:
        """Whether every answer has been recorded."""
        return not self._answers and not self._recording

    def answer(self, intent: Claim, settled: Resolution) -> None:
        """An answer has come."""
        self._answers.append((intent, settled))
        self._answered.set()

    async def run(self) -> None:
        """Record for ever."""
        while True:
            await self._answered.wait()
            self._answered.clear()
            while self._answers:
                await self._work.clock.sleep(GATHER_SECONDS)
                await self.record_group()

    async def record_group(self, patience: float | None = None) -> None:
        """Record all answers that have come, then hand the results on."""
        group, self._answers = self._answers, []
        self._recording = True
        try:
            reach("before_record")
            recorded = await self._work.in_ledger(
                lambda: self._work.ledger.record([settled for _, settled in group]), patience
            )
            reach("after_record")
        except BaseException:
            self._answers = group + self._answers
            raise
        finally:
            self._recording = False
        for intent, settled in group:
            if settled.key in recorded.keys:
                self._finish(intent, settled)
            elif settled.key in recorded.taken_ids:
                # An equal record's row has this customer. What became of this record's own request, the list will tell.
                self._work.tries[intent.key] += 1
                self._work.unknown[intent.key] = intent
            else:
                self._work.put_aside(intent)  # lost to another owner, who finds the customer in the list
        self._on_recorded()
        self._work.changed()

    def _finish(self, intent: Claim, settled: Resolution) -> None:
        self._work.mine.pop(intent.key, None)
        if settled.customer_id:
            status = Status.ADOPTED if settled.matched_by == "email" else Status.CREATED
            self._work.done[status] += 1
            self._work.made += status is Status.CREATED
            self._work.accept(intent.record, settled.customer_id, status, changed=False)
        else:
            self._work.done["rejected"] += 1
            self._work.refuse(intent.record, settled.errors or {}, new=True)


async def keep_leases(work: RunState) -> None:
    """Renew for ever; what cannot be renewed is not sent, since each request asks its lease first.

    :raises LedgerUnavailable: when the ledger cannot be reached for longer than the run has patience
    """
    settings = work.settings
    wait = settings.renew_every
    away_since: float | None = None
    while True:
        await work.clock.sleep(wait)
        wait = settings.renew_every
        held = dict(work.mine)
        if not held and not work.taken:
            continue
        reach("before_renewal")
        asked = work.clock.now()  # before the transaction begins: the lease is never reckoned longer than it is
        try:
            renewed = await work.ledger.renew()
        except LedgerUnavailable as error:
            away_since = asked if away_since is None else away_since
            if asked - away_since > settings.ledger_patience:
                raise
            log.warning("The leases could not be renewed; sending stops before they end: %s", error)
            wait = min(1.0, settings.renew_every / 4)
            continue
        away_since = None
        reach("after_renewal")
        for key, intent in held.items():
            if key in renewed:
                intent.lease_end = max(intent.lease_end, asked + settings.lease)
            elif work.mine.get(key) is intent:
                intent.lost = True
