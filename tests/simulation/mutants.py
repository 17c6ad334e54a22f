"""The protocol with one rule taken out. The simulation must find each of these within 10,000 histories."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from payarc_provider.api.client import CustomerPage
from payarc_provider.exceptions import PayarcConnectionFailed, PayarcUnknownOutcome
from payarc_provider.sync import claim as intake
from payarc_provider.sync import lookup, recorder, settler
from payarc_provider.sync import send as sender
from payarc_provider.sync.intent import Claim
from payarc_provider.sync.ledger import LedgerUnavailable, Recorded, Row, State
from payarc_provider.sync.lookup import Window
from payarc_provider.sync.states import Deferred, Unknown, outcome_of

from .ledger import LedgerModel, moment
from .world import World

MUTANTS: dict[str, Callable[[], contextlib.AbstractContextManager[type[World]]]] = {}


def mutant(rule: str) -> Callable[[Any], Any]:
    """Registers a way of breaking ``rule``."""

    def register(make: Callable[[], Iterator[type[World]]]) -> Any:
        MUTANTS[rule] = contextlib.contextmanager(make)
        return make

    return register


def with_ledger(**methods: Any) -> type[World]:
    model = type("Mutant", (LedgerModel,), methods)
    return type("MutantWorld", (World,), {"ledger_model": model})


# ---- 1: claim, then send ------------------------------------------------------------------------------------------


@mutant("a batch is claimed, and committed, before its requests go out")
def _claim_without_commit() -> Iterator[type[World]]:
    def claim(
        self: LedgerModel,
        me: Any,
        records: Any,
        references: Any,
        sent_after: Any,
        now: float,
        retry_rejected: bool = False,
    ) -> Any:
        kept = dict(self.rows)
        seen = LedgerModel.claim(self, me, records, references, sent_after, now, retry_rejected)
        self.rows = kept
        return seen

    yield with_ledger(claim=claim)


@mutant("who owns a claimed row is read back")
def _assume_ownership() -> Iterator[type[World]]:
    def claim(
        self: LedgerModel,
        me: Any,
        records: Any,
        references: Any,
        sent_after: Any,
        now: float,
        retry_rejected: bool = False,
    ) -> Any:
        rows = LedgerModel.claim(self, me, records, references, sent_after, now, retry_rejected)
        return {key: replace(row, owner=me.owner) if row.state == State.PENDING else row for key, row in rows.items()}

    yield with_ledger(claim=claim)


@mutant("a row under a live lease is left to its owner")
def _claim_from_others() -> Iterator[type[World]]:
    def free(self: LedgerModel, record: Any, row: Row | None, retry_rejected: bool) -> bool:
        return LedgerModel.free(self, record, row, retry_rejected) or (row is not None and row.state == State.PENDING)

    with mock.patch.object(intake, "is_free", lambda record, row, retry: row is None or row.state != State.CREATED):
        yield with_ledger(free=free)


@mutant("a row is sent only by the claim that asked for it")
def _send_whatever_is_owned() -> Iterator[type[World]]:
    real = intake.Claimer._sort

    def sort(self: Any, record: Any, before: Any, row: Any, asked: Any) -> None:
        real(self, record, before, row, self._work.clock.now() if asked is None else asked)

    with mock.patch.object(intake.Claimer, "_sort", sort):
        yield World


# ---- 3: record ----------------------------------------------------------------------------------------------------


@mutant("recording is conditional on still being the owner")
def _record_always() -> Iterator[type[World]]:
    def record(self: LedgerModel, me: Any, answers: Any, now: float) -> Recorded:
        for answer in answers:
            row = self.rows.get(answer.key)
            if row is not None and not self.id_taken(answer):
                self.rows[answer.key] = replace(row, state=State.PENDING, owner=me.owner)
        return LedgerModel.record(self, me, answers, now)

    yield with_ledger(record=record)


@mutant("a customer id belongs to one row only")
def _no_unique_constraint() -> Iterator[type[World]]:
    yield with_ledger(id_taken=lambda self, answer: False)


# ---- 4: kinds of answer -------------------------------------------------------------------------------------------


@mutant("an unknown outcome is not sent again before it has been looked up")
def _send_unknown_again() -> Iterator[type[World]]:
    def lax(error: Any) -> Any:
        outcome = outcome_of(error)
        return Deferred(wait=0.1) if isinstance(outcome, Unknown) else outcome

    with mock.patch.object(sender, "outcome_of", lax):
        yield World


# ---- 5: look up ---------------------------------------------------------------------------------------------------


@mutant("the list is read only when the last moment of a commit has passed")
def _look_at_once() -> Iterator[type[World]]:
    async def at_once(self: Any) -> None:
        return None

    with mock.patch.object(settler.LookUp, "_wait_until_ripe", at_once):
        yield World


@mutant("the list is read back to the earliest open request")
def _first_page_only() -> Iterator[type[World]]:
    with mock.patch.object(lookup, "_is_last", return_value=True):
        yield World


@mutant("the time since which a request may be open is moved on only by absence")
def _takeover_forgets_since() -> Iterator[type[World]]:
    def take_over(self: LedgerModel, me: Any, now: float) -> dict[str, Row]:
        before = dict(self.rows)
        LedgerModel.take_over(self, me, now)
        for key, row in self.rows.items():
            if row.owner != before[key].owner and row.sent_after is not None:
                self.rows[key] = replace(
                    row, sent_after=row.sent_after + datetime.timedelta(seconds=now - row_time(before[key]))
                )
        return {key: row for key, row in self.rows.items() if self.mine(me, row)}

    def row_time(row: Row) -> float:
        return (row.lease_until.timestamp() if row.lease_until else 0.0) - 9.0

    yield with_ledger(take_over=take_over)


@mutant("absence needs a pass that accounts for every place")
def _any_pass_proves() -> Iterator[type[World]]:
    def judge(self: Any, *_: Any) -> None:
        self.proves = True

    with mock.patch.object(lookup._Reading, "_judge", judge):
        yield World


@mutant("a deletion while the list is read is noticed")
def _deletions_pass() -> Iterator[type[World]]:
    real_read, real_judge = lookup._Reading.read, lookup._Reading._judge

    async def read(self: Any, read_page: Any, since: float) -> None:
        async def without_total(number: int) -> CustomerPage:
            page = await read_page(number)
            return replace(page, total=0)

        await real_read(self, without_total, since)

    def judge(self: Any, met: set[str], places: int, came: int, total: Any) -> None:
        self.still = True
        real_judge(self, met, places, came, total)

    with mock.patch.object(lookup._Reading, "read", read), mock.patch.object(lookup._Reading, "_judge", judge):
        yield World


@mutant("a customer met twice is not taken for two places")
def _repeats_pass() -> Iterator[type[World]]:
    def judge(self: Any, met: set[str], places: int, came: int, total: Any) -> None:
        self.proves = came == 0 and self.still

    with mock.patch.object(lookup._Reading, "_judge", judge):
        yield World


@mutant("a failed read proves nothing")
def _failed_read_is_the_end() -> Iterator[type[World]]:
    async def read(work: Any, call: Any) -> Any:
        try:
            return await call()
        except (PayarcConnectionFailed, PayarcUnknownOutcome):
            return CustomerPage([], 1, None, None, None)

    async def read_window(read_page: Any, since: float, new_window: Any, sleep: Any) -> Any:
        window, number = new_window(), 1
        while (page := await read_page(number)).customers:
            for customer in page.customers:
                window.see(customer)
            number += 1
        return window

    with mock.patch.object(settler, "read", read), mock.patch.object(settler, "read_window", read_window):
        yield World


@mutant("two matches where one is expected are undecided")
def _take_the_first_match() -> Iterator[type[World]]:
    def decide(self: Window, rows: Any, eligible: Any, doubtful: Any, findings: Any) -> None:
        free = sorted(eligible)
        for row in rows:
            if free:
                findings.found[row.key] = (free.pop(0), "fields")
            else:
                findings.absent.add(row.key)

    class Twins(World):
        """Somebody makes, by hand, a customer that is equal to a record's; it is not the record's own."""

        twins = True

    with mock.patch.object(Window, "_decide_by_fields", decide):
        yield Twins


@mutant("where PayArc alters values, equality proves no absence")
def _altered_is_absent() -> Iterator[type[World]]:
    real = Window._decide_by_fields

    def decide(self: Window, rows: Any, eligible: Any, doubtful: Any, findings: Any) -> None:
        real(self, rows, eligible, [], findings)

    with mock.patch.object(Window, "_decide_by_fields", decide):
        yield World


@mutant("a customer that a row has is nobody else's, whatever it bears or equals")
def _adopt_taken() -> Iterator[type[World]]:
    real = Window.decide

    with mock.patch.object(Window, "decide", lambda self, ids_with_rows: real(self, set())):
        yield with_ledger(id_taken=lambda self, answer: False)


@mutant("a row keeps the digest of what was sent")
def _digest_of_today() -> Iterator[type[World]]:
    def claim(
        self: LedgerModel,
        me: Any,
        records: Any,
        references: Any,
        sent_after: Any,
        now: float,
        retry_rejected: bool = False,
    ) -> Any:
        for record in records:
            self.remember(record)
        return LedgerModel.claim(self, me, records, references, sent_after, now, retry_rejected)

    def read(self: LedgerModel, keys: Any) -> dict[str, Row]:
        return LedgerModel.read(self, keys)

    def remember(self: LedgerModel, record: Any) -> None:
        row = self.rows.get(record.key)
        if row is not None and row.state == State.PENDING and not record.errors:
            self.rows[record.key] = replace(row, digest=record.digest, fields=record.names)

    with mock.patch.object(intake, "is_free", lambda record, row, retry: row is None or row.state != State.CREATED):
        yield with_ledger(claim=claim, remember=remember, read=read)


@mutant("our own refusals never alter an open row")
def _refusal_alters_open_row() -> Iterator[type[World]]:
    def claim(
        self: LedgerModel,
        me: Any,
        records: Any,
        references: Any,
        sent_after: Any,
        now: float,
        retry_rejected: bool = False,
    ) -> Any:
        for record in records:
            row = self.rows.get(record.key)
            if record.errors and row is not None and row.state == State.PENDING:
                changes = {
                    "state": State.REJECTED,
                    "owner": None,
                    "lease_until": None,
                    "sent_after": None,
                    "digest": record.digest,
                }
                self.rows[record.key] = replace(row, error="{}", **changes)
        return LedgerModel.claim(self, me, records, references, sent_after, now, retry_rejected)

    with mock.patch.object(intake, "is_free", lambda record, row, retry: row is None or row.state != State.CREATED):
        yield with_ledger(claim=claim)


@mutant("our own refusals never alter a created row")
def _refusal_alters_created_row() -> Iterator[type[World]]:
    def free(self: LedgerModel, record: Any, row: Row | None, retry_rejected: bool) -> bool:
        return bool(record.errors and row and row.state == State.CREATED) or LedgerModel.free(
            self, record, row, retry_rejected
        )

    real = intake.is_free

    def is_free(record: Any, row: Row | None, retry: bool) -> bool:
        return bool(record.errors and row and row.state == State.CREATED) or real(record, row, retry)

    with mock.patch.object(intake, "is_free", is_free):
        yield with_ledger(free=free)


@mutant("take the row over, then read the list, then send")
def _read_before_takeover() -> Iterator[type[World]]:
    real_settle, real_decide = settler.LookUp.settle, settler.read_window

    async def settle(self: Any) -> None:
        pages: list[CustomerPage] = []
        number = 1
        while True:
            pages.append(await self._read_page(number))
            if lookup._is_last(pages[-1]) or not pages[-1].customers:
                break
            number += 1
        self._old_pages = pages
        await real_settle(self)

    async def read_window(read_page: Any, since: float, new_window: Any, sleep: Any) -> Any:
        window = new_window()
        for page in read_page.__self__._old_pages:
            for customer in page.customers:
                window.see(customer)
        return window

    assert real_decide is not None
    with mock.patch.object(settler.LookUp, "settle", settle), mock.patch.object(settler, "read_window", read_window):
        yield World


# ---- 6: fencing ---------------------------------------------------------------------------------------------------


@mutant("nothing is sent that its lease does not cover")
def _no_lease_check() -> Iterator[type[World]]:
    def let_out(self: Claim, now: float, deadline: float) -> None:
        self.checked_at, self.open = now, True

    with mock.patch.object(Claim, "let_out", let_out):
        yield World


@mutant("the lease is checked after any wait, directly before sending")
def _check_before_waiting() -> Iterator[type[World]]:
    real = sender.Sender._attempt

    async def attempt(self: Any, intent: Claim) -> Any:
        create, work = self._work.payarc.create, self._work
        if intent.lost or intent.lease_end - work.clock.now() < work.settings.timeout:
            return Deferred(leased=False)

        async def checked_too_early(fields: Any, key: str, guard: Any) -> Any:
            def unchecked() -> None:
                intent.checked_at, intent.open = work.clock.now(), True

            return await create(fields, key, unchecked)

        with mock.patch.object(self._work.payarc, "create", checked_too_early):
            return await real(self, intent)

    with mock.patch.object(sender.Sender, "_attempt", attempt):
        yield World


@mutant("the lease is reckoned from before it was asked for")
def _lease_from_the_answer() -> Iterator[type[World]]:
    real = intake.Claimer._intent

    def intent(self: Any, record: Any, row: Any, asked: float) -> Claim:
        made: Claim = real(self, record, row, self._work.clock.now())
        return made

    yield from _late_reckoning(intent)


def _late_reckoning(intent: Any) -> Iterator[type[World]]:
    async def keep(work: Any) -> None:
        while True:
            await work.clock.sleep(work.settings.renew_every)
            held = dict(work.mine)
            if not held and not work.taken:
                continue
            try:
                renewed = await work.ledger.renew()
            except LedgerUnavailable:
                continue
            for key, one in held.items():
                if key in renewed:
                    one.lease_end = work.clock.now() + work.settings.lease
                elif work.mine.get(key) is one:
                    one.lost = True

    with (
        mock.patch.object(intake.Claimer, "_intent", intent),
        mock.patch("payarc_provider.sync.engine.keep_leases", keep),
    ):
        yield World


@mutant("the clock runs on while the process is suspended")
def _clock_stops() -> Iterator[type[World]]:
    yield type("Stopping", (World,), {"process_clock_stops": True})


@mutant("only rows that are still owned are renewed")
def _renew_lost_rows() -> Iterator[type[World]]:
    def renew(self: LedgerModel, me: Any, now: float) -> set[str]:
        LedgerModel.renew(self, me, now)
        return set(self.rows)

    yield with_ledger(renew=renew)


@mutant("takeover waits for the end of the lease")
def _takeover_of_live_leases() -> Iterator[type[World]]:
    yield with_ledger(ripe=lambda self, me, row, now: row.lease_until is not None)


@mutant("takeover waits for the settle time after the lease")
def _takeover_without_settle() -> Iterator[type[World]]:
    yield with_ledger(ripe=lambda self, me, row, now: row.lease_until is not None and row.lease_until.timestamp() < now)


@mutant("takeover waits for the settle time that the row has stored")
def _takeover_with_own_settle() -> Iterator[type[World]]:
    def ripe(self: LedgerModel, me: Any, row: Row, now: float) -> bool:
        return row.lease_until is not None and row.lease_until.timestamp() + me.settle < now

    yield with_ledger(ripe=ripe)


@mutant("takeover is conditional on the row being open and expired")
def _takeover_of_anything() -> Iterator[type[World]]:
    def take_over(self: LedgerModel, me: Any, now: float) -> dict[str, Row]:
        stale = getattr(self, "stale", {})
        for key, row in stale.items():
            if self.ripe(me, row, now) and key in self.rows and row.owner != me.owner:
                self.rows[key] = replace(
                    row, state=State.PENDING, owner=me.owner, lease_until=moment(now + me.lease), settle=me.settle
                )
        self.stale = {key: row for key, row in self.rows.items() if row.state == State.PENDING}
        return {key: row for key, row in self.rows.items() if self.mine(me, row)}

    yield with_ledger(take_over=take_over)


@mutant("letting go frees only what was certainly not sent")
def _release_everything() -> Iterator[type[World]]:
    def release(self: LedgerModel, me: Any, unsent: Any, now: float) -> None:
        LedgerModel.release(self, me, {key for key, row in self.rows.items() if self.mine(me, row)}, now)

    yield with_ledger(release=release)


@mutant("nothing goes out once the rows have been let go")
def _gate_stays_open() -> Iterator[type[World]]:
    with mock.patch.object(Claim, "close_gate", lambda self: self.open):
        yield World


# ---- whose rows ---------------------------------------------------------------------------------------------------


@mutant("a known key with other data from another source is refused")
def _other_sources_welcome() -> Iterator[type[World]]:
    real = intake.Claimer._accept_known

    def accept(self: Any, record: Any, row: Row) -> None:
        real(self, record, replace(row, source=self._work.me.source))

    with mock.patch.object(intake.Claimer, "_accept_known", accept):
        yield World


@mutant("an answer whose id another row has is looked up, not dropped")
def _taken_ids_dropped() -> Iterator[type[World]]:
    real = recorder.Recorder._finish

    def record(self: LedgerModel, me: Any, answers: Any, now: float) -> Recorded:
        result = LedgerModel.record(self, me, answers, now)
        return Recorded(result.keys | result.taken_ids, set())

    assert real is not None
    yield with_ledger(record=record)
