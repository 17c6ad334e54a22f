"""Settling: what is unknown is looked up, what others hold is waited for, until nothing is left open."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from payarc_provider.api.client import CustomerPage
from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.claim import Claimer
from payarc_provider.sync.ledger import EPOCH, Resolution, Row
from payarc_provider.sync.lookup import Findings, Window, read_window
from payarc_provider.sync.reads import read
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.send import Sender
from payarc_provider.sync.state import RunState

log = logging.getLogger(__name__)


class LookUp:
    """Finds out from PayArc's list what became of open rows."""

    def __init__(self, work: RunState, sender: Sender, reader: RecordReader) -> None:
        self._work = work
        self._sender = sender
        self._reader = reader

    async def settle(self) -> None:
        """Settle every row of the account that may be open and is in this attempt's hands, or in nobody's any more.

        Nothing may be on its way. The order is what makes it safe: take the rows over, then read the list, then let
        them be sent again.
        """
        work = self._work
        await self._wait_until_ripe()
        if work.stop:
            return
        reach("before_takeover")
        owned = await work.in_ledger(work.ledger.take_over)
        reach("after_takeover")
        self._give_up_lapsed()
        work.taken = {key for key in owned if key not in work.mine or work.mine[key].lost}
        rows = [row for key, row in owned.items() if key in work.unknown or key in work.taken]
        if rows:
            await self._look_up(rows)
        for intent in list(work.unknown.values()):
            work.put_aside(intent)
        self._sender.go_on()

    def _give_up_lapsed(self) -> None:
        """What was not sent before its lease ended is not sent any more.

        Others may have taken its row over and sent it, and the row that has just been taken over may be theirs: the
        same owner, and yet another claim.
        """
        now = self._work.clock.now()
        for intent in self._work.mine.values():
            intent.lost = not intent.holds(now)

    async def _wait_until_ripe(self) -> None:
        """Until the last moment at which a request without an answer can still be committed has passed."""
        work = self._work
        if not work.unknown:
            return
        ripe = max(intent.checked_at for intent in work.unknown.values()) + work.settings.settle
        wait = ripe - work.clock.now()
        log.info("%d records got no usable answer: looking them up in %.0f s", len(work.unknown), max(0.0, wait))
        while wait > 0 and not work.stop:
            await work.sleep(wait)
            wait = ripe - work.clock.now()

    async def _look_up(self, rows: list[Row]) -> None:
        work = self._work
        reach("in_lookup")
        altering = await work.in_ledger(lambda: work.ledger.alters_values(noticed=False))
        since: datetime = min(row.sent_after or EPOCH for row in rows)
        window = await read_window(
            self._read_page,
            since.timestamp(),
            lambda: Window(rows, self._reader, altering=altering),
            work.sleep,
        )
        if window.altering and not altering:  # before what showed it is recorded, and looked at no more
            await work.in_ledger(lambda: work.ledger.alters_values(noticed=True))
        findings = await self._decide(window)
        reach("before_lookup_record")
        found = [Resolution(key, customer_id=its_id, matched_by=how) for key, (its_id, how) in findings.found.items()]
        if found:
            recorded = await work.in_ledger(lambda: work.ledger.record(found))
            work.done["created"] += len(recorded.keys)
            work.found |= recorded.keys
            for key in recorded.taken_ids:  # by another run, since it was asked who has what
                findings.undecided[key] = [findings.found.pop(key)[0]]
            work.promised -= findings.found.keys()
            await work.count_made()
        if findings.absent:
            await work.in_ledger(lambda: work.ledger.record_absence(findings.absent))
        reach("after_lookup_record")
        work.taken -= findings.found.keys() | findings.absent
        work.counts["found"] += len(found)
        await self._note_undecided(findings)
        log.info(
            "Looked up %d records: %d are at PayArc, %d are not, %d cannot be decided",
            len(rows),
            len(found),
            len(findings.absent),
            len(findings.undecided),
        )

    async def _decide(self, window: Window) -> Findings:
        work = self._work
        ids = {one.customer_id for one in window.candidates()}
        return window.decide(await work.in_ledger(lambda: work.ledger.ids_with_rows(ids)) if ids else set())

    async def _note_undecided(self, findings: Findings) -> None:
        work = self._work
        if findings.undecided:  # not to be held while others may find out more
            await work.in_ledger(lambda: work.ledger.give_up(findings.undecided))
            work.taken -= findings.undecided.keys()
        for key in findings.found.keys() | findings.absent:
            work.undecided.pop(key, None)  # what others settled in the meantime may have decided it
        for key, customer_ids in findings.undecided.items():
            work.undecided[key] = f"one of the customers {', '.join(customer_ids[:5])} may be its own"
        for key in findings.absent & work.tries.keys():
            if work.tries[key] >= work.settings.max_tries:
                work.exhausted[key] = f"{work.tries[key]} requests for it got no usable answer and created nothing"

    async def _read_page(self, number: int) -> CustomerPage:
        return await read(self._work, lambda: self._work.payarc.list_page(number))


class Settler:
    """Ends a run: nothing unknown, nothing in other hands, as far as this can be had."""

    def __init__(
        self, work: RunState, sender: Sender, intake: Claimer, look_up: LookUp, drain: Callable[[], Awaitable[None]]
    ) -> None:
        self._work = work
        self._sender = sender
        self._intake = intake
        self._look_up = look_up
        self._drain = drain

    async def settle(self) -> None:
        """Look up, take what is free again, wait for others, until nothing is left or nothing moves."""
        work = self._work
        moved_at = work.clock.now()
        waiting_for = -1
        while True:
            await self._drain()
            if work.stop or work.settings.dry_run:
                return
            if work.unknown or work.aside or self._intake.prepared or await self._left_behind():
                await self._look_up.settle()
            aside = [record for record in work.aside if record.key not in work.exhausted]
            work.aside = []
            await self._intake.take(aside)
            self._sender.release_brake()
            await self._drain()
            waited_for = [record for record in work.aside if record.key not in work.undecided]
            if work.stop or self._sender.braked or not (work.unknown or waited_for):
                return
            if work.unknown or len(work.aside) != len(aside):
                moved_at = work.clock.now()
            if not work.unknown:
                waiting_for = await self._wait_for_others(moved_at, waiting_for)

    async def _left_behind(self) -> bool:
        """Whether a dead run has left rows that can be settled, of this input or not."""
        held, ripe_in = await self._work.in_ledger(self._work.ledger.waiting)
        return held > 0 and ripe_in == 0.0

    async def _wait_for_others(self, moved_at: float, told: int) -> int:
        work = self._work
        if work.clock.now() - moved_at > work.settings.held_patience:
            work.halt(
                PayarcRunStopped(
                    f"{len(work.aside)} records are in the hands of other runs, and nothing has moved for "
                    f"{work.settings.held_patience:g} s: run again when those have ended"
                )
            )
        elif told != len(work.aside):
            log.info("Waiting for %d records that another run holds, or held when it died", len(work.aside))
        _, ripe_in = await work.in_ledger(work.ledger.waiting)
        wait = min(ripe_in if ripe_in is not None else 0.0, work.settings.lease / 4, 10.0)
        await work.sleep(max(0.05, wait))
        return len(work.aside)
