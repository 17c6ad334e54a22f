"""One simulated history: processes, a ledger and PayArc, with random faults between them, all chosen by one seed."""

from __future__ import annotations

import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from payarc_provider.api.client import CustomerPage
from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConnectionFailed,
    PayarcError,
    PayarcRateLimited,
    PayarcRefused,
    PayarcUnknownOutcome,
)
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.engine import Engine
from payarc_provider.sync.keys import reference
from payarc_provider.sync.ledger import Claimant, LedgerUnavailable, Row
from payarc_provider.sync.outcomes import LeaseTooShort
from payarc_provider.sync.records import Record, RecordReader
from payarc_provider.sync.results import Status
from payarc_provider.sync.runtime import CREATE
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.state import RunState

from .ledger import LedgerModel
from .loop import Process, Scheduler

LEDGER_ID = "0123456789abcdef"
ACCOUNT = "test/1"
READER = RecordReader("id", None, LEDGER_ID)
PAGE = 3
LONG = "A description that leaves the reference no room"
PAYARC_EPOCH = 1_000_000.0
HISTORY_SECONDS = 60.0
KEYS = ("k0", "k1", "k2", "k3")
CODES = {key: reference(LEDGER_ID, ACCOUNT, key) for key in KEYS}


class Violation(AssertionError):
    """An invariant was violated."""


@dataclass(slots=True)
class Request:
    """A POST that was sent."""

    key: str
    owner: str
    person: str
    checked_at: float
    may_commit_until: float
    customer_id: str | None = None
    harmless: bool = False  # PayArc certainly created nothing


@dataclass(slots=True)
class Customer:
    customer_id: str
    created_at: int
    person: str
    key: str
    fields: dict[str, str]
    noise: bool = False


@dataclass(slots=True)
class FaultRates:
    """The probability of each fault."""

    lost: float = 0.0
    never: float = 0.0
    late: float = 0.0
    limited: float = 0.0
    unreachable: float = 0.0
    unauthorized: float = 0.0
    ledger_before: float = 0.0
    ledger_after: float = 0.0
    read_fails: float = 0.0


CALLS = ("claim", "record", "renew", "take_over", "record_absence", "give_up", "release")
TROUBLES = ("suspended before", "suspended before, response lost", "suspended after", "response lost", "killed after")


@dataclass(frozen=True, slots=True)
class Trap:
    """Trouble at a point that random faults alone seldom hit.

    :param call: the name of the transaction, in any process
    :param nth: which of these calls; if ``unsent``, only the calls of runs that have unsent claims count
    """

    call: str
    nth: int
    trouble: str
    unsent: bool


@dataclass
class Scenario:
    """The kind of world that a seed chooses."""

    references: bool = True
    long_descriptions: bool = False
    equal_records: bool = False
    changed: bool = False
    rejections: bool = False
    other_source: bool = False
    people: int = 4
    """Number of records. Two or three are enough for most of what can go wrong."""
    altering: bool = False
    moving: bool = False
    ties: bool = False
    settles: tuple[float, float] = (4.0, 4.0)
    mimic: bool = False
    """The third record's description is the reference of the second. Only some of the runs use references."""
    limit: int | None = None
    """After this many requests of a process, the rate limit blocks it for seconds; some runs are deferred."""
    outage: tuple[float, float] | None = None
    """Start and end of the time in which the ledger is unreachable."""
    traps: tuple[Trap, ...] = ()
    relay: bool = False
    """Rows pass from run to run: a run is suspended during a look-up with unsent claims, and the run that sends
    meanwhile is soon killed."""


class World:
    """One history as it runs.

    :param traced: whether to keep what happens in ``trace``, one line per event
    """

    ledger_model: type[LedgerModel] = LedgerModel
    process_clock_stops: bool = False

    def __init__(self, seed: int, traced: bool = False) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.scheduler = Scheduler()
        self.trace: list[str] | None = [] if traced else None
        self.scenario = self._scenario()
        self.rates = self._fault_rates()
        self.ledger = self.ledger_model({})
        # The guarantee assumes that PayArc returns what it was sent, or that the ledger knows that it does not.
        self.ledger.altering = self.scenario.altering
        self.ledger_offset = rng.uniform(-500, 500)
        self.customers: list[Customer] = []
        self.requests: list[Request] = []
        self.absences: dict[str, float] = {}
        self.processes: list[Process] = []
        self.codes = {code: key for key, code in CODES.items()}
        self.allowed: dict[str, int] = {}
        self.faults = 0
        self.owners = 0
        self.deferrals = 0
        self.ended_well = 0
        self.combined: Counter[tuple[str, str]] = Counter()
        self._calls: Counter[tuple[str, bool]] = Counter()
        self._ids = 0
        self.failure: Violation | None = None

    # ---- random choices -----------------------------------------------------------------------------------------

    def _scenario(self) -> Scenario:
        rng = self.rng
        scenario = Scenario(references=rng.random() < 0.7)
        scenario.long_descriptions = rng.random() < 0.2
        scenario.equal_records = rng.random() < 0.3
        if scenario.equal_records and rng.random() < 0.6:
            scenario.references = False
        scenario.changed = rng.random() < 0.35
        scenario.rejections = rng.random() < 0.35
        scenario.other_source = rng.random() < 0.15
        scenario.altering = rng.random() < 0.1
        scenario.moving = rng.random() < 0.5
        scenario.ties = rng.random() < 0.5
        if rng.random() < 0.3:
            scenario.settles = (9.0, 4.0)
        if rng.random() < 0.12:
            scenario.mimic = scenario.equal_records = True
            scenario.long_descriptions = scenario.altering = scenario.other_source = scenario.changed = False
        scenario.people = rng.choice((3, 3, 4) if scenario.equal_records else (2, 2, 3, 4))
        if rng.random() < 0.25:
            scenario.limit = rng.choice((1, 2, 3))
        if rng.random() < 0.2:
            begin = rng.uniform(0, 30)
            scenario.outage = (begin, begin + rng.uniform(1, 25))
        scenario.relay = rng.random() < 0.15
        if scenario.relay or rng.random() < 0.5:
            scenario.traps = tuple(
                Trap(rng.choice(CALLS), rng.choice((1, 1, 2, 3)), rng.choice(TROUBLES), rng.random() < 0.5)
                for _ in range(rng.choice((1, 2)))
            )
        if scenario.relay:
            call = rng.choice(("take_over", "take_over", "record_absence"))
            scenario.traps += (Trap(call, 1, rng.choice(TROUBLES), unsent=True),)
        return scenario

    def _fault_rates(self) -> FaultRates:
        rng = self.rng
        return FaultRates(
            lost=rng.choice((0.0, 0.15, 0.4)),
            never=0.3 if self.scenario.relay else rng.choice((0.0, 0.1, 0.3)),
            late=rng.choice((0.0, 0.15, 0.4)),
            limited=rng.choice((0.0, 0.0, 0.2)),
            unreachable=rng.choice((0.0, 0.0, 0.2)),
            unauthorized=rng.choice((0.0, 0.0, 0.0, 0.05)),
            ledger_before=rng.choice((0.0, 0.0, 0.1)),
            ledger_after=rng.choice((0.0, 0.0, 0.1)),
            read_fails=rng.choice((0.0, 0.0, 0.25)),
        )

    def log(self, *words: object) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.scheduler.now:8.3f}  " + " ".join(map(str, words)))

    def fault(self, *words: object) -> None:
        self.faults += 1
        self.log(*words)

    # ---- a whole history ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run two or more attempts with faults, then a last one without faults, which must succeed."""
        try:
            self._run()
        finally:
            self.scheduler.clear()
            for process in self.processes:
                process.bury()

    def _run(self) -> None:
        rng, scheduler = self.rng, self.scheduler
        self.log("world", self.scenario, self.rates)
        for number in range(rng.choice((2, 2, 2, 3))):
            scheduler.after(
                rng.choice((0.0, rng.uniform(0, 3), rng.uniform(0, 30))), lambda number=number: self.attempt(number)
            )
        if self.scenario.moving:
            for _ in range(rng.randint(2, 12)):
                scheduler.after(rng.uniform(0, HISTORY_SECONDS), self._change_list)
        for _ in range(rng.randint(0, 6)):
            self._add_noise()
        scheduler.run(HISTORY_SECONDS, 20_000)
        self._raise()
        self._end_faults()
        last = self.attempt(len(self.processes), last=True)
        last.add_done_callback(lambda _: self._end())
        scheduler.run(math.inf, 60_000)
        self._raise()
        problem = last.exception()
        if problem is not None and not self._may_be_undecided(problem):
            raise Violation(f"the last attempt, without faults, failed: {problem!r}") from problem
        self._check_end()

    def _may_be_undecided(self, problem: BaseException) -> bool:
        doubtful = self.scenario.altering or self.scenario.equal_records
        unreferenced = not self.scenario.references or self.scenario.long_descriptions or self.scenario.mimic
        return doubtful and unreferenced and "left pending" in str(problem)

    def trouble_at(self, process: Process, me: Claimant, call: str) -> str:
        """The trouble that this call of a process meets; empty for none."""
        counted = {False, self._has_unsent(me)} if self.scenario.traps else {False}
        for unsent in counted:
            self._calls[call, unsent] += 1
        for trap in self.scenario.traps:
            if trap.call == call and trap.unsent in counted and trap.nth == self._calls[call, trap.unsent]:
                self.combined[f"{call}{' with unsent claims' if True in counted else ''}", trap.trouble] += 1
                self.fault(process.name, call, trap.trouble)
                return trap.trouble
        return ""

    def _has_unsent(self, me: Claimant) -> bool:
        """Whether this run owns rows for which it has sent nothing."""
        sent = {request.key for request in self.requests if request.owner == me.owner}
        return any(row.owner == me.owner and row.key not in sent for row in self.ledger.table.values())

    def _end_faults(self) -> None:
        self.log("no more faults")
        self.scenario.traps = ()
        self.scenario.relay = False
        self.rates = FaultRates()
        self.scenario.outage = self.scenario.limit = None
        self.scenario.moving = False
        for process in self.processes:
            process.resume()

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure

    def violation(self, what: str) -> None:
        self.log("VIOLATION", what)
        self.failure = self.failure or Violation(what)
        self._end()

    def _end(self) -> None:
        self.scheduler.over = True

    # ---- attempts -----------------------------------------------------------------------------------------------

    def attempt(self, number: int, *, last: bool = False, again: int = 0, resumed: list[Record] | None = None) -> Any:
        """Start a process that runs the engine. It may be suspended, or killed and then retried.

        :param resumed: the records, if the process resumes a deferred run
        """
        rng = self.rng
        self.owners += 1
        name = f"P{len(self.processes)}"
        process = Process(self.scheduler, name)
        self.processes.append(process)
        second_source = self.scenario.other_source and number % 2 == 1 and not last
        records = resumed if resumed is not None else self.records(number, second_source=second_source)
        settle = self.scenario.settles[number % 2]
        settings = Settings(
            concurrency=1 if self.scenario.relay else rng.choice((1, 2, 2)),
            batch_size=4 if self.scenario.relay else rng.choice((2, 2, 4)),
            reference=rng.random() < 0.5 if self.scenario.mimic else self.scenario.references,
            timeout=2.0,
            settle=settle,
            lease=9.0,
            margin=6.0,
            ledger_patience=120.0 if self.scenario.relay else 15.0,
            held_patience=120.0,
            max_unknown_in_a_row=1 if self.scenario.relay else rng.choice((1, 2, 4)),
            max_connection_failures_in_a_row=3,
            defer_after=2.0
            if self.scenario.limit is not None and not last and (resumed or rng.random() < 0.7)
            else None,
        )
        me = Claimant(
            ACCOUNT,
            name,
            "crm2" if second_source else "crm1",
            settings.lease,
            settle,
            "dag",
            "last" if last else f"run{number}",
            "task",
        )
        results = CheckedResults(self, records)
        runtime = SimRuntime(
            self, process, me, records, settings, clock_offset=rng.uniform(-500, 500), rate_limit=RateLimit(self)
        )
        engine = Engine(RunState(me, LEDGER_ID, settings, READER, runtime, results))

        async def run() -> None:
            try:
                await engine.run()
            except Deferral as deferral:
                self._defer(number, records, deferral.seconds)
                raise
            self.ended_well += 1
            results.check_complete()

        if self.trace is not None:
            given = [(record.key, record.fields.get("name"), bool(record.errors)) for record in records]
            self.log(name, "starts as", me.source, "with", given, "resumed" if resumed else "")
        task = process.start(run())
        task.add_done_callback(lambda task: self._ended(process, task))
        if not last:
            self._schedule_mishaps(process, number, again)
            if rng.random() < 0.15:
                when = rng.choice((rng.uniform(0, 2), rng.uniform(0, 20)))
                self.scheduler.after(when, lambda: process.act(lambda: self._terminate(process, engine)))
        return task

    def _schedule_mishaps(self, process: Process, number: int, again: int) -> None:
        rng = self.rng
        if rng.random() < 0.4:
            start = rng.choice((rng.uniform(0, 2), rng.uniform(0, 30)))
            self.scheduler.after(start, lambda: self._suspend(process))
            self.scheduler.after(start + rng.choice((rng.uniform(0, 5), rng.uniform(5, 40))), process.resume)
        fate = rng.random()
        when = rng.choice((rng.uniform(0, 1), rng.uniform(0, 4), rng.uniform(0, 40)))
        if fate < 0.5:
            self.scheduler.after(when, lambda: self.kill(process))
        if fate < 0.7 and again < 2:  # Airflow retries it: after its death, or in the belief that it is dead
            self.scheduler.after(when + rng.uniform(0, 5), lambda: self._again(number, again))

    def _again(self, number: int, again: int) -> None:
        if self.scheduler.now < HISTORY_SECONDS - 5:
            self.attempt(number, again=again + 1)

    def suspend(self, process: Process) -> None:
        """Suspend it, long enough for others to take its rows over."""
        self._suspend(process)
        self.scheduler.after(self.rng.uniform(25 if self.scenario.relay else 5, 60), process.resume)

    def _suspend(self, process: Process) -> None:
        if not process.dead:
            self.fault(process.name, "is suspended")
            process.suspend()

    def kill(self, process: Process) -> None:
        if not process.dead:
            self.fault(process.name, "is killed")
            process.kill()

    def _terminate(self, process: Process, engine: Engine) -> None:
        self.fault(process.name, "is terminated")
        engine.terminate()

    def _defer(self, number: int, records: list[Record], seconds: float) -> None:
        """Let another process resume the run later; it reads the input from the beginning."""
        self.fault("run", number, "is deferred for", seconds)
        self.deferrals += 1
        when = self.scheduler.now + seconds
        if when < HISTORY_SECONDS - 5:
            self.scheduler.after(seconds, lambda: self.attempt(number, again=2, resumed=records))

    def _ended(self, process: Process, task: Any) -> None:
        problem = task.exception() if not task.cancelled() else None
        if self.trace is not None:
            self.log(process.name, "ends:", repr(problem) if problem else "success")
        if problem is not None and not isinstance(problem, PayarcError):
            self.violation(f"{process.name} broke: {problem!r}")
        # Its threads run on until the process is gone.
        self.scheduler.after(self.rng.uniform(0, 12), process.kill)

    # ---- records ------------------------------------------------------------------------------------------------

    def records(self, number: int, *, second_source: bool) -> list[Record]:
        rng = self.rng
        made = []
        for index, key in enumerate(KEYS[: self.scenario.people]):
            person = f"{'other' if second_source else 'person'}{index}"
            fields = {"name": f"Name {person}", "email": f"{person}@x.co"}
            if self.scenario.equal_records and index in (1, 2) and not second_source:
                fields = {"name": "Name equal", "email": "equal@x.co"}
            if self.scenario.mimic and index == 2:
                fields["description"] = f"ref #{CODES['k1']}"
            if self.scenario.long_descriptions and index % 2 == 0:
                fields["description"] = LONG
            if self.scenario.changed and rng.random() < 0.3:
                fields["city"] = f"City {rng.choice('ab')}"
            errors = {}
            if self.scenario.rejections and rng.random() < 0.2 and number != 0:
                errors = {"phone": ["is wrong today"]}
            if self.scenario.rejections and rng.random() < 0.15 and not second_source:
                fields["name"] = "Rejected " + rng.choice("ab")
            record = Record(
                index, key, {} if errors else fields, digest_of(*(fields | errors_mark(errors)).items()), errors
            )
            made.append(record)
        if rng.random() < 0.3:
            cut = rng.randint(1, max(1, len(made) - 1))
            made = made[:cut] if rng.random() < 0.6 else made[cut:]
        if rng.random() < 0.1:
            made.append(made[0])  # the same record again, in a later batch
        return made

    def person_of(self, record_fields: Mapping[str, str]) -> str:
        return record_fields["email"].split("@")[0]

    # ---- PayArc -------------------------------------------------------------------------------------------------

    @property
    def payarc_now(self) -> float:
        return PAYARC_EPOCH + self.scheduler.now

    def receive(
        self, process: Process, me: Claimant, fields: Mapping[str, str], idempotency_key: str, settings: Settings
    ) -> tuple[float, Any]:
        """Receive a request and decide what it commits and when.

        :return: seconds until the response, and the response
        """
        rng, rates = self.rng, self.rates
        key = self.codes[idempotency_key.split("-", maxsplit=1)[0]]
        now = self.scheduler.now
        request = Request(key, me.owner, self.person_of(fields), now, now + settings.settle)
        self._check_sending(process, me, request)
        self.requests.append(request)
        self.log(process.name, "sends", key, idempotency_key)
        if self.scenario.relay and any(one.suspended and not one.dead for one in self.processes):
            self.scheduler.after(rng.uniform(0, 0.6), lambda: self.kill(process))
        if rng.random() < 0.04:  # the worst moment: with a request in flight
            self._suspend(process)
            self.scheduler.after(rng.uniform(5, 40), process.resume)
        elif (
            request.person == "equal" and rng.random() < 0.25
        ):  # long enough for a look-up by another run, too short for a takeover
            self._suspend(process)
            self.scheduler.after(rng.uniform(3, 9), process.resume)
        dice = rng.random()
        for name in ("unauthorized", "limited", "unreachable", "lost", "never", "late"):
            chance = getattr(rates, name)
            if dice < chance:
                return self._fail(name, request, fields, settings)
            dice -= chance
        quick = rng.uniform(0.01, 0.3) if rng.random() < 0.9 else rng.uniform(0.3, settings.timeout * 1.2)
        if fields["name"].startswith("Rejected"):
            request.harmless = True
            return quick, PayarcRefused("rejected", status=422, errors={"name": ["is rejected"]})
        customer = self._commit_at(quick * rng.random(), request, fields)
        if quick >= settings.timeout:
            self.fault(key, "is answered too late")
            return settings.timeout, PayarcUnknownOutcome()
        return quick, customer

    def _fail(self, name: str, request: Request, fields: Mapping[str, str], settings: Settings) -> tuple[float, Any]:
        rng = self.rng
        self.fault(request.key, "meets", name)
        soon = rng.uniform(0.01, settings.timeout)
        if name in ("unauthorized", "limited", "unreachable"):
            request.harmless = True
            answers = {
                "unauthorized": PayarcAuthError(status=401),
                "limited": PayarcRateLimited(retry_after=0.5),
                "unreachable": PayarcConnectionFailed(),
            }
            return soon / 4, answers[name]
        if name == "lost":
            self._commit_at(rng.uniform(0, soon), request, fields)
        elif name == "late":
            self._commit_at(rng.uniform(0, settings.settle * 0.999), request, fields)
        return soon, PayarcUnknownOutcome(status=rng.choice((None, 500, 502)))

    def _commit_at(self, delay: float, request: Request, fields: Mapping[str, str]) -> Callable[[], dict[str, str]]:
        if fields["name"].startswith("Rejected"):
            return dict
        made: list[Customer] = []
        self.scheduler.after(delay, lambda: made.append(self._commit(request, fields)))
        return lambda: {"customer_id": made[0].customer_id, **made[0].fields}

    def _commit(self, request: Request, fields: Mapping[str, str]) -> Customer:
        stored = {
            name: value.upper() if self.scenario.altering and name in ("name", "city") else value
            for name, value in fields.items()
        }
        customer = Customer(self._new_id(), self._second(), request.person, request.key, stored)
        self.customers.append(customer)
        request.customer_id = customer.customer_id
        self.log("PayArc creates", customer.customer_id, "for", request.key, stored)
        self._check_duplicates(request)
        return customer

    def _second(self) -> int:
        return int(self.payarc_now) if not self.scenario.ties else int(self.payarc_now) // 3 * 3

    def _new_id(self) -> str:
        self._ids += 1
        return f"c{self._ids}"

    def list_page(self, number: int) -> CustomerPage:
        newest = list(reversed(self.customers))
        if self.scenario.ties:
            self.rng.shuffle(newest)
        newest.sort(key=lambda customer: -customer.created_at)
        shown = newest[(number - 1) * PAGE : number * PAGE]
        objects = [{"customer_id": one.customer_id, "created_at": one.created_at, **one.fields} for one in shown]
        return CustomerPage(objects, number, len(newest), -(-len(newest) // PAGE), self.payarc_now)

    def _change_list(self) -> None:
        noise = [customer for customer in self.customers if customer.noise]
        if noise and self.rng.random() < 0.6:
            gone = self.rng.choice(noise)
            self.customers.remove(gone)
            self.log("another client deletes", gone.customer_id)
        else:
            self._add_noise()

    def _add_noise(self) -> None:
        customer = Customer(
            self._new_id(), self._second(), "noise", "", {"name": "Noise", "email": "noise@x.co"}, noise=True
        )
        self.customers.append(customer)
        self.log("another client creates", customer.customer_id)

    # ---- invariants ---------------------------------------------------------------------------------------------

    def _check_sending(self, process: Process, me: Claimant, request: Request) -> None:
        row = self.ledger.table.get(request.key)
        ledger_now = self.scheduler.now + self.ledger_offset
        if row is None or row.owner != me.owner or row.lease_until is None or row.lease_until.timestamp() < ledger_now:
            self.violation(f"{process.name} sends {request.key} without a lease: {row}")
        for earlier in self.requests:
            if earlier.key != request.key or earlier.harmless:
                continue
            if earlier.may_commit_until > self.scheduler.now and earlier.customer_id is None:
                self.violation(
                    f"{process.name} sends {request.key} again while an earlier request may still be committed"
                )
            if self.absences.get(request.key, -1.0) < earlier.checked_at:
                self.violation(f"{process.name} sends {request.key} again without a look-up")

    def _check_duplicates(self, request: Request) -> None:
        made = sum(customer.person == request.person for customer in self.customers)
        keys = 2 if request.person == "equal" else 1
        if made > keys:
            self.violation(f"{made} customers for {request.person} ({request.key})")

    def _is_closed(self, key: str) -> bool:
        """Whether the row is closed. If a record is rejected by our rules, its pending row is left to a later run."""
        row = self.ledger.table.get(key)
        return row is None or row.state != "pending"

    def _check_end(self) -> None:
        ids = [row.customer_id for row in self.ledger.table.values() if row.customer_id]
        if len(ids) != len(set(ids)):
            raise Violation(f"two rows have the same customer: {ids}")
        for row in self.ledger.table.values():
            if row.state == "created":
                owner = next((one for one in self.customers if one.customer_id == row.customer_id), None)
                if owner is None:
                    raise Violation(f"{row.key} has the id {row.customer_id}, which PayArc does not know")
        for request in self.requests:
            recorded = request.customer_id is None or request.customer_id in ids
            if not recorded and self._is_closed(request.key) and not self._may_be_undecided(Violation("left pending")):
                raise Violation(f"customer {request.customer_id} of {request.key} is in no row")


@functools.lru_cache(1000)
def digest_of(*fields: tuple[str, str]) -> str:
    """The digest of these fields. It is cached because the same few records are created again and again."""
    return READER.digest(dict(fields))


def errors_mark(errors: Mapping[str, Any]) -> dict[str, str]:
    """A field that gives rejected records another digest than accepted ones, as the real reader does."""
    return {"rejected": "yes"} if errors else {}


class CheckedResults:
    """Checks each result when the engine reports it."""

    def __init__(self, world: World, records: list[Record]) -> None:
        self.world = world
        self.open = {id(record) for record in records}

    def accept(self, record: Record, customer_id: str, status: Status, *, changed: bool) -> None:
        self.open.discard(id(record))
        row = self.world.ledger.table[record.key or ""]
        if row.state != "created" or row.customer_id != customer_id:
            self.world.violation(
                f"{record.key} has the id {customer_id}, but its row has {row.state} {row.customer_id}"
            )
        customer = next((one for one in self.world.customers if one.customer_id == customer_id), None)
        person = record.fields["email"].split("@")[0]
        if customer is None or customer.person != person:
            self.world.violation(f"{record.key} of {person} has the id {customer_id} of {customer and customer.person}")

    def reject(self, record: Record, errors: Any, *, new: bool) -> None:
        self.open.discard(id(record))
        name = record.fields.get("name", "")
        allowed = record.errors or name.startswith("Rejected") or self.world.scenario.other_source
        if not allowed:
            self.world.violation(f"{record.key} is rejected without a reason: {errors}")

    def check_complete(self) -> None:
        if self.open:
            self.world.violation(f"success, but {len(self.open)} records have neither an id nor a rejection")


class RecordingLedger:
    """The ledger's model within one transaction; logs each call and its result in the history's trace."""

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process
        self.name = "transaction"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.world.ledger, name)
        self.name = name

        def call(*args: Any, **options: Any) -> Any:
            world = self.world
            result = method(*args, **options)
            if name == "record_absence":
                world.absences.update(dict.fromkeys(result, world.scheduler.now))
            if world.trace is not None:
                world.log(self.process.name, name, "->", _short(result))
            return result

        return call


def _deliver(future: Any, result: Any) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result() if callable(result) else result)


def _latency(rng: random.Random) -> float:
    """Seconds that a message to or from the ledger takes."""
    return 0.001 + 0.049 * rng.random()


def _short(result: Any) -> Any:
    if isinstance(result, dict) and result and isinstance(next(iter(result.values())), Row):
        return {
            key: f"{row.state} {row.customer_id or row.owner or ''} #{row.attempt} {row.digest[:3]}"
            for key, row in result.items()
        }
    return result


class RateLimit:
    """PayArc's rate limit, for one process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.left = world.scenario.limit
        self.shut_until = 0.0

    def acquire(self) -> float:
        now, limit = self.world.scheduler.now, self.world.scenario.limit
        if now < self.shut_until:
            return self.shut_until - now
        if limit is not None and self.left is not None:
            if self.left == 0:
                self.left = limit
                self.shut_until = now + self.world.rng.uniform(0.5, 8.0)
                return self.shut_until - now
            self.left -= 1
        return 0.0

    def release(self) -> None:
        if self.left is not None:
            self.left += 1


class SimRuntime:
    """A `Runtime` in the simulated world, for one run of one process.

    Transactions run one after the other. Each may fail before or after it takes effect.
    """

    def __init__(
        self,
        world: World,
        process: Process,
        me: Claimant,
        records: list[Record],
        settings: Settings,
        *,
        clock_offset: float,
        rate_limit: RateLimit,
    ) -> None:
        self.world, self.process, self.me = world, process, me
        self.settings = settings
        self._clock_offset = clock_offset
        self._rate_limit = rate_limit
        size = settings.batch_size
        self._batches = [records[start : start + size] for start in range(0, len(records), size)]
        self._queue: list[tuple[Callable[[Any], Any], Any]] = []
        self._running = False

    # ---- time -----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        stopped = self.process.suspended_for if self.world.process_clock_stops else 0.0
        return self.world.scheduler.now + self._clock_offset - stopped

    async def sleep(self, seconds: float) -> None:
        future = self.process.create_future()
        self.process.call_later(seconds, lambda: future.done() or future.set_result(None))
        await future

    def _answer(self, future: Any, delay: float, result: Any) -> None:
        self.world.scheduler.after(delay, lambda: self.process.act(lambda: _deliver(future, result)))

    # ---- the input ------------------------------------------------------------------------------------------------

    async def next_batch(self) -> list[Record] | None:
        return self._batches.pop(0) if self._batches else None

    # ---- the ledger -----------------------------------------------------------------------------------------------

    async def transact(self, call: Callable[[Any], Any]) -> Any:
        future = self.process.create_future()
        self._queue.append((call, future))
        if not self._running:
            self._next_transaction()
        return await future

    def _next_transaction(self) -> None:
        if not self._queue:
            self._running = False
            return
        self._running = True
        call, future = self._queue.pop(0)
        world = self.world
        trouble = world.trouble_at(self.process, self.me, call.__code__.co_names[0])  # the method that the lambda calls
        if trouble.startswith("suspended before"):
            world.suspend(self.process)
            self.process.act(lambda: self._happen(call, future, trouble))
            return
        world.scheduler.after(_latency(world.rng), lambda: self._happen(call, future, trouble))

    def _happen(self, call: Callable[[Any], Any], future: Any, trouble: str) -> None:
        world = self.world
        if self.process.dead and world.rng.random() < 0.5:
            return
        dice = world.rng.random()
        outage = world.scenario.outage
        if dice < world.rates.ledger_before or (outage and outage[0] < world.scheduler.now < outage[1]):
            world.fault(self.process.name, "cannot reach the ledger")
            result: Any = LedgerUnavailable("unreachable")
        else:
            world.ledger.now = world.scheduler.now + world.ledger_offset
            ledger = RecordingLedger(world, self.process)
            result = call(ledger)
            if dice < world.rates.ledger_before + world.rates.ledger_after or trouble.endswith("response lost"):
                world.fault(self.process.name, ledger.name, "takes effect, but its response is lost")
                result = LedgerUnavailable("response lost")

        if trouble == "suspended after":
            world.suspend(self.process)
        elif trouble == "killed after":
            world.kill(self.process)

        def answer() -> None:
            _deliver(future, result)
            self._next_transaction()

        world.scheduler.after(_latency(world.rng), lambda: self.process.act(answer))

    # ---- PayArc ---------------------------------------------------------------------------------------------------

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        return self._rate_limit.acquire() if endpoint == CREATE else 0.0

    def release(self, endpoint: str) -> None:
        if endpoint == CREATE:
            self._rate_limit.release()

    async def ping(self) -> float | None:
        return await self._read(lambda: self.world.payarc_now)

    async def list_page(self, page: int) -> CustomerPage:
        return await self._read(lambda: self.world.list_page(page))

    async def _read(self, look: Callable[[], Any]) -> Any:
        world, future = self.world, self.process.create_future()

        def there() -> None:
            result = look()
            if world.rng.random() < world.rates.read_fails:
                world.fault(self.process.name, "cannot read the list")
                result = PayarcUnknownOutcome(may_have_acted=False)
            elif world.trace is not None and isinstance(result, CustomerPage):
                ids = [one["customer_id"] for one in result.customers]
                world.log(self.process.name, "reads page", result.page, ids, "of", result.total)
            self._answer(future, world.rng.uniform(0.005, 0.1), result)

        world.scheduler.after(world.rng.uniform(0.005, 0.3), there)
        return await future

    async def create(
        self, fields: Mapping[str, str], idempotency_key: str, attempt: int, pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        world, future = self.world, self.process.create_future()

        def hand_over() -> None:
            try:
                pass_gate()
            except LeaseTooShort as error:
                world.log(self.process.name, "does not send", idempotency_key, repr(error))
                self._answer(future, 0.0, error)
                return
            delay, answer = world.receive(self.process, self.me, fields, idempotency_key, self.settings)
            if isinstance(answer, PayarcRateLimited):
                until = world.scheduler.now + delay + (answer.retry_after or 0.0)
                self._rate_limit.shut_until = max(self._rate_limit.shut_until, until)
            self._answer(future, delay, answer)

        # Between the decision to send and the lease check, a request waits for a thread and for the rate limit.
        wait = world.rng.uniform(0.0, 0.02) if world.rng.random() < 0.8 else world.rng.uniform(0.0, 12.0)
        world.scheduler.after(wait, lambda: self.process.act(hand_over))
        return await future


@dataclass
class Tally:
    """Sums over many histories. ``full`` counts those with at least two owners, 30 events and a fault."""

    histories: int = 0
    events: int = 0
    faults: int = 0
    owners: int = 0
    customers: int = 0
    full: int = 0
    deferrals: int = 0
    combined: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, history: World) -> None:
        self.histories += 1
        self.events += history.scheduler.events
        self.faults += history.faults
        self.owners += history.owners
        self.deferrals += history.deferrals
        self.combined.update(history.combined)
        self.customers += sum(not customer.noise for customer in history.customers)
        self.full += history.scheduler.events >= 30 and history.faults >= 1 and history.owners >= 2

    def add(self, other: Tally) -> None:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def simulate(seed: int, world: type[World] = World, tally: Tally | None = None) -> None:
    """Run the history of a seed.

    :raises Violation: with the seed and the history's trace
    """
    history = world(seed)
    try:
        history.run()
    except AssertionError:
        traced = world(seed, traced=True)
        try:
            traced.run()
        except AssertionError as again:
            problem = again
        raise Violation(f"seed {seed}: {problem}\n" + "\n".join(traced.trace or [])) from None
    if tally is not None:
        tally.count(history)
