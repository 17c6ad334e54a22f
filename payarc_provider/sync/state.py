"""What the parts of a run share: its claims, the records to look at again, and how the run stops."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from payarc_provider.exceptions import PayarcError
from payarc_provider.sync.clock import ClockWatch, PayarcClock
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.fingerprints import fingerprints, listed_fields
from payarc_provider.sync.ledger import (
    Carrier,
    Claimant,
    Evidence,
    KnownRow,
    Ledger,
    LedgerLost,
    LedgerUnavailable,
    Row,
    UpdateClaim,
)
from payarc_provider.sync.limit_waits import LimitWaits
from payarc_provider.sync.listing import PatientReader
from payarc_provider.sync.outcomes import LeaseTooShort, problem_of
from payarc_provider.sync.patience import LONGEST_PAUSE, LedgerWaits
from payarc_provider.sync.plan import Action, Allowance, Plan, Step
from payarc_provider.sync.records import Record, RecordReader
from payarc_provider.sync.reference import find_reference, reference, reference_tag
from payarc_provider.sync.results import ResultSink, Status, status_of_this_task
from payarc_provider.sync.row_memory import RowMemory
from payarc_provider.sync.runtime import Runtime
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.waits import Waits

log = logging.getLogger(__name__)
T = TypeVar("T")

SHORTEST_WAIT = 0.001  # seconds; a clock might not advance in less


@dataclass(slots=True, repr=False)
class Update:
    """A change of a customer.

    :param fields: what to send; an empty value clears the field
    :param sent: field → fingerprint of what is sent, for the row
    :param claim: what is claimed in the ledger
    :param reference: in the customer's description afterwards
    :param is_open: whether an earlier request for this customer may have been applied
    """

    customer_id: str
    fields: dict[str, str]
    sent: dict[str, str]
    claim: UpdateClaim
    reference: str | None
    is_open: bool


@dataclass(slots=True, repr=False)
class Claim:
    """A row that this run has claimed, the record to send for it, and the gate that its request must pass.

    :param id: the claim's id in the ledger, unique to this claim
    :param attempt: the row's attempt number, committed before the request is sent
    :param inserted_at: when the row was inserted
    :param reference: the code that the description carries; None where it has no room or references are turned off
    :param sent_after: PayArc's time, in Unix seconds, before which no request of this claim can have been sent
    :param lease_end: this machine's clock when the lease ends, counted from before it was requested
    :param sent: whether the request was handed to the HTTP library, so that PayArc may have created a customer
    :param rejected: whether PayArc has rejected the record in response to that request
    :param checked_at: this machine's clock at the lease check that let the request pass
    :param lost: whether another run may own the row by now; nothing more is sent for it
    :param update: the change of its customer; None if a customer is created
    """

    record: Record
    id: str
    attempt: int
    inserted_at: datetime.datetime | None
    reference: str | None
    sent_after: float
    lease_end: float
    sent: bool = False
    rejected: bool = False
    checked_at: float = 0.0
    lost: bool = False
    update: Update | None = None
    _gate: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def key(self) -> str:
        """The record's key."""
        return self.record.key or ""

    @property
    def may_have_customer(self) -> bool:
        """Whether PayArc may have created or changed a customer in response to the claim's request."""
        return self.sent and not self.rejected

    def evidence(self, returned_id: str | None = None) -> Evidence:
        """What the row must show after its request.

        :param returned_id: the customer that PayArc has returned
        """
        return Evidence(self.attempt, returned_id=returned_id, inserted_at=self.inserted_at)

    def pass_gate(self, now: float, deadline: float) -> None:
        """Let the request go if the lease covers its whole duration.

        :param deadline: seconds from now until the request can no longer be processed
        :raises LeaseTooShort: the lease does not cover it, and nothing was sent
        """
        with self._gate:
            if self.lost or self.lease_end - now < deadline:
                raise LeaseTooShort
            self.checked_at = now
            self.sent = True

    def close_gate(self) -> bool:
        """Let no more requests go; returns whether an earlier one may have created or changed a customer."""
        with self._gate:
            self.lost = True
            return self.sent or (self.update is not None and self.update.is_open)


class RunState:
    """What every part of a run needs.

    ``counts``: records by result, requests by problem; see `payarc_provider.sync.results`. ``problems``: what came
    instead of usable responses. ``waits``: what the run waits for. ``claims``: key
    → claim, for every row that this run owns and has a record for. ``taken_over``: key → claim id, for every row that
    it has taken over and not resolved. ``postponed``: records to look at again, because another run holds their
    rows or a look-up has freed them. ``memory``: what the ledger's rows must show. ``payarc``: reads from PayArc.
    ``clock``: compares the clock of the ledger's database with others. ``payarc_clock``: None until PayArc was
    contacted. ``ledger_waits``: logs the waits for the ledger. ``limit_waits``: logs and bounds those for the rate
    limit. ``plan``: what a dry run collects. ``allowance``: what may be sent; None for anything. ``stop``: what ends
    the run.
    """

    def __init__(
        self,
        me: Claimant,
        ledger_id: str,
        settings: Settings,
        reader: RecordReader,
        runtime: Runtime,
        results: ResultSink,
        *,
        plan: Plan | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self.me = me
        self.ledger_id = ledger_id
        self.settings = settings
        self.reader = reader
        self.runtime = runtime
        self.results = results
        self.plan = plan
        self.allowance = allowance
        self.counts: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.claims: dict[str, Claim] = {}
        self.taken_over: dict[str, str] = {}
        self.memory = RowMemory(runtime.now)
        self.postponed: list[Record] = []
        self.stop: PayarcError | None = None
        self.waits = Waits(runtime.now)
        self.limit_waits = LimitWaits(runtime.now, self.waits)
        self.payarc = PatientReader(
            runtime,
            limit_waits=self.limit_waits,
            on_rate_limited=lambda: self.counts.update(rate_limited=1),
            on_failure=self.note_problem,
            max_failures=settings.max_connection_failures_in_a_row,
            sleep=self.sleep,
            stop=lambda: self.stop,
        )
        self.clock = ClockWatch(runtime.now, self._distrust_leases)
        self.payarc_clock: PayarcClock | None = None
        self.ledger_waits = LedgerWaits(runtime.now)
        self._claims_made = 0
        self._leave_by: float | None = None
        self._stopped = asyncio.Event()
        self._response_arrived = asyncio.Event()
        self._changed = asyncio.Event()

    def reference_of(self, key: str) -> str:
        """The code by which a key's customer is recognized."""
        return reference(self.ledger_id, self.me.account, key)

    def _reference_in(self, customer: dict[str, Any]) -> str | None:
        """The reference that a customer of this ledger carries; None if it carries none."""
        code = find_reference(customer.get("description"))
        tag = reference_tag(self.ledger_id, self.me.account)
        return code if code is not None and code.startswith(tag) else None

    def is_of_another_key(self, key: str, customer: dict[str, Any]) -> bool:
        """Whether the customer carries the reference of another key of this ledger."""
        return self._reference_in(customer) not in (None, self.reference_of(key))

    def _carriers(self, customers: Iterable[dict[str, Any]]) -> dict[str, Carrier]:
        """The customers that were created through this ledger, by id."""
        found: dict[str, Carrier] = {}
        for customer in customers:
            if code := self._reference_in(customer):
                prints = fingerprints(self.ledger_id, listed_fields(customer))
                found[customer["customer_id"]] = Carrier(code, prints)
        return found

    def new_claim_id(self) -> str:
        """A new claim id. Each claim of a batch and each takeover has its own."""
        self._claims_made += 1
        return f"{self.me.owner}.{self._claims_made}"

    def held_claims(self) -> set[str]:
        """The ids of all claims that this run holds."""
        return {claim.id for claim in self.claims.values()} | set(self.taken_over.values())

    def _distrust_leases(self) -> None:
        """Send nothing more under any lease until it is renewed, since others may think that it has ended."""
        for claim in list(self.claims.values()):
            claim.lease_end = -math.inf

    async def contact_payarc(self) -> bool:
        """At first, list PayArc's newest customers; returns whether this was the first time.

        This checks the token, compares the clocks, and notices if the ledger has lost rows. It happens before the
        first record is claimed and before the first row is taken over.

        :raises LedgerLost: PayArc has customers of this ledger that its rows do not account for
        """
        if self.payarc_clock is not None:
            return False
        clock = PayarcClock(self.runtime.now)
        newest = await self.payarc.read(lambda: clock.read(lambda: self.runtime.list_page(1)))
        await self.transact(lambda ledger: ledger.compare_clock(self.me, self.clock, clock.offset))
        if carriers := self._carriers(newest.customers):
            await self.transact(lambda ledger: ledger.check_customers(self.me.account, carriers))
        self.payarc_clock = clock
        return True

    # ---- results --------------------------------------------------------------------------------------------------

    def accept(self, record: Record, customer_id: str, status: Status, *, changed: bool, stale: bool = False) -> None:
        """Report that the record has its customer."""
        self.counts[status] += 1
        self.counts["changed"] += changed
        self.results.accept(record, customer_id, status, changed=changed, stale=stale)

    def reject(self, record: Record, errors: dict[str, list[str]], *, new: bool) -> None:
        """Report that the record is rejected; ``new``: no other run reported the same rejection before."""
        self.counts["rejected"] += 1
        self.counts["rejected_new"] += new
        self.results.reject(record, errors, new=new)
        self.add_to_plan(Step(record, Action.REJECT, errors))

    # ---- plans ----------------------------------------------------------------------------------------------------

    def note_begun(self, records: Mapping[str, Record], rows: Mapping[str, Row | KnownRow]) -> None:
        """Note which of these records an earlier try under the same plan has begun, as their rows show."""
        if self.me.plan is None:
            return
        for key, row in rows.items():
            record = records[key]
            if record.begun or record.errors or not (begun := self.me.begun(row.plan)):
                continue
            record.begun = begun
            if self.plan is not None:
                self.plan.add_begun(record)

    def add_to_plan(self, *steps: Step) -> None:
        """Add to the plan what a run would do, if this is a dry run."""
        if self.plan is not None:
            for step in steps:
                self.plan.add(*step)

    def admit(self, steps: Iterable[Step]) -> None:
        """Check that the plan and the guards allow these steps.

        :raises PayarcGuardStopped: they do not
        """
        if self.allowance is not None:
            self.allowance.admit(steps)

    # ---- rows -----------------------------------------------------------------------------------------------------

    def note_problem(self, error: PayarcError) -> None:
        """A request got no usable response."""
        self.problems[problem_of(error)] += 1

    def is_from_this_task(self, row: Row | None) -> bool:
        """Whether this task wrote the row in this DAG run, in this try or an earlier one."""
        me = self.me
        mine = (me.dag_id, me.run_id, me.task_id)
        return row is not None and me.run_id is not None and (row.dag_id, row.run_id, row.task_id) == mine

    def status_of(self, row: Row) -> Status:
        """How the record of a row has got its customer."""
        if not self.is_from_this_task(row):
            return Status.KNOWN
        return status_of_this_task(row.matched_by, was_updated=row.updated_at is not None)

    def postpone(self, claim: Claim, returned_id: str | None = None) -> None:
        """Give up the claim, and look at its record again before the run ends.

        :param returned_id: the customer that PayArc has returned for it
        """
        if self.claims.get(claim.key) is claim:
            del self.claims[claim.key]
        if claim.may_have_customer:
            self.memory.note_sent(claim.key, claim.evidence(returned_id))
        self.postponed.append(claim.record)

    def give_up(self, claim: Claim) -> None:
        """Let the lease of an open claim end, so that other runs need not wait for the end of this one."""
        claim.close_gate()
        self.claims.pop(claim.key, None)
        self.memory.note_sent(claim.key, claim.evidence())

    # ---- stopping and waiting -------------------------------------------------------------------------------------

    def halt(self, error: PayarcError, *, within: float | None = None) -> None:
        """Start nothing more; requests in flight are still awaited and recorded.

        :param within: seconds after which the run ends even if requests are still in flight
        """
        if self.stop is None or isinstance(self.stop, Deferral) or isinstance(error, LedgerLost):
            self.stop = error
        if isinstance(error, LedgerLost):  # also those that wait between their last check of the stop and their gate
            for claim in list(self.claims.values()):
                claim.close_gate()
        if within is not None:
            self._leave_by = self.runtime.now() + within
        self._stopped.set()
        self._response_arrived.set()
        self.notify()

    @property
    def must_leave(self) -> bool:
        """Whether the run has to end within seconds."""
        return self._leave_by is not None

    def notify(self) -> None:
        """Wake `wait_until`, because its condition may hold now."""
        self._changed.set()

    def notify_response(self) -> None:
        """Wake `sleep_until_response`, because a response has arrived."""
        self._response_arrived.set()
        if self.stop is None:
            self._response_arrived.clear()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds or the run must end."""
        while not condition():
            self._changed.clear()
            if self._leave_by is None:
                await self._changed.wait()
                continue
            if (left := self._leave_by - self.runtime.now()) <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, SHORTEST_WAIT)):
                    await self._changed.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait, but not after the run is stopped."""
        await self._sleep(seconds, self._stopped)

    async def sleep_until_response(self, seconds: float) -> None:
        """Wait, but not after a response arrives or the run is stopped."""
        await self._sleep(seconds, self._response_arrived)

    @staticmethod
    async def _sleep(seconds: float, event: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, SHORTEST_WAIT)):
                await event.wait()

    async def leave_in_time(self) -> None:
        """Wait until the run must end, then raise the error that stopped it.

        :raises PayarcError: the error that stopped the run
        """
        await self.wait_until_time_is_up()
        if self.stop:
            raise self.stop

    async def wait_until_time_is_up(self, grace: float = 0.0) -> None:
        """Wait until so many seconds after the moment when the run has to leave, for ever if there is none."""
        await self._stopped.wait()
        while self._leave_by is None:
            self._changed.clear()
            await self._changed.wait()
        await self.runtime.sleep(max(self._leave_by + grace - self.runtime.now(), SHORTEST_WAIT))

    # ---- the ledger -----------------------------------------------------------------------------------------------

    async def transact(self, call: Callable[[Ledger], T], patience: float | None = None) -> T:
        """Run one transaction, and repeat it while the ledger's database is unavailable.

        Repeating is safe for every transaction of the ledger.

        :param patience: seconds after which to give up; by default the setting ``ledger_patience``
        :raises LedgerUnavailable: the database stayed unavailable
        """
        patience = self.settings.ledger_patience if patience is None else patience
        began, pause = self.runtime.now(), 0.1
        try:
            while True:
                try:
                    result = await self.runtime.transact(call)
                except LedgerUnavailable as error:
                    self.ledger_waits.check(call, began, patience, error)
                else:
                    self.ledger_waits.succeed(call)
                    return result
                await self.runtime.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
        finally:
            self.ledger_waits.give_up(call)

    async def check_rows(self, evidence: Mapping[str, Evidence], patience: float | None = None) -> None:
        """Stop the run if the ledger has lost one of these rows.

        :raises LedgerUnavailable: the database stayed unavailable
        """
        if not evidence:
            return
        try:
            await self.transact(lambda ledger: ledger.check_rows(self.me, evidence), patience)
        except LedgerLost as error:
            self.halt(error)
