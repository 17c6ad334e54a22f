"""The protocol without one of its rules. The simulation must notice each removal within 10,000 histories.

Most rules are removed from the ledger's model, from the claim's gate or from the decision of a look-up, because what
these mean is fixed, while the engine around them may change.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from payarc_provider.api.client import CustomerPage
from payarc_provider.exceptions import PayarcConnectionFailed, PayarcUnknownOutcome
from payarc_provider.sync import candidates, claim, clock, engine, listing, lookup, row_memory, send, state, update
from payarc_provider.sync.ledger import Alterations, Claimant, Evidence, LedgerUnavailable, Recorded, Row, State
from payarc_provider.sync.ledger.rows import CLOSED
from payarc_provider.sync.lookup import Candidates
from payarc_provider.sync.outcomes import NotCovered, Throttled, Unknown, outcome_of
from payarc_provider.sync.plan import Allowance
from payarc_provider.sync.proof import ListProof
from payarc_provider.sync.state import Claim

from . import ledger, plans
from .ledger import LedgerModel, fingerprints_of, moment
from .records import KEYS
from .runtime import SimRuntime
from .world import World

MUTANTS: dict[str, Callable[[], contextlib.AbstractContextManager[type[World]]]] = {}


def mutant(rule: str) -> Callable[[Any], Any]:
    """Register a context manager that yields a world without ``rule``."""

    def register(make: Callable[[], Iterator[type[World]]]) -> Any:
        MUTANTS[rule] = contextlib.contextmanager(make)
        return make

    return register


def with_ledger(**methods: Any) -> type[World]:
    model = type("Mutant", (LedgerModel,), methods)
    return type("MutantWorld", (World,), {"ledger_model": model})


def anything_but_created_is_free(record: Any, row: Row | None, retry_rejected: Any) -> bool:
    return row is None or row.state != State.CREATED


# ---- claim, then send ---------------------------------------------------------------------------------------------


@mutant("a batch's claim is committed before its requests are sent")
def _claim_without_commit() -> Iterator[type[World]]:
    def claim(self: LedgerModel, *args: Any, **options: Any) -> Any:
        kept = dict(self.table)
        seen = LedgerModel.claim(self, *args, **options)
        self.table = kept
        return seen

    yield with_ledger(claim=claim)


@mutant("a claim reads back which rows it owns")
def _assume_ownership() -> Iterator[type[World]]:
    def claim(self: LedgerModel, me: Any, *args: Any, **options: Any) -> Any:
        rows = LedgerModel.claim(self, me, *args, **options)
        claim_id = args[0]
        return {key: replace(row, claim=claim_id) if row.state == State.PENDING else row for key, row in rows.items()}

    yield with_ledger(claim=claim)


@mutant("a row under a live lease is left to its owner")
def _claim_from_others() -> Iterator[type[World]]:
    def free(self: LedgerModel, record: Any, row: Row | None, retry_rejected: bool) -> bool:
        return LedgerModel.free(self, record, row, retry_rejected) or (row is not None and row.state == State.PENDING)

    with mock.patch.object(claim, "is_free", anything_but_created_is_free):
        yield with_ledger(free=free)


@mutant("each claim and each takeover has a name of its own")
def _claims_named_by_owner() -> Iterator[type[World]]:
    with mock.patch.object(state.RunState, "new_claim_id", lambda self: self.me.owner):
        yield World


# ---- record -------------------------------------------------------------------------------------------------------


@mutant("an outcome is recorded only under the row's claim")
def _record_always() -> Iterator[type[World]]:
    def record(self: LedgerModel, me: Any, answers: Any) -> Recorded:
        for answer in answers:
            row = self.table.get(answer.key)
            if row is not None and not self.id_taken(answer):
                self.table[answer.key] = replace(row, state=State.PENDING, claim=answer.claim)
        return LedgerModel.record(self, me, answers)

    yield with_ledger(record=record)


@mutant("a customer id belongs to one row")
def _no_unique_constraint() -> Iterator[type[World]]:
    yield with_ledger(id_taken=lambda self, answer: False)


@mutant("a response with another row's customer id is looked up, not dropped")
def _drop_conflicts() -> Iterator[type[World]]:
    def record(self: LedgerModel, me: Any, answers: Any) -> Recorded:
        result = LedgerModel.record(self, me, answers)
        return Recorded(result.keys | result.conflicts, set())

    yield with_ledger(record=record)


# ---- classify -----------------------------------------------------------------------------------------------------


@mutant("an unknown outcome is not sent again before it has been looked up")
def _send_unknown_again() -> Iterator[type[World]]:
    def lax(error: Any) -> Any:
        outcome = outcome_of(error)
        return Throttled() if isinstance(outcome, Unknown) else outcome

    with mock.patch.object(send, "outcome_of", lax):
        yield World


# ---- look up ------------------------------------------------------------------------------------------------------


@mutant("the list is read only when an unanswered request can no longer be processed")
def _look_at_once() -> Iterator[type[World]]:
    async def at_once(self: Any) -> None:
        return None

    with mock.patch.object(lookup.LookUp, "_wait_until_final", at_once):
        yield World


@mutant("the list is read back to the earliest open request")
def _first_page_only() -> Iterator[type[World]]:
    with mock.patch.object(listing, "_is_last", return_value=True):
        yield World


@mutant("only proven absence changes the time since which a request may be open")
def _takeover_forgets_since() -> Iterator[type[World]]:
    def take_over(self: LedgerModel, me: Any, claim: str, clock: Any = None) -> dict[str, Row]:
        before = dict(self.table)
        LedgerModel.take_over(self, me, claim, clock)
        for key, row in self.table.items():
            if row.claim != before[key].claim and row.sent_after is not None:
                until = before[key].lease_until
                claimed_at = (until.timestamp() if until else 0.0) - 9.0
                since = row.sent_after + datetime.timedelta(seconds=self.now - claimed_at)
                self.table[key] = replace(row, sent_after=since)
        return {key: row for key, row in self.table.items() if self.under(row, {claim})}

    yield with_ledger(take_over=take_over)


@mutant("absence needs a reading that accounts for every position")
def _any_reading_proves() -> Iterator[type[World]]:
    def judge(self: Any, *_: Any) -> None:
        self.complete = True

    with mock.patch.object(listing.Reading, "_check_complete", judge):
        yield World


@mutant("a reading proves absence only if it shows what must be there")
def _believe_any_list() -> Iterator[type[World]]:
    async def unproved(*_: Any) -> dict[str, str]:
        return {}

    with mock.patch.object(lookup.LookUp, "_unproved", unproved):
        yield World


@mutant("without a customer to check the list by, only one record is sent")
def _send_all_without_control() -> Iterator[type[World]]:
    with mock.patch.object(ListProof, "reaches", return_value=True):
        yield type("Believing", (World,), {"has_controls": lambda self, keys, controls: True})


@mutant("a deletion while the list is read is noticed")
def _overlook_deletions() -> Iterator[type[World]]:
    real_read, real_judge = listing.Reading.read, listing.Reading._check_complete

    async def read(self: Any, read_page: Any, since: float) -> None:
        async def without_total(number: int) -> CustomerPage:
            return replace(await read_page(number), total=0)

        await real_read(self, without_total, since)

    def judge(self: Any, *args: Any) -> None:
        self.unchanged = True
        real_judge(self, *args)

    with mock.patch.object(listing.Reading, "read", read), mock.patch.object(listing.Reading, "_check_complete", judge):
        yield World


@mutant("a customer that appears twice does not count as two positions")
def _count_repeats() -> Iterator[type[World]]:
    def judge(self: Any, seen: set[str], positions: int, added: int, total: int | None) -> None:
        self.complete = added == 0 and self.unchanged

    with mock.patch.object(listing.Reading, "_check_complete", judge):
        yield World


@mutant("a failed read proves nothing")
def _failed_read_is_the_end() -> Iterator[type[World]]:
    async def read(self: Any, call: Any) -> Any:
        try:
            return await call()
        except (PayarcConnectionFailed, PayarcUnknownOutcome):
            return CustomerPage([], 1, None, None, None)

    async def read_completely(read_page: Any, since: float, new_collector: Any, sleep: Any) -> Any:
        collector, number = new_collector(), 1
        while (page := await read_page(number)).customers:
            for customer in page.customers:
                collector.add(customer)
            number += 1
        return collector

    with (
        mock.patch.object(listing.PatientReader, "read", read),
        mock.patch.object(listing, "read_completely", read_completely),
    ):
        yield World


@mutant("where PayArc alters values, the lack of an equal customer proves nothing")
def _altered_is_absent() -> Iterator[type[World]]:
    with mock.patch.object(Candidates, "_doubtful", return_value=()):
        yield World


@mutant("a customer that may have been altered is in doubt before any response has shown what PayArc alters")
def _altered_only_once_known() -> Iterator[type[World]]:
    real = Candidates._doubtful

    def doubtful(self: Candidates, group: Any, alterations: Alterations, **options: bool) -> Any:
        return real(self, group, alterations, **options) if alterations.values else ()

    with mock.patch.object(Candidates, "_doubtful", doubtful):
        yield World


@mutant("if PayArc may have damaged the reference, the other fields decide")
def _absent_without_reference() -> Iterator[type[World]]:
    real = Candidates._add_by_fields

    def add(self: Candidates, *args: Any, has_reference: bool) -> None:
        if not has_reference:
            real(self, *args, has_reference=False)

    with mock.patch.object(Candidates, "_add_by_fields", add):
        yield World


@mutant("the lack of a reference proves nothing before one was seen intact")
def _trust_references_at_once() -> Iterator[type[World]]:
    real = Candidates.decide

    def decide(self: Candidates, *args: Any, trusts_references: bool) -> Any:
        return real(self, *args, trusts_references=True)

    with mock.patch.object(Candidates, "decide", decide):
        yield World


@mutant("a reference never outranks fields that contradict it")
def _believe_any_reference() -> Iterator[type[World]]:
    with mock.patch.object(candidates, "_agrees", return_value=True):
        yield World


@mutant("the customer of one row never matches another row")
def _adopt_taken() -> Iterator[type[World]]:
    real = Candidates.decide

    def decide(self: Candidates, ids_with_rows: Any, *args: Any, **options: Any) -> Any:
        return real(self, set(), *args, **options)

    with mock.patch.object(Candidates, "decide", decide):
        yield with_ledger(id_taken=lambda self, answer: False)


@mutant("a row keeps the digest of what was sent")
def _digest_of_today() -> Iterator[type[World]]:
    def claim_(self: LedgerModel, me: Any, claim_id: str, records: Any, *args: Any, **options: Any) -> Any:
        for record in records:
            row = self.table.get(record.key)
            if row is not None and row.state == State.PENDING and not record.errors:
                prints = fingerprints_of(*record.fields.items())
                self.table[record.key] = replace(row, digest=record.digest, fingerprints=prints)
        return LedgerModel.claim(self, me, claim_id, records, *args, **options)

    with mock.patch.object(claim, "is_free", anything_but_created_is_free):
        yield with_ledger(claim=claim_)


@mutant("our own rejections never alter an open row")
def _rejection_alters_open_row() -> Iterator[type[World]]:
    def claim_(self: LedgerModel, me: Any, claim_id: str, records: Any, *args: Any, **options: Any) -> Any:
        for record in records:
            row = self.table.get(record.key)
            if record.errors and row is not None and row.state == State.PENDING:
                self.table[record.key] = replace(row, state=State.REJECTED, digest=record.digest, error="{}", **CLOSED)
        return LedgerModel.claim(self, me, claim_id, records, *args, **options)

    with mock.patch.object(claim, "is_free", anything_but_created_is_free):
        yield with_ledger(claim=claim_)


@mutant("our own rejections never alter a created row")
def _rejection_alters_created_row() -> Iterator[type[World]]:
    def free(self: LedgerModel, record: Any, row: Row | None, retry_rejected: bool) -> bool:
        return bool(record.errors and row and row.state == State.CREATED) or LedgerModel.free(
            self, record, row, retry_rejected
        )

    real = claim.is_free

    def is_free(record: Any, row: Row | None, retry_rejected: Any) -> bool:
        return bool(record.errors and row and row.state == State.CREATED) or real(record, row, retry_rejected)

    with mock.patch.object(claim, "is_free", is_free):
        yield with_ledger(free=free)


@mutant("a row is taken over before the list is read")
def _read_before_takeover() -> Iterator[type[World]]:
    real = lookup.LookUp.resolve_open_rows

    async def resolve_open_rows(self: Any) -> None:
        pages: list[CustomerPage] = []
        while not pages or (pages[-1].customers and not listing._is_last(pages[-1])):
            number = len(pages) + 1
            pages.append(await self._state.payarc.read(lambda number=number: self._state.runtime.list_page(number)))

        async def read_list(since: float, new_collector: Any) -> Any:
            collector = new_collector()
            for page in pages:
                for customer in page.customers:
                    collector.add(customer)
            return collector

        with mock.patch.object(self._state.payarc, "read_list", read_list):
            await real(self)

    with mock.patch.object(lookup.LookUp, "resolve_open_rows", resolve_open_rows):
        yield World


# ---- fence --------------------------------------------------------------------------------------------------------


@mutant("nothing is sent unless its lease covers it")
def _no_lease_check() -> Iterator[type[World]]:
    def pass_gate(self: Claim, now: float, deadline: float) -> None:
        self.checked_at, self.sent = now, True

    with mock.patch.object(Claim, "pass_gate", pass_gate):
        yield World


@mutant("the lease is checked after any wait, directly before sending")
def _check_before_waiting() -> Iterator[type[World]]:
    real_request, real_create = send.Sender._request, SimRuntime.create
    early: list[Claim] = []

    async def request(self: Any, claim: Claim) -> Any:
        now = self._state.runtime.now()
        if claim.lost or claim.lease_end - now < self._state.settings.timeout:
            return NotCovered()
        early.append(claim)
        return await real_request(self, claim)

    async def create(self: Any, fields: Any, idempotency_key: str, attempt: int, pass_gate: Any) -> Any:
        claim = early.pop()

        def checked_too_early() -> None:
            claim.checked_at, claim.sent = self.now(), True

        return await real_create(self, fields, idempotency_key, attempt, checked_too_early)

    with mock.patch.object(send.Sender, "_request", request), mock.patch.object(SimRuntime, "create", create):
        yield World


@mutant("a lease counts from the moment it was requested")
def _lease_from_the_answer() -> Iterator[type[World]]:
    real_send, real_transact = send.Sender.send, SimRuntime.transact

    def send_(self: Any, claim: Claim) -> None:
        claim.lease_end = self._state.runtime.now() + self._state.settings.lease
        real_send(self, claim)

    async def renew(state: Any) -> None:
        while True:
            await state.runtime.sleep(state.settings.renew_every)
            claims, held = dict(state.claims), state.held_claims()
            if not held:
                continue
            try:
                renewed = await real_transact(state.runtime, lambda ledger, held=held: ledger.renew(state.me, held))
            except LedgerUnavailable:
                continue
            for key, one in claims.items():
                if renewed.get(key) == one.id:
                    one.lease_end = state.runtime.now() + state.settings.lease
                elif state.claims.get(key) is one:
                    one.lost = True

    with mock.patch.object(send.Sender, "send", send_), mock.patch.object(engine, "renew_leases", renew):
        yield World


@mutant("the clock runs on while the process is suspended")
def _clock_stops() -> Iterator[type[World]]:
    yield type("Stopping", (World,), {"process_clock_stops": True})


@mutant("only rows that are still claimed are renewed")
def _renew_lost_rows() -> Iterator[type[World]]:
    class Anything:
        """Seems to be the claim, whichever it is."""

        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    def renew(self: LedgerModel, me: Any, claims: Any, clock: Any = None) -> dict[str, Any]:
        LedgerModel.renew(self, me, claims, clock)
        return dict.fromkeys(KEYS, Anything())

    yield with_ledger(renew=renew)


@mutant("takeover waits for the end of the lease")
def _takeover_of_live_leases() -> Iterator[type[World]]:
    yield with_ledger(ripe=lambda self, me, row: row.lease_until is not None)


@mutant("takeover waits for the settle time after the lease")
def _takeover_without_settle() -> Iterator[type[World]]:
    def ripe(self: LedgerModel, me: Any, row: Row) -> bool:
        return row.lease_until is not None and row.lease_until.timestamp() < self.now

    yield with_ledger(ripe=ripe)


@mutant("takeover waits for the settle time that the row has stored")
def _takeover_with_own_settle() -> Iterator[type[World]]:
    def ripe(self: LedgerModel, me: Any, row: Row) -> bool:
        return row.lease_until is not None and row.lease_until.timestamp() + me.settle < self.now

    yield with_ledger(ripe=ripe)


@mutant("only an open row whose lease has expired is taken over")
def _takeover_of_anything() -> Iterator[type[World]]:
    def take_over(self: LedgerModel, me: Any, claim: str, clock: Any = None) -> dict[str, Row]:
        for key, row in getattr(self, "stale", {}).items():
            if self.ripe(me, row) and key in self.table:
                until = moment(self.now + me.lease)
                self.table[key] = replace(
                    row, state=State.PENDING, owner=me.owner, claim=claim, lease_until=until, settle=me.settle
                )
        self.stale = {key: row for key, row in self.table.items() if row.state == State.PENDING}
        return {key: row for key, row in self.table.items() if self.under(row, {claim})}

    yield with_ledger(take_over=take_over)


@mutant("releasing frees only rows that were certainly not sent")
def _release_everything() -> Iterator[type[World]]:
    def release(self: LedgerModel, me: Any, unsent: Any, unchanged: Any = None) -> None:
        mine = {key: row.claim for key, row in self.table.items() if row.owner == me.owner}
        LedgerModel.release(self, me, mine, unchanged)

    yield with_ledger(release=release)


@mutant("nothing is sent once the rows have been released")
def _gate_stays_open() -> Iterator[type[World]]:
    with mock.patch.object(Claim, "close_gate", lambda self: self.sent):
        yield World


# ---- whose rows ---------------------------------------------------------------------------------------------------


@mutant("a known key with different data from another source is rejected")
def _accept_other_sources() -> Iterator[type[World]]:
    def known(self: LedgerModel, me: Any, keys: Any) -> Any:
        return {key: row._replace(same_source=True) for key, row in LedgerModel.known(self, me, keys).items()}

    yield with_ledger(known=known)


# ---- clocks -------------------------------------------------------------------------------------------------------


@mutant("a clock that has just stepped is no evidence for a takeover")
def _trust_a_stepped_clock() -> Iterator[type[World]]:
    with mock.patch.object(clock.ClockWatch, "_note_step", return_value=None):
        yield World


@mutant("a run that starts after a step of the clock compares it with PayArc's")
def _trust_the_clock_at_first() -> Iterator[type[World]]:
    def compare(self: clock.ClockWatch, *_: Any) -> None:
        self._trusted = self.steps == 0

    with mock.patch.object(clock.ClockWatch, "compare", compare):
        yield World


@mutant("after a step of the clock, a lease must be seen unchanged for its whole length")
def _do_not_observe_leases() -> Iterator[type[World]]:
    with mock.patch.object(clock.ClockWatch, "remaining", return_value=0.0):
        yield World


# ---- what the ledger loses ----------------------------------------------------------------------------------------


@mutant("a run that has sent a record misses its row")
def _claim_lost_rows_again() -> Iterator[type[World]]:
    with mock.patch.object(row_memory.RowMemory, "of", return_value={}):
        yield with_ledger(check_evidence=lambda self, evidence: None)


@mutant("the number of a row that was inserted again says nothing about earlier requests")
def _trust_the_number_of_a_new_row() -> Iterator[type[World]]:
    with mock.patch.object(Evidence, "is_of_another_row", return_value=False):
        yield World


@mutant("a run compares the ledger with what it has recorded before it succeeds")
def _succeed_after_a_loss() -> Iterator[type[World]]:
    async def check_rows(self: Any) -> None:
        return None

    with mock.patch.object(engine.Engine, "_check_rows", check_rows):
        yield World


@mutant("a ledger that had customers and has none stops the run")
def _start_without_rows() -> Iterator[type[World]]:
    yield with_ledger(check_losses=lambda self, account: None)


@mutant("a run that starts compares PayArc's newest customers with the ledger's rows")
def _start_with_old_rows() -> Iterator[type[World]]:
    yield with_ledger(check_customers=lambda self, account, carriers: None)


# ---- updates ------------------------------------------------------------------------------------------------------


@mutant("a customer's claim is committed before the request that changes it is sent")
def _update_without_commit() -> Iterator[type[World]]:
    def claim_updates(self: LedgerModel, *args: Any, **options: Any) -> Any:
        kept = dict(self.table)
        seen = LedgerModel.claim_updates(self, *args, **options)
        self.table = kept
        return seen

    yield with_ledger(claim_updates=claim_updates)


@mutant("a customer is claimed only if its row is still as it was read")
def _claim_changed_rows() -> Iterator[type[World]]:
    yield with_ledger(is_as=lambda self, row, before: bool(row.customer_id))


@mutant("a row that is being updated is not taken for one that needs nothing")
def _updating_is_known() -> Iterator[type[World]]:
    yield with_ledger(needs_nothing=lambda self, row: True)


@mutant("an open change is taken over only when its request can no longer be applied")
def _take_over_changes_at_once() -> Iterator[type[World]]:
    with mock.patch.object(Row, "takeover_at", property(lambda row: row.lease_until or moment(0.0))):
        yield with_ledger(is_over=lambda self, me, row, clock: row.lease_until.timestamp() < self.now)


@mutant("a change without a usable response is sent again only when it can no longer be applied")
def _send_changes_again_at_once() -> Iterator[type[World]]:
    async def at_once(self: Any, unknown: Any) -> None:
        return None

    with mock.patch.object(update.Updater, "_wait_until_final", at_once):
        yield World


@mutant("while a change is open, its row knows both values")
def _forget_open_values() -> Iterator[type[World]]:
    with mock.patch.object(update, "while_open", lambda row_prints, sent: row_prints):
        yield World


@mutant("the result of a change is recorded only under the row's claim")
def _record_changes_always() -> Iterator[type[World]]:
    yield with_ledger(is_mine=lambda self, row, result: True)


@mutant("older data never overwrites newer data")
def _ignore_versions() -> Iterator[type[World]]:
    with mock.patch.object(update, "is_newer", return_value=False):
        yield World


@mutant("a newer version of the same data is noted")
def _do_not_note_versions() -> Iterator[type[World]]:
    def note_unchanged(self: LedgerModel, me: Any, notes: Any) -> set[str]:
        return {note.before.key for note in notes}

    yield with_ledger(note_unchanged=note_unchanged)


@mutant("older data does not succeed while newer data may be lost")
def _believe_newer_data_arrived() -> Iterator[type[World]]:
    real = update.Updater._needs_decision

    def needs_decision(self: Any, record: Any, row: Row, now: Any) -> bool:
        if record.version is not None and update.is_newer(row.wanted_version, record.version):
            self._accept_older(record, row, stale=True)
            return False
        return real(self, record, row, now)

    with mock.patch.object(update.Updater, "_needs_decision", needs_decision):
        yield World


@mutant("a change that may have been applied is never released as if nothing were open")
def _release_open_changes() -> Iterator[type[World]]:
    def close_gate(self: Claim) -> bool:
        self.lost = True
        return self.sent and self.update is None

    with mock.patch.object(Claim, "close_gate", close_gate):
        yield World


@mutant("if an earlier request may have been applied, a rejection does not tell what PayArc has")
def _rejection_restores_the_row() -> Iterator[type[World]]:
    real = update.Updater.refused

    def refused(self: Any, claim: Claim, change: Any, errors: Any) -> Any:
        result = real(self, claim, change, errors)
        return replace(result, wanted_version=None, fingerprints=change.claim.before.fingerprints)

    with mock.patch.object(update.Updater, "refused", refused):
        yield World


# ---- plans and guards ---------------------------------------------------------------------------------------------


@mutant("a run begins only if its plan is the approved one, and within the guards")
def _begin_anyway() -> Iterator[type[World]]:
    with mock.patch.object(plans, "check_guards", return_value=None):
        yield World


@mutant("what changes between the plan and the claim is not sent")
def _admit_everything() -> Iterator[type[World]]:
    with mock.patch.object(Allowance, "admit", return_value=None):
        yield World


@mutant("an approved plan is carried out as a whole")
def _carry_out_a_part() -> Iterator[type[World]]:
    with mock.patch.object(Allowance, "check_complete", return_value=None):
        yield World


@mutant("a retry counts what an earlier try has begun")
def _forget_earlier_tries() -> Iterator[type[World]]:
    with mock.patch.object(Claimant, "begun", return_value=""):
        yield World


# ---- erasing ------------------------------------------------------------------------------------------------------


@mutant("an erased key is not claimed again")
def _claim_erased_keys() -> Iterator[type[World]]:
    yield with_ledger(is_erased=lambda self, key: False)


@mutant("a key is erased only when it is certain what PayArc has for it")
def _erase_at_once() -> Iterator[type[World]]:
    with mock.patch.object(ledger, "check_erasable", return_value=None):
        yield World


@mutant("a key is not erased while PayArc may have a customer for it that the ledger does not know")
def _erase_unknown_outcomes() -> Iterator[type[World]]:
    real = ledger.check_erasable

    def check_erasable(row: Row, now: datetime.datetime) -> None:
        real(replace(row, sent_after=None, owner=None), now)  # as if nothing had been sent

    with mock.patch.object(ledger, "check_erasable", check_erasable):
        yield World
