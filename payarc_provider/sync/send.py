"""Sending: claimed records go out, as many at once as there are senders, each covered by its lease."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from payarc_provider.exceptions import PayarcAuthError, PayarcConnectionFailed, PayarcError, PayarcRunStopped
from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.intent import Claim
from payarc_provider.sync.ledger import Resolution
from payarc_provider.sync.recorder import Recorder
from payarc_provider.sync.reference import reference, with_reference
from payarc_provider.sync.state import RunState
from payarc_provider.sync.states import Created, Deferred, LeaseTooShort, Outcome, Refused, Unknown, Wrong, outcome_of

log = logging.getLogger(__name__)


class Sender:
    """Sends what is in the outbox.

    It pauses when PayArc gives no usable answer many times in a row, until those are looked up, and before a wait for
    the rate limit from ``defer_after`` on, until it is decided who waits; and holds back what the ``max_new`` brake
    does not let through.

    ``answers``: how many usable answers have come. ``held_until``: until when the rate limit lets nothing through, this
    process's clock, where that is long.
    """

    def __init__(self, work: RunState) -> None:
        self._work = work
        self.recorder = Recorder(work, self.release_brake)
        self.outbox: asyncio.Queue[Claim] = asyncio.Queue()
        self.braked: list[Claim] = []
        self._busy = self._sending = 0
        self._going = asyncio.Event()
        self._going.set()
        self._altering = False
        self._unknown_in_a_row = 0
        self._unreachable_in_a_row = 0
        self._pauses = 0
        self._not_before = float("-inf")
        self.answers = 0
        self.held_until: float | None = None

    @property
    def paused(self) -> bool:
        """Whether nothing is sent until somebody says so."""
        return not self._going.is_set()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way and nothing can go out."""
        nothing_to_send = self.outbox.empty() or self._work.stop is not None or self.paused
        return self._busy == 0 and self.recorder.idle and nothing_to_send

    @property
    def _unsent(self) -> int:
        """How many are ready to go."""
        return min(self._work.settings.concurrency, self.outbox.qsize() + self._busy - self._sending)

    def queue(self, intent: Claim) -> None:
        """Send it when its turn comes."""
        self._work.mine[intent.key] = intent
        self.outbox.put_nowait(intent)

    def adopt(self, intent: Claim, customer_id: str, how: str) -> None:
        """Nothing is sent: PayArc has the customer already."""
        self._work.mine[intent.key] = intent
        self.recorder.answer(intent, Resolution(intent.key, customer_id=customer_id, matched_by=how))

    def go_on(self) -> None:
        """The unknown outcomes have been looked up."""
        self._unknown_in_a_row = 0
        if self.held_until is None:
            self._going.set()

    def wait_here(self) -> None:
        """What is left of the long wait is waited for in this process."""
        self.held_until = None
        self._going.set()

    async def run(self) -> None:
        """Send for ever, one at a time; there are as many of these as ``concurrency``."""
        while True:
            await self._going.wait()
            intent = await self.outbox.get()
            self._busy += 1
            try:
                await self._send(intent)
            finally:
                self._busy -= 1
                self._work.changed()

    async def _send(self, intent: Claim) -> None:
        work = self._work
        while not work.stop:
            if intent.lost:
                work.put_aside(intent)
                return
            if self.paused:
                self.outbox.put_nowait(intent)
                return
            if self._brake_holds(intent):
                return
            if (wait := self._not_before - work.clock.now()) > 0:
                await work.sleep(wait)
            elif (wait := await work.payarc.acquire(reading=False, ready=self._unsent)) > 0:
                await self._wait_for_limit(wait)
            elif await self._sent(intent):
                return

    async def _wait_for_limit(self, wait: float) -> None:
        """Wait, or until an answer tells more, unless that is long: then everybody stops sending."""
        longest = self._work.settings.defer_after
        if longest is None or wait < longest:
            await self._work.sleep(wait, or_heard=True)
            return
        self.held_until = self._work.clock.now() + wait
        self._going.clear()
        self._work.changed()

    async def _sent(self, intent: Claim) -> bool:
        """Send once; returns whether the intent is done with, for now or for good."""
        self._sending += 1
        try:
            outcome = await self._attempt(intent)
        finally:
            self._sending -= 1
            self._work.hear()
        match outcome:
            case Created(customer_id=customer_id):
                self._answered(intent, Resolution(intent.key, customer_id=customer_id))
            case Refused(errors=errors):
                self._answered(intent, Resolution(intent.key, errors=errors))
            case Unknown():
                self._note_unknown(intent)
            case Wrong(error=error):
                # A 401 comes before the request is handled; of other strange answers nobody knows who gave them.
                intent.open = not (isinstance(error, PayarcAuthError) and error.status == 401)
                self._work.halt(error)
            case Deferred():
                await self._defer(intent, outcome)
                return False
        return True

    async def _attempt(self, intent: Claim) -> Outcome:
        work = self._work
        fields = dict(intent.record.fields)
        if intent.reference:
            fields["description"] = with_reference(fields.get("description"), intent.reference) or ""

        def guard() -> None:
            intent.let_out(work.clock.now(), work.settings.timeout)
            reach("sending")

        reach("before_send")
        try:
            created = await work.payarc.create(fields, idempotency_key(work, intent), guard)
        except (PayarcError, LeaseTooShort) as error:
            return outcome_of(error)
        reach("after_answer")
        if not self._altering and not _as_sent(fields, created.customer):
            self._altering = await work.in_ledger(lambda: work.ledger.alters_values(noticed=True))
        return created

    async def _defer(self, intent: Claim, outcome: Deferred) -> None:
        """Nothing was processed: the intent is as good as unsent; wait and go again."""
        work = self._work
        if not outcome.leased:
            work.payarc.release(reading=False)
            await work.sleep(work.settings.renew_every / 4)
            return
        intent.open = False
        if outcome.connected:
            work.counts["rate_limited"] += 1  # how long to wait, the rate limit knows
            return
        self._unreachable_in_a_row += 1
        rounds = self._unreachable_in_a_row // work.settings.concurrency
        if rounds > work.settings.max_connection_failures_in_a_row:
            work.halt(PayarcConnectionFailed())
        self._not_before = work.clock.now() + min(30.0, 0.5 * 2**rounds)

    def _answered(self, intent: Claim, settled: Resolution) -> None:
        self.answers += 1
        self._unknown_in_a_row = self._unreachable_in_a_row = self._pauses = 0
        self.recorder.answer(intent, settled)

    def _note_unknown(self, intent: Claim) -> None:
        work = self._work
        work.counts["unknown"] += 1
        work.done["unknown"] += 1
        work.tries[intent.key] += 1
        work.unknown[intent.key] = intent
        self._unknown_in_a_row += 1
        if self._unknown_in_a_row < work.settings.max_unknown_in_a_row or self.paused:
            return
        self._pauses += 1
        if self._pauses > work.settings.max_pauses:
            work.halt(
                PayarcRunStopped(
                    f"PayArc has given no usable answer {self._unknown_in_a_row} times in a row, {self._pauses} "
                    "times over: "
                    "run again when it works; what was sent will be looked up, and nothing is sent twice"
                )
            )
        log.warning("No usable answer %d times in a row: pausing until these are looked up", self._unknown_in_a_row)
        self._going.clear()
        work.changed()

    # ---- the max_new brake --------------------------------------------------------------------------------------

    def _brake_holds(self, intent: Claim) -> bool:
        """Whether ``max_new`` forbids to send this one now; it is kept apart, and freed when another is refused."""
        most = self._work.settings.max_new
        if most is None or intent.key in self._work.promised:
            return False
        if self._work.made + len(self._work.promised) < most:
            self._work.promised.add(intent.key)
            return False
        self.braked.append(intent)
        return True

    def release_brake(self) -> None:
        """Let those that were held try again: a place may have become free."""
        while self.braked:
            self.outbox.put_nowait(self.braked.pop())

    def braked_error(self) -> PayarcRunStopped:
        """What ends a run that the brake held."""
        return PayarcRunStopped(
            f"max_new={self._work.settings.max_new} customers have been created in this run, and more records "
            "are left: check that key and source are the right ones, then raise max_new and run again"
        )


def idempotency_key(work: RunState, intent: Claim) -> str:
    """The record's code and the attempt, both committed before sending. PayArc may or may not honour it."""
    return f"{reference(work.ledger_id, work.me.account, intent.key)}-{intent.attempt}"


def attempt_of(idempotency_key: str) -> int:
    """The attempt that an `idempotency_key` names."""
    return int(idempotency_key.rpartition("-")[2])


def _as_sent(fields: dict[str, str], customer: dict[str, Any]) -> bool:
    """Whether PayArc stored what was sent, as far as its answer shows it."""
    shown = {name: customer[name] for name in fields if name in customer}
    return all(value is not None and str(value).strip() == fields[name] for name, value in shown.items())
