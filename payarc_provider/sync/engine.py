"""The engine: claim, send, record, look up, each record at most once.

Coroutines decide; requests and transactions run elsewhere and answer through ports. Nothing here knows Airflow, HTTP
or SQL, so that the same code runs against real services and in a simulation.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from payarc_provider.api.tracing import NO_TRACER, Tracer
from payarc_provider.exceptions import PayarcError, PayarcRunStopped
from payarc_provider.sync.claim import Claimer
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.existing import Existing
from payarc_provider.sync.ledger import Claimant
from payarc_provider.sync.ports import Clock, Feed, LedgerPort, PayarcPort, Sink
from payarc_provider.sync.recorder import keep_leases
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.send import Sender
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.settler import LookUp, Settler
from payarc_provider.sync.state import RunState

log = logging.getLogger(__name__)

TERMINATION_SECONDS = 3.0  # Airflow kills a task that has not ended 5 s after it was told to
RELEASE_SECONDS = 5.0


class Run:
    """One run over one input. To be made and used in one event loop.

    :param me: this attempt, as the ledger names it
    :param ledger_id: the ledger's own random id
    :param reader: gives digests of listed customers
    :param observer: is told of each batch
    """

    def __init__(
        self,
        me: Claimant,
        settings: Settings,
        ledger_id: str,
        reader: RecordReader,
        *,
        feed: Feed,
        ledger: LedgerPort,
        payarc: PayarcPort,
        sink: Sink,
        clock: Clock,
        observer: Tracer = NO_TRACER,
    ) -> None:
        self._feed = feed
        self._observer = observer
        self._work = RunState(me, settings, ledger_id, ledger=ledger, payarc=payarc, sink=sink, clock=clock)
        self._sender = Sender(self._work)
        look_up = LookUp(self._work, self._sender, reader)
        existing = Existing(self._work) if settings.match_existing else None
        self._intake = Claimer(self._work, self._sender, existing, look_up.settle)
        self._look_up = look_up
        self._settler = Settler(self._work, self._sender, self._intake, look_up, self._drain)
        self.oldest_unsent: int | None = None

    @property
    def counts(self) -> Counter[str]:
        """Records by what became of them, and what it took."""
        return self._work.counts

    @property
    def done(self) -> Counter[str]:
        """What this attempt itself brought about; see RunState."""
        return self._work.done

    @property
    def met(self) -> Counter[str]:
        """What it only read; see RunState."""
        return self._work.met

    @property
    def answers(self) -> int:
        """How many usable answers PayArc has given."""
        return self._sender.answers

    def terminate(self) -> None:
        """Leave quickly: start nothing more, record what is answered within seconds, release the rest."""
        stopped = PayarcRunStopped(
            "The task was told to stop: run it again; it goes on where it was, nothing is sent twice"
        )
        self._work.halt(stopped, within=TERMINATION_SECONDS)

    async def run(self) -> None:
        """RunState through the input.

        Ends in success only when every accepted record has its id; otherwise raises what stopped it, after everything
        that can be recorded and let go has been.

        :raises Deferral: when the rate limit lets nothing through for ``defer_after`` or more; ``oldest_unsent`` is
            then the index of the first record that was claimed and not sent, None if there is none
        :raises PayarcError: what stopped the run
        """
        helpers = [
            self._sender.recorder.run(),
            keep_leases(self._work),
            self._work.leave_in_time(),
            *(self._sender.run() for _ in range(self._work.settings.concurrency)),
        ]
        tasks = [asyncio.ensure_future(part) for part in (self._main(), *helpers)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # a helper ends only by failing
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._let_go()

    async def _main(self) -> None:
        work = self._work
        try:
            whole = await self._work_through()
        except PayarcError as error:
            work.halt(error)  # the source, the ledger or PayArc's list: what is on its way is waited for all the same
        await self._drain()
        if work.stop:
            raise work.stop
        if self._sender.braked or not whole:
            raise self._sender.braked_error()
        work.raise_if_undecided()

    async def _work_through(self) -> bool:
        """Take the input, batch by batch, and settle what is left open; returns whether it came to the input's end."""
        work, sender = self._work, self._sender
        await work.count_made()
        low = work.settings.batch_size // 2
        whole = False
        while not work.stop:
            batch = await self._feed.next_batch()
            if batch is None:
                whole = True
                break
            with self._observer.span("payarc.batch", {"payarc.batch.size": len(batch)}):
                await self._intake.take(batch)
            await work.until(lambda: sender.outbox.qsize() <= low or bool(work.stop or sender.braked or sender.paused))
            if sender.braked or sender.held_until is not None:
                await self._drain()  # what is on its way may be refused, and so give way
            if len(work.unknown) >= work.settings.batch_size or sender.paused or (sender.braked and work.unknown):
                await self._settler.settle()
            if sender.braked:
                break
        await self._settler.settle()
        return whole

    async def _drain(self) -> None:
        """Wait until nothing is on its way: all sent, answered and recorded; or stopped."""
        await self._work.until(lambda: self._sender.idle)
        while self._sender.held_until is not None and not self._work.stop:
            await self._give_back_or_wait_here(self._sender.held_until)
            await self._work.until(lambda: self._sender.idle)

    async def _give_back_or_wait_here(self, until: float) -> None:
        """The rate limit lets nothing through for long, and nothing is on its way."""
        work = self._work
        if work.unknown:
            await self._look_up.settle()  # while the wait goes on
        left = until - work.clock.now()
        if work.settings.defer_after is not None and left >= work.settings.defer_after:
            work.halt(Deferral(left))
        else:
            self._sender.wait_here()

    async def _let_go(self) -> None:
        """Record what is known, then release every row: nothing goes out after this."""
        work = self._work
        if not self._sender.recorder.idle:
            try:
                await self._sender.recorder.record_group(RELEASE_SECONDS)
            except PayarcError as error:
                log.warning("Answers could not be recorded; a look-up will find their customers: %s", error)
        held = {key for key, intent in work.mine.items() if intent.holds(work.clock.now())}
        unsent = [intent for intent in work.mine.values() if not intent.close_gate()]
        self.oldest_unsent = min((intent.record.index for intent in unsent), default=None)
        certain = [intent.key for intent in unsent if intent.key in held]  # of the others' rows, others may have sent
        if not (work.mine or work.taken):
            return
        try:
            await work.in_ledger(lambda: work.ledger.release(certain), RELEASE_SECONDS)
        except PayarcError as error:
            log.warning("The rows could not be released; they are free when the lease ends: %s", error)
