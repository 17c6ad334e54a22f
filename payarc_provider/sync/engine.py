"""The engine: claim, send, record, look up, each record at most once.

One coroutine decides; requests and transactions run elsewhere and answer through ports. Nothing here knows Airflow,
HTTP or SQL, so that the same code runs against real services and in a simulation.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConnectionFailed,
    PayarcError,
    PayarcRateLimited,
    PayarcRunStopped,
    PayarcUnknownOutcome,
)
from payarc_provider.sync.database import LedgerUnavailable
from payarc_provider.sync.intent import Intent
from payarc_provider.sync.ledger import EPOCH, Claimant, Row, Settled, is_free
from payarc_provider.sync.lookup import Window, read_window
from payarc_provider.sync.ports import Clock, Feed, LedgerPort, PayarcPort, Sink
from payarc_provider.sync.records import Reader, Record, shown
from payarc_provider.sync.reference import reference, with_reference
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.states import (
    Created,
    Deferred,
    LeaseTooShort,
    Outcome,
    Refused,
    State,
    Status,
    Unknown,
    Wrong,
    outcome_of,
)

log = logging.getLogger(__name__)
T = TypeVar("T")


class Run:
    """One run over one input.

    :param me: this attempt, as the ledger names it
    :param ledger_id: the ledger's own random id
    :param reader: gives digests of listed customers
    """

    def __init__(
        self,
        me: Claimant,
        settings: Settings,
        ledger_id: str,
        reader: Reader,
        *,
        feed: Feed,
        ledger: LedgerPort,
        payarc: PayarcPort,
        sink: Sink,
        clock: Clock,
    ) -> None:
        self.me = me
        self.settings = settings
        self.ledger_id = ledger_id
        self.reader = reader
        self.feed = feed
        self.ledger = ledger
        self.payarc = payarc
        self.sink = sink
        self.clock = clock
        self.counts: Counter[str] = Counter()
        self._mine: dict[str, Intent] = {}
        self._outbox: asyncio.Queue[Intent] = asyncio.Queue()
        self._busy = 0
        self._answers: list[tuple[Intent, Settled]] = []
        self._recording = False
        self._unknown: dict[str, Intent] = {}
        self._aside: list[Record] = []
        self._tries: Counter[str] = Counter()
        self._undecided: dict[str, str] = {}
        self._promised: set[str] = set()  # keys let past the max_new brake and not finished
        self._braked: list[Intent] = []
        self._taken: set[str] = set()  # rows taken over from others and not settled
        self._going = asyncio.Event()
        self._going.set()
        self._stop: PayarcError | None = None
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._payarc_time: tuple[float, float] | None = None  # PayArc's clock, at least this, when ours showed that
        self._prepared = False
        self._altering = False
        self._unknown_in_a_row = 0
        self._pauses = 0
        self._unreachable_in_a_row = 0
        self._not_before = 0.0

    # ---- the whole ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work through the input.

        Ends in success only when every accepted record has its id; otherwise raises what stopped it, after everything
        that can be recorded and let go has been.

        :raises PayarcError: what stopped the run
        """
        helpers = [
            self._record_answers(),
            self._renew_leases(),
            *(self._send_from_outbox() for _ in range(self.settings.concurrency)),
        ]
        main = asyncio.ensure_future(self._work())
        tasks = [asyncio.ensure_future(helper) for helper in helpers]
        try:
            await asyncio.wait([main, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in (main, *tasks):
                if task.done():
                    task.result()  # a helper ends only by failing
        finally:
            main.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(main, *tasks, return_exceptions=True)
            await self._let_go()

    async def _work(self) -> None:
        while not self._stop and not self._braked:
            batch = await self.feed.next_batch()
            if batch is None:
                break
            await self._take(batch)
            await self._until(lambda: self._outbox.qsize() <= self.settings.batch_size // 2)
            if len(self._unknown) >= self.settings.batch_size or not self._going.is_set():
                await self._settle()
        await self._settle()
        await self._drain()
        self._raise_if_stopped()

    def _raise_if_stopped(self) -> None:
        if self._stop:
            raise self._stop
        if self._braked:
            raise PayarcRunStopped(
                f"max_new={self.settings.max_new} customers have been created in this run, and {len(self._braked)} or more records "
                "are left: check that the key and the source are the right ones, then raise max_new and run again"
            )
        if self._undecided:
            raise PayarcRunStopped(self._undecided_text())

    async def _let_go(self) -> None:
        """Record what is known, then release every row: nothing goes out after this."""
        if self._answers:
            try:
                await self._record_group()
            except PayarcError as error:
                log.warning("Answers could not be recorded and will be found by a look-up: %s", error)
        unsent = [intent.key for intent in self._mine.values() if not intent.close_gate()]
        if not (self._mine or self._taken or self._undecided):
            return
        try:
            await self._ledger_call(
                lambda: self.ledger.release(unsent), patience=min(5.0, self.settings.ledger_patience)
            )
        except PayarcError as error:
            log.warning(
                "The rows could not be released; they are free after the lease of %g s: %s", self.settings.lease, error
            )

    # ---- taking records -----------------------------------------------------------------------------------------

    async def _take(self, records: Iterable[Record]) -> None:
        """Find out what is known of these records, claim what is free, and queue what is to be sent."""
        fit: dict[str, Record] = {}
        for record in records:
            if record.key is None or record.unstorable:
                self._refuse(record, record.errors, new=True)
            elif record.key in fit:
                self._aside.append(record)
            else:
                fit[record.key] = record
        if not fit:
            return
        before = await self._ledger_call(lambda: self.ledger.rows(fit.keys()))
        free = [
            record
            for key, record in fit.items()
            if key not in self._mine and is_free(record, before.get(key), self.settings.retry_rejected)
        ]
        if self.settings.dry_run:
            self._report_dry_run(fit, before, {record.key for record in free})
            return
        after = before
        asked = self.clock.now()
        if free:
            if any(not record.errors for record in free):
                await self._prepare()
                asked = self.clock.now()
            self._at("before_claim")
            codes = {record.key or "": self._carried_reference(record) for record in free if not record.errors}
            claimed = await self._ledger_call(lambda: self.ledger.claim(free, codes, self._sent_after()))
            self._at("after_claim")
            after = before | claimed
        claimable = {record.key for record in free}
        for key, record in fit.items():
            self._sort(record, before.get(key), after.get(key), asked if key in claimable else None)

    def _sort(self, record: Record, before: Row | None, row: Row | None, asked: float | None) -> None:
        """Decide by its row what becomes of a record.

        :param asked: this process's clock when its claim was asked for; None where it was not. A row that this attempt
            owns for another reason (it took it over, or its outcome is unknown) is never sent from here.
        """
        if record.errors:
            known = before is not None and before.state == State.REJECTED and before.digest == record.digest
            self._refuse(record, record.errors, new=not known or self._same_run(before))
        elif row is None:
            self._aside.append(record)
        elif row.state == State.CREATED:
            self._accept_known(record, row)
        elif row.state == State.REJECTED:
            self._refuse(record, row.errors, new=self._same_run(row))
        elif row.owner == self.me.owner and asked is not None:
            intent = Intent(record, row.attempt, row.reference, asked + self.settings.lease)
            self._mine[row.key] = intent
            self._outbox.put_nowait(intent)
        else:
            self._aside.append(record)

    def _accept_known(self, record: Record, row: Row) -> None:
        changed = row.digest != record.digest
        if changed and row.source != self.me.source:
            self._refuse(record, _other_source(row), new=True)
            return
        status = Status.KNOWN
        if self._same_run(row):
            status = Status.ADOPTED if row.matched_by == "email" else Status.CREATED
        self._accept(record, row.customer_id or "", status, changed=changed)

    def _same_run(self, row: Row | None) -> bool:
        return (
            row is not None
            and self.me.run_id is not None
            and (row.dag_id, row.run_id) == (self.me.dag_id, self.me.run_id)
        )

    def _accept(self, record: Record, customer_id: str, status: Status, *, changed: bool) -> None:
        self.counts[status] += 1
        self.counts["changed"] += changed
        self.sink.accepted(record, customer_id, status, changed=changed)

    def _refuse(self, record: Record, errors: dict[str, list[str]], *, new: bool) -> None:
        self.counts["rejected"] += 1
        self.sink.refused(record, errors, new=new)

    def _report_dry_run(self, fit: dict[str, Record], rows: dict[str, Row], free: set[str | None]) -> None:
        for key, record in fit.items():
            if key in free and not record.errors:
                self.counts["would_create"] += 1
                self.sink.would_create(record)
            elif record.errors or (row := rows[key]).state != State.PENDING:
                self._sort(record, rows.get(key), rows.get(key), None)
            else:
                self.counts["pending"] += 1

    async def _prepare(self) -> None:
        """Before the first claim: one cheap authenticated call, which also tells PayArc's time."""
        if self._prepared:
            return
        await self._read(self.payarc.ping, self._note_time)
        self._prepared = True

    def _note_time(self, payarc_time: float | None) -> None:
        if payarc_time is not None:
            self._payarc_time = (payarc_time, self.clock.now())

    def _sent_after(self) -> datetime.datetime:
        if self._payarc_time is None:
            return EPOCH  # PayArc tells no time: a look-up will read the whole list
        then, at = self._payarc_time
        return datetime.datetime.fromtimestamp(then + self.clock.now() - at - self.settings.margin, datetime.UTC)

    def _carried_reference(self, record: Record) -> str | None:
        code = reference(self.ledger_id, self.me.account, record.key or "")
        return code if self.settings.reference and with_reference(record.fields.get("description"), code) else None

    # ---- sending ------------------------------------------------------------------------------------------------

    async def _send_from_outbox(self) -> None:
        while True:
            await self._going.wait()
            intent = await self._outbox.get()
            self._busy += 1
            try:
                await self._send(intent)
            finally:
                self._busy -= 1
                self._wake.set()

    async def _send(self, intent: Intent) -> None:
        while not self._stop:
            if intent.lost:
                self._put_aside(intent)
                return
            if not self._going.is_set():
                self._outbox.put_nowait(intent)
                return
            if self._brake_holds(intent):
                return
            wait = max(self._not_before - self.clock.now(), 0.0) or self.payarc.delay(reading=False)
            if wait > 0:
                await self.clock.sleep(wait)
                continue
            if await self._sent(intent):
                return

    async def _sent(self, intent: Intent) -> bool:
        """Send once; returns whether the intent is done with, for now or for good."""
        self._at("before_send")
        outcome = await self._attempt(intent)
        if isinstance(outcome, Created):
            self._answer(intent, Settled(intent.key, customer_id=outcome.customer_id))
        elif isinstance(outcome, Refused):
            self._answer(intent, Settled(intent.key, errors=outcome.errors))
        elif isinstance(outcome, Unknown):
            self._note_unknown(intent, outcome)
        elif isinstance(outcome, Wrong):
            intent.open = not (isinstance(outcome.error, PayarcAuthError) and outcome.error.status == 401)
            self._halt(outcome.error)
        else:
            await self._wait_to_send(intent, outcome)
            return False
        return True

    async def _attempt(self, intent: Intent) -> Outcome:
        fields = dict(intent.record.fields)
        if intent.reference:
            fields["description"] = with_reference(fields.get("description"), intent.reference) or fields["description"]
        code = reference(self.ledger_id, self.me.account, intent.key)

        def guard() -> None:
            intent.let_out(self.clock.now(), self.settings.timeout)

        try:
            created = await self.payarc.create(fields, f"{code}-{intent.attempt}", guard)
        except (PayarcError, LeaseTooShort) as error:
            return outcome_of(error)
        self._at("after_answer")
        if not self._altering and not _as_sent(fields, created.customer):
            self._altering = await self._ledger_call(lambda: self.ledger.alters_values(noticed=True))
        return created

    async def _wait_to_send(self, intent: Intent, outcome: Deferred) -> None:
        """Nothing was processed: the intent is as good as unsent, wait and go again."""
        if not outcome.leased:
            self.payarc.unreserve(reading=False)
            await self.clock.sleep(self.settings.renew_every / 4)
            return
        intent.open = False
        if not outcome.connected:
            self._unreachable_in_a_row += 1
            failures = self._unreachable_in_a_row
            if failures > self.settings.max_connection_failures_in_a_row * self.settings.concurrency:
                self._halt(PayarcConnectionFailed())
            self._not_before = self.clock.now() + min(30.0, 0.5 * 2 ** (failures // self.settings.concurrency))
            return
        self.counts["rate_limited"] += 1
        await self.clock.sleep(min(outcome.wait, 3600.0) if outcome.wait is not None else 1.0)

    def _answer(self, intent: Intent, settled: Settled) -> None:
        self._unknown_in_a_row = self._unreachable_in_a_row = self._pauses = 0
        self._answers.append((intent, settled))
        self._answered.set()

    def _note_unknown(self, intent: Intent, outcome: Unknown) -> None:
        self.counts["unknown"] += 1
        self._unknown_in_a_row += 1
        self._tries[intent.key] += 1
        self._unknown[intent.key] = intent
        if self._unknown_in_a_row >= self.settings.max_unknown_in_a_row and self._going.is_set():
            self._pauses += 1
            self._going.clear()
            log.warning(
                "PayArc gave no usable answer %d times in a row: pausing until these are looked up",
                self._unknown_in_a_row,
            )
            if self._pauses > self.settings.max_pauses:
                self._halt(
                    PayarcRunStopped(
                        f"PayArc has given no usable answer to {self._unknown_in_a_row * self._pauses} requests in a row: run again when it works; what was sent will be looked up, and nothing is sent twice"
                    )
                )
        log.info(
            "No usable answer%s for one record: it will be looked up before anything is sent again",
            f" (status {outcome.status})" if outcome.status else "",
        )

    def _brake_holds(self, intent: Intent) -> bool:
        """Whether ``max_new`` forbids to send this one now; it is then kept apart, and freed when another is refused."""
        most = self.settings.max_new
        if most is None or intent.key in self._promised:
            return False
        if self.counts[Status.CREATED] + len(self._promised) < most:
            self._promised.add(intent.key)
            return False
        self._braked.append(intent)
        return True

    def _free_braked(self) -> None:
        while self._braked:
            self._outbox.put_nowait(self._braked.pop())

    def _put_aside(self, intent: Intent) -> None:
        if self._mine.get(intent.key) is intent:
            del self._mine[intent.key]
        self._unknown.pop(intent.key, None)
        self._promised.discard(intent.key)
        self._aside.append(intent.record)

    def _halt(self, error: PayarcError) -> None:
        self._stop = self._stop or error
        self._wake.set()

    # ---- recording ----------------------------------------------------------------------------------------------

    async def _record_answers(self) -> None:
        while True:
            await self._answered.wait()
            self._answered.clear()
            while self._answers:
                await self._record_group()
                self._wake.set()

    async def _record_group(self) -> None:
        """Record all answers that have come, in one transaction, then hand the results on."""
        group, self._answers = self._answers, []
        self._recording = True
        try:
            self._at("before_record")
            recorded = await self._ledger_call(lambda: self.ledger.record([settled for _, settled in group]))
            self._at("after_record")
        except BaseException:
            self._answers = group + self._answers
            raise
        finally:
            self._recording = False
        for intent, settled in group:
            if settled.key in recorded.keys:
                self._finish(intent, settled)
            elif settled.key in recorded.taken_ids:
                # Another row has this customer: an equal record adopted it. What became of this one the list will tell.
                self._tries[intent.key] += 1
                self._unknown[intent.key] = intent
            else:
                self._put_aside(intent)  # lost to another owner, who finds the customer in the list
        self._free_braked()

    def _finish(self, intent: Intent, settled: Settled) -> None:
        self._mine.pop(intent.key, None)
        self._promised.discard(intent.key)
        if settled.customer_id:
            status = Status.ADOPTED if settled.matched_by == "email" else Status.CREATED
            self._accept(intent.record, settled.customer_id, status, changed=False)
        else:
            self._refuse(intent.record, settled.errors or {}, new=True)

    # ---- leases -------------------------------------------------------------------------------------------------

    async def _renew_leases(self) -> None:
        wait = self.settings.renew_every
        while True:
            await self.clock.sleep(wait)
            wait = self.settings.renew_every
            held = dict(self._mine)
            if not held and not self._taken:
                continue
            self._at("before_renewal")
            asked = self.clock.now()
            try:
                renewed = await self.ledger.renew()
            except LedgerUnavailable as error:
                log.warning("The leases could not be renewed; sending stops before they end: %s", error)
                wait = min(1.0, self.settings.renew_every / 4)
                continue
            self._at("after_renewal")
            for key, intent in held.items():
                if key in renewed:
                    intent.lease_end = max(intent.lease_end, asked + self.settings.lease)
                elif self._mine.get(key) is intent:
                    intent.lost = True

    # ---- looking up ---------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Leave nothing unknown and nothing in other hands, as far as this can be had."""
        moved_at = self.clock.now()
        said = -1
        while True:
            await self._drain()
            if self._stop or self.settings.dry_run:
                return
            await self._look_up()
            aside, self._aside = [record for record in self._aside if record.key not in self._undecided], []
            await self._take(aside)
            await self._drain()
            if self._stop or self._braked or not (self._unknown or self._aside):
                return
            if len(self._aside) != len(aside) or self._unknown:
                moved_at = self.clock.now()
            if self._aside and not self._unknown:
                if self.clock.now() - moved_at > self.settings.held_patience:
                    self._halt(
                        PayarcRunStopped(
                            f"{len(self._aside)} records are being worked on by other runs, which have not moved for {self.settings.held_patience:g} s: run again when they have ended"
                        )
                    )
                    return
                if said != len(self._aside):
                    said = len(self._aside)
                    log.info("Waiting for %d records that another run holds, or held when it died", said)
                _, ripe_in = await self._ledger_call(self.ledger.waiting)
                await self.clock.sleep(
                    max(0.05, min(ripe_in if ripe_in is not None else 0.05, self.settings.lease / 4, 10.0))
                )

    async def _look_up(self) -> None:
        """Settle every row of the account that may be open and is in this attempt's hands, or in nobody's any more."""
        if not self._unknown and not self._aside and not self._prepared:
            return  # nothing was sent and nothing is in doubt: not even a question to the ledger
        if self._unknown:
            ripe = max(intent.checked_at for intent in self._unknown.values()) + self.settings.settle
            log.info(
                "Looking up %d records without a usable answer in %.0f s, when PayArc has settled",
                len(self._unknown),
                max(0.0, ripe - self.clock.now()),
            )
            while (wait := ripe - self.clock.now()) > 0 and not self._stop:
                await self.clock.sleep(wait)
            if self._stop:
                return
        self._at("before_takeover")
        owned = await self._ledger_call(self.ledger.take_over)
        self._taken = owned.keys() - self._mine.keys()
        rows = [
            row
            for key, row in owned.items()
            if key not in self._undecided and (key in self._unknown or key in self._taken)
        ]
        if rows:
            await self._look_up_rows(rows)
        for intent in list(self._unknown.values()):
            self._put_aside(intent)
        self._unknown_in_a_row = 0
        self._going.set()

    async def _look_up_rows(self, rows: list[Row]) -> None:
        self._at("in_lookup")
        altering = await self._ledger_call(lambda: self.ledger.alters_values(noticed=False))
        since = min(row.sent_after or EPOCH for row in rows).timestamp()
        window = await read_window(self._read_page, since, lambda: Window(rows, self.reader, altering=altering))
        candidates = window.candidates()
        ids = (
            await self._ledger_call(lambda: self.ledger.ids_with_rows({one.customer_id for one in candidates}))
            if candidates
            else set()
        )
        borne = {one.reference for one in candidates if one.reference}
        references = await self._ledger_call(lambda: self.ledger.references_with_rows(borne)) if borne else set()
        findings = window.decide(ids, references)
        self._at("before_lookup_record")
        found = [Settled(key, customer_id=its_id, matched_by=how) for key, (its_id, how) in findings.found.items()]
        if found:
            await self._ledger_call(lambda: self.ledger.record(found))
        if findings.absent:
            await self._ledger_call(lambda: self.ledger.record_absence(findings.absent))
        self._at("after_lookup_record")
        self._taken -= findings.found.keys() | findings.absent
        self.counts["found"] += len(found)
        for key, customer_ids in findings.undecided.items():
            self._undecided[key] = f"one of the customers {', '.join(customer_ids[:5])} may be its own"
        for key in findings.absent & self._tries.keys():
            if self._tries[key] >= self.settings.max_tries:
                self._undecided[key] = f"{self._tries[key]} requests for it got no usable answer and created nothing"
        log.info(
            "Looked up %d records: %d found at PayArc, %d not there, %d undecided",
            len(rows),
            len(found),
            len(findings.absent),
            len(findings.undecided),
        )

    async def _read_page(self, number: int) -> Any:
        pages: list[Any] = []
        await self._read(lambda: self.payarc.list_page(number), pages.append)
        return pages[0]

    async def _read(self, call: Callable[[], Awaitable[T]], use: Callable[[T], None]) -> None:
        """A call that changes nothing, repeated with patience: a failed read proves nothing."""
        failures = 0
        while True:
            wait = self.payarc.delay(reading=True)
            if wait > 0:
                await self.clock.sleep(wait)
                continue
            try:
                use(await call())
                return
            except PayarcRateLimited as limited:
                self.counts["rate_limited"] += 1
                await self.clock.sleep(limited.retry_after if limited.retry_after is not None else 1.0)
            except (PayarcConnectionFailed, PayarcUnknownOutcome):
                failures += 1
                if failures > self.settings.max_connection_failures_in_a_row:
                    raise
                await self.clock.sleep(min(30.0, 0.25 * 2**failures))

    def _undecided_text(self) -> str:
        shown_first = [f"{shown(key)}: {why}" for key, why in list(self._undecided.items())[:10]]
        return (
            f"{len(self._undecided)} records are left pending: {'; '.join(shown_first)}. "
            "Look at them in PayArc's dashboard, settle them in the ledger, and run again; nothing is sent twice"
        )

    # ---- waiting ------------------------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not (condition() or self._stop or self._braked) and self._going.is_set():
            self._wake.clear()
            await self._wake.wait()

    async def _drain(self) -> None:
        """Wait until nothing is on its way: all sent, answered and recorded, or stopped."""
        while (
            self._busy
            or self._answers
            or self._recording
            or not (self._outbox.empty() or self._stop or not self._going.is_set())
        ):
            self._wake.clear()
            await self._wake.wait()

    async def _ledger_call(
        self, call: Callable[[], Coroutine[Any, Any, T] | Awaitable[T]], patience: float | None = None
    ) -> T:
        """A transaction, repeated while the ledger's database cannot be reached; each may be repeated safely."""
        started = self.clock.now()
        pause = 0.1
        while True:
            try:
                return await call()
            except LedgerUnavailable as error:
                if self.clock.now() - started > (self.settings.ledger_patience if patience is None else patience):
                    raise
                log.warning("%s; trying again", error)
                await self.clock.sleep(pause)
                pause = min(5.0, pause * 2)

    def _at(self, name: str) -> None:
        if self.settings.checkpoint is not None:
            self.settings.checkpoint(name)


def _as_sent(fields: dict[str, str], customer: dict[str, Any]) -> bool:
    return all(
        str(customer[name] if customer[name] is not None else "").strip() == value
        for name, value in fields.items()
        if name in customer
    )


def _other_source(row: Row) -> dict[str, list[str]]:
    return {
        "key": [
            f"is already {row.customer_id}'s, created from another source ({row.source}) with other data: if the two are different people, "
            'give this source a ledger_table of its own, or a key that tells them apart, such as key=["source", "id"]'
        ]
    }
