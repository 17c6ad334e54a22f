"""What the parts of a run share: the rows it owns, what is unknown, what is put aside, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from payarc_provider.exceptions import PayarcError, PayarcRunStopped
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.intent import Claim
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger import Claimant, LedgerUnavailable, Row
from payarc_provider.sync.ports import Clock, LedgerPort, PayarcPort, Sink
from payarc_provider.sync.records import Errors, Record
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.states import Status

log = logging.getLogger(__name__)
T = TypeVar("T")
MOMENT = 0.001  # seconds; less might not move a clock on


class RunState:
    """The desk of one run.

    ``mine``: key → intent, for every row this attempt owns and has a record for. ``unknown``: those of them that were
    sent and got no usable answer. ``aside``: records to be looked at again, since somebody else holds their row or the
    look-up freed it. ``taken``: rows taken over from others and not settled. ``undecided``: key → why the list cannot
    decide. ``exhausted``: key → why it is not tried again in this run. ``promised``: keys that ``max_new`` let pass and
    that are not finished. ``made``: how many customers the DAG run has created, as ``max_new`` counts them.

    For metrics, which count nothing twice: ``done``: what this attempt itself brought about, rows that it recorded and
    requests without a usable answer. ``met``: records that it only read, known or refused before, and that it would
    meet again if it read them again. ``found``: keys whose customer this attempt found in PayArc's list.
    """

    def __init__(
        self,
        me: Claimant,
        settings: Settings,
        ledger_id: str,
        *,
        ledger: LedgerPort,
        payarc: PayarcPort,
        sink: Sink,
        clock: Clock,
    ) -> None:
        self.me = me
        self.settings = settings
        self.ledger_id = ledger_id
        self.ledger = ledger
        self.payarc = payarc
        self.sink = sink
        self.clock = clock
        self.counts: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.found: set[str] = set()
        self.mine: dict[str, Claim] = {}
        self.unknown: dict[str, Claim] = {}
        self.aside: list[Record] = []
        self.taken: set[str] = set()
        self.promised: set[str] = set()
        self.made = 0
        self.tries: Counter[str] = Counter()
        self.undecided: dict[str, str] = {}
        self.exhausted: dict[str, str] = {}
        self.stop: PayarcError | None = None
        self.leave_by: float | None = None
        self._stopped = asyncio.Event()
        self._heard = asyncio.Event()
        self._changed = asyncio.Event()

    # ---- results ------------------------------------------------------------------------------------------------

    def accept(self, record: Record, customer_id: str, status: Status, *, changed: bool) -> None:
        """The record has its customer."""
        self.promised.discard(record.key or "")
        self.counts[status] += 1
        if status is Status.KNOWN and record.key not in self.found:
            self.met[status] += 1
        self.counts["changed"] += changed
        self.sink.accepted(record, customer_id, status, changed=changed)

    def refuse(self, record: Record, errors: Errors, *, new: bool) -> None:
        """The record is refused."""
        self.promised.discard(record.key or "")
        self.counts["rejected"] += 1
        self.sink.refused(record, errors, new=new)

    async def count_made(self) -> None:
        """Ask the ledger how many customers the DAG run has created, where ``max_new`` wants to know."""
        if self.settings.max_new is not None and not self.settings.dry_run:
            self.made = await self.in_ledger(self.ledger.made)

    def same_run(self, row: Row | None) -> bool:
        """Whether this DAG run, in whichever try, wrote the row."""
        return (
            row is not None
            and self.me.run_id is not None
            and (row.dag_id, row.run_id) == (self.me.dag_id, self.me.run_id)
        )

    def put_aside(self, intent: Claim) -> None:
        """The row is not this attempt's any more, or is free: its record is looked at again before the run ends."""
        if self.mine.get(intent.key) is intent:
            del self.mine[intent.key]
        self.unknown.pop(intent.key, None)
        self.aside.append(intent.record)

    # ---- stopping and waiting -----------------------------------------------------------------------------------

    def halt(self, error: PayarcError, *, within: float | None = None) -> None:
        """Start nothing more; what is on its way is waited for and recorded.

        :param within: seconds after which even that is given up
        """
        if self.stop is None or isinstance(self.stop, Deferral):
            self.stop = error
        if within is not None:
            self.leave_by = self.clock.now() + within
        self._stopped.set()
        self._heard.set()
        self.changed()

    def hear(self) -> None:
        """An answer has come: whoever waits for one goes on, and whoever waits from now on waits for another."""
        self._heard.set()
        if self.stop is None:
            self._heard.clear()

    def raise_if_undecided(self) -> None:
        """
        End badly if a person must look.

        :raises PayarcRunStopped: naming at most ten of the records
        """
        left = self.undecided | self.exhausted
        if not left:
            return
        first = "; ".join(f"{display_key(key)}: {why}" for key, why in list(left.items())[:10])
        raise PayarcRunStopped(
            f"{len(left)} records are left pending: {first}. Look at them in PayArc's dashboard, settle them with "
            "python -m payarc_provider.ledger, and run again; nothing is sent twice"
        )

    def changed(self) -> None:
        """Something that others wait for may have happened."""
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, or it is time to leave."""
        while not condition():
            self._changed.clear()
            if self.leave_by is None:
                await self._changed.wait()
                continue
            if (left := self.leave_by - self.clock.now()) <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, MOMENT)):
                    await self._changed.wait()

    async def leave_in_time(self) -> None:
        """End the run when the time to leave has come, whatever it is at.

        :raises PayarcError: what stopped the run
        """
        await self._stopped.wait()
        while self.leave_by is None:
            self._changed.clear()
            await self._changed.wait()
        await self.clock.sleep(max(self.leave_by - self.clock.now(), MOMENT))
        if self.stop:
            raise self.stop

    async def sleep(self, seconds: float, *, or_heard: bool = False) -> None:
        """Wait, or until the run is stopped, or an answer has come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, MOMENT)):
                await (self._heard if or_heard else self._stopped).wait()

    async def in_ledger(self, call: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
        """A transaction, repeated while the ledger's database cannot be reached; each may be repeated safely.

        :raises LedgerUnavailable: when patience (seconds) is at its end
        """
        started = self.clock.now()
        patience = self.settings.ledger_patience if patience is None else patience
        pause = 0.1
        while True:
            try:
                return await call()
            except LedgerUnavailable as error:
                if self.clock.now() - started > patience:
                    raise
                log.warning("%s; trying again", error)
            await self.clock.sleep(pause)
            pause = min(5.0, pause * 2)
