"""Sends claimed records, up to ``concurrency`` at a time, each under a lease that covers its request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from payarc_provider.exceptions import PayarcError, PayarcRunStopped
from payarc_provider.sync.changes import change_of, with_shown
from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.existing import IndexedCustomer, indexed
from payarc_provider.sync.fingerprints import altered_fields, as_column, fingerprints, own_fields
from payarc_provider.sync.ledger import Alterations, Resolution
from payarc_provider.sync.limit_waits import LimitWaits
from payarc_provider.sync.listing import is_before
from payarc_provider.sync.outcomes import (
    Created,
    LeaseTooShort,
    Misconfigured,
    NotCovered,
    Outcome,
    Rejected,
    Throttled,
    Unknown,
    Unreachable,
    Updated,
    outcome_of,
)
from payarc_provider.sync.recorder import Recorder
from payarc_provider.sync.reference import find_reference, with_reference
from payarc_provider.sync.runtime import CREATE, UPDATE
from payarc_provider.sync.state import Claim, RunState
from payarc_provider.sync.update import Updater
from payarc_provider.sync.wording import tally, times

log = logging.getLogger(__name__)


class Sender:
    """Sends the queued claims and classifies the responses.

    It pauses after many requests in a row without a usable response, until a look-up. It also pauses when the rate
    limit requires a wait of ``defer_after`` or more, until the engine decides whether to wait or to defer.

    ``unknown``: key → claim that was sent without a usable response, and has not been looked up.
    ``unknown_updates``: likewise for changes of customers, which are sent again. ``tries``: key → how many requests for
    it got no usable response. ``merged``: key → another row's customer, which PayArc has returned for two requests of
    this record. ``usable_responses``: how many have arrived. ``shows_references``: whether one of them showed the
    reference that was sent. ``throttled_until``: when, by this machine's clock, a long wait for the rate limit ends;
    None if there is none.
    """

    def __init__(self, state: RunState, updater: Updater) -> None:
        self._state = state
        self._updater = updater
        self.recorder = Recorder(state, self._on_id_taken)
        self.unknown: dict[str, Claim] = {}
        self.unknown_updates: dict[str, Claim] = {}
        self.tries: dict[str, int] = {}
        self.merged: dict[str, str] = {}
        self.usable_responses = 0
        self.shows_references = False
        self.throttled_until: float | None = None
        self._queue: asyncio.Queue[Claim] = asyncio.Queue()
        self._taken_ids: set[tuple[str, str]] = set()  # (key, another row's customer that PayArc returned)
        self._busy = self._in_flight = 0
        self._running = asyncio.Event()
        self._running.set()
        self._seen = Alterations()
        self._unknown_in_a_row = 0
        self._unreachable_in_a_row = 0
        self._pauses = 0
        self._not_before = float("-inf")

    @property
    def queued(self) -> int:
        """How many claims wait to be sent."""
        return self._queue.qsize()

    @property
    def paused(self) -> bool:
        """Whether nothing is sent until `resume` or `wait_out_limit`."""
        return not self._running.is_set()

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight, nothing waits to be recorded and nothing can be sent."""
        nothing_to_send = self._queue.empty() or self._state.stop is not None or self.paused
        return self._busy == 0 and self.recorder.idle and nothing_to_send

    def send(self, claim: Claim) -> None:
        """Queue the claim."""
        self._state.claims[claim.key] = claim
        self._queue.put_nowait(claim)

    @property
    def unknown_count(self) -> int:
        """How many requests got no usable response and are still to be dealt with."""
        return len(self.unknown) + len(self.unknown_updates)

    def adopt(self, claim: Claim, customer: IndexedCustomer, matched_by: str) -> None:
        """Record a customer that PayArc has already; nothing is sent."""
        self._state.claims[claim.key] = claim
        self.recorder.add(claim, self._adoption(claim, customer, matched_by))

    def _adoption(self, claim: Claim, customer: IndexedCustomer, matched_by: str) -> Resolution:
        """The row gets the fingerprints of what PayArc has, so that a record that differs is a changed one."""
        record = claim.record
        prints = fingerprints(self._state.ledger_id, record.fields)
        differs = bool(change_of(customer.fingerprints, prints, record.columns).changed)
        return Resolution(
            claim.key,
            claim.id,
            customer_id=customer.customer_id,
            matched_by=matched_by,
            digest=customer.digest if differs else None,
            fingerprints=customer.fingerprints,
        )

    def resume(self) -> None:
        """Send again after a look-up, unless the rate limit allows no request for now."""
        self._unknown_in_a_row = 0
        if self.throttled_until is None:
            self._running.set()

    def wait_out_limit(self) -> None:
        """Wait in this process for the rate limit, instead of deferring the run."""
        self.throttled_until = None
        self._running.set()

    async def run(self) -> None:
        """Send forever, one request at a time; the engine runs ``concurrency`` of these."""
        while True:
            await self._running.wait()
            claim = await self._queue.get()
            self._busy += 1
            self._state.notify()  # the queue is shorter, and the engine may wait for that
            try:
                await self._send(claim)
            finally:
                self._busy -= 1
                self._state.notify()

    async def _send(self, claim: Claim) -> None:
        state = self._state
        while not state.stop:
            if claim.lost:
                state.postpone(claim)
                return
            if self.paused:
                self._queue.put_nowait(claim)
                return
            if (wait := self._not_before - state.runtime.now()) > 0:
                await state.sleep(wait)
            elif (wait := await state.runtime.acquire(_endpoint(claim), self._ready)) > 0:
                await self._wait_for_limit(claim, wait)
            elif await self._send_once(claim):
                return

    @property
    def _ready(self) -> int:
        """How many requests could go now."""
        return min(self._state.settings.concurrency, self._queue.qsize() + self._busy - self._in_flight)

    async def _wait_for_limit(self, claim: Claim, wait: float) -> None:
        """Wait for the rate limit. Before a long wait, pause everything, and the engine decides what to do."""
        self._note_limit(lambda waits: waits.note_wait(_endpoint(claim), wait))
        longest = self._state.settings.defer_after
        if longest is None or wait < longest:
            await self._state.sleep_until_response(wait)
            return
        self.throttled_until = self._state.runtime.now() + wait
        self._running.clear()
        self._state.notify()

    async def _send_once(self, claim: Claim) -> bool:
        """Send one request. Returns False if the caller has to send the claim again."""
        self._in_flight += 1
        try:
            outcome = await self._request(claim)
        finally:
            self._in_flight -= 1
            self._state.notify_response()
        match outcome:
            case Created() | Updated() | Rejected():
                self._note_usable_response(claim)
                self._record(claim, outcome)
            case Unknown(error=error):
                self._state.note_problem(error)
                self._note_unknown(claim)
            case Misconfigured(error=error, processed=processed):
                claim.sent = processed
                self._state.halt(error)
            case Throttled():
                claim.sent = False
                self._note_throttled(claim)
                return False
            case Unreachable(error=error):
                claim.sent = False
                self._state.note_problem(error)
                self._note_unreachable(error)
                return False
            case NotCovered():
                self._state.runtime.release(_endpoint(claim))
                await self._state.sleep(self._state.settings.renew_every / 4)
                return False
        return True

    def _record(self, claim: Claim, outcome: Created | Updated | Rejected) -> None:
        match outcome:
            case Created(customer_id=customer_id, customer=customer):
                if self._state.is_of_another_key(claim.key, customer):
                    self._on_id_taken(claim, customer_id)
                elif is_before(customer, claim.sent_after):
                    found = indexed(customer, self._state.ledger_id)
                    self.recorder.add(claim, self._adoption(claim, found, "email"))
                else:
                    prints = self._altered_prints(claim, customer)
                    self.recorder.add(
                        claim, Resolution(claim.key, claim.id, customer_id=customer_id, fingerprints=prints)
                    )
            case Updated(result=result):
                self.recorder.add(claim, result)
            case Rejected(errors=errors):
                claim.rejected = claim.update is None
                if claim.update is None:
                    self.recorder.add(claim, Resolution(claim.key, claim.id, errors=errors))
                else:
                    self.recorder.add(claim, self._updater.refused(claim, claim.update, errors))

    def _altered_prints(self, claim: Claim, customer: dict[str, Any]) -> str | None:
        """The row's fingerprints if PayArc shows other values than were sent; None if it does not."""
        sent = claim.record.fields
        altered = altered_fields({name: sent[name] for name in sent if name != "description"}, customer)
        if not altered:
            return None
        secret = self._state.ledger_id
        prints, shown = fingerprints(secret, sent), fingerprints(secret, own_fields(customer))
        return as_column(with_shown(prints, shown, altered))

    async def _request(self, claim: Claim) -> Outcome:
        if claim.update is not None:
            return await self._updater.request(claim, claim.update)
        state, runtime = self._state, self._state.runtime
        fields = dict(claim.record.fields)
        if claim.reference:
            fields["description"] = with_reference(fields.get("description"), claim.reference) or ""

        def pass_gate() -> None:
            claim.pass_gate(runtime.now(), state.settings.timeout)
            reach("sending")

        reach("before_send")
        # The attempt was committed before sending. It is unknown whether PayArc honors this key.
        idempotency_key = f"{state.reference_of(claim.key)}-{claim.attempt}"
        try:
            customer = await runtime.create(fields, idempotency_key, claim.attempt, pass_gate)
        except (PayarcError, LeaseTooShort) as error:
            return outcome_of(error)
        reach("after_response")
        if not is_before(customer, claim.sent_after):  # otherwise PayArc has returned an older one with this email
            await self._compare(fields, claim.reference, customer)
        return Created(customer["customer_id"], customer)

    async def _compare(self, fields: dict[str, str], code: str | None, customer: dict[str, Any]) -> None:
        """Learn from the response what PayArc changes."""
        shown = find_reference(customer.get("description"))
        if code is None:
            is_intact = not altered_fields({"description": fields.get("description", "")}, customer)
        elif shown in (None, code):
            is_intact = shown == code
            self.shows_references = self.shows_references or is_intact
        else:
            return  # PayArc has returned the customer of another record
        others = {name: value for name, value in fields.items() if name != "description"}
        seen = Alterations(
            values=self._seen.values or bool(altered_fields(others, customer)),
            descriptions=self._seen.descriptions or ("description" in customer and not is_intact),
        )
        if seen != self._seen:
            await self._state.transact(lambda ledger: ledger.note_alterations(self._state.me.account, seen))
            # Only now: another request's customer, whose response shows the same, must not be recorded earlier.
            self._seen = Alterations(self._seen.values or seen.values, self._seen.descriptions or seen.descriptions)

    def _note_usable_response(self, claim: Claim) -> None:
        self.usable_responses += 1
        self._state.limit_waits.note_response(_endpoint(claim))
        self._unknown_in_a_row = self._unreachable_in_a_row = self._pauses = 0

    def _note_throttled(self, claim: Claim) -> None:
        self._state.counts["rate_limited"] += 1  # the limiter knows how long to wait
        self._note_limit(lambda waits: waits.note_429(_endpoint(claim)))

    def _note_limit(self, note: Callable[[LimitWaits], None]) -> None:
        try:
            note(self._state.limit_waits)
        except PayarcRunStopped as error:
            self._state.halt(error)

    def _note_unreachable(self, error: PayarcError) -> None:
        state = self._state
        self._unreachable_in_a_row += 1
        rounds = self._unreachable_in_a_row // state.settings.concurrency
        if rounds > state.settings.max_connection_failures_in_a_row:
            state.halt(error)
        pause = min(30.0, 0.5 * 2**rounds)
        self._not_before = state.runtime.now() + pause
        state.waits.begin("for a connection to PayArc, trying again at {}", pause)
        if self._unreachable_in_a_row % state.settings.concurrency == 1 % state.settings.concurrency:  # once per round
            log.warning("No connection to PayArc could be made: trying again in %.1f s", pause)

    def _note_unknown(self, claim: Claim) -> None:
        state = self._state
        state.counts["unknown"] += 1
        self._add_unknown(claim)
        self._unknown_in_a_row += 1
        if self._unknown_in_a_row < state.settings.max_unknown_in_a_row or self.paused:
            return
        self._pauses += 1
        if self._pauses > state.settings.max_pauses:
            state.halt(
                PayarcRunStopped(
                    f"PayArc gave no usable response {times(self._unknown_in_a_row)} in a row, {times(self._pauses)} "
                    f"over; in all: {tally(state.problems)}. Run again when PayArc works; nothing is sent twice"
                )
            )
        log.warning(
            "No usable response %s in a row; so far: %s. No new requests until these customers are looked up",
            times(self._unknown_in_a_row),
            tally(state.problems),
        )
        self._running.clear()
        state.notify()

    def _on_id_taken(self, claim: Claim, customer_id: str) -> None:
        """The customer belongs to another record. The list will show what this request created.

        If the records are equal, a look-up may have given that row this record's customer. The next request then
        creates another one, while a PayArc that merges customers returns the same one again.
        """
        if (claim.key, customer_id) in self._taken_ids:
            self.merged[claim.key] = customer_id
        self._taken_ids.add((claim.key, customer_id))
        self._add_unknown(claim)

    def _add_unknown(self, claim: Claim) -> None:
        self.tries[claim.key] = self.tries.get(claim.key, 0) + 1
        if claim.update is None:
            self.unknown[claim.key] = claim
        else:
            claim.update.is_open = True
            self.unknown_updates[claim.key] = claim


def _endpoint(claim: Claim) -> str:
    return CREATE if claim.update is None else UPDATE
