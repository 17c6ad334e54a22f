"""One history: processes, a ledger and PayArc, with random faults between them, all chosen by one seed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from payarc_provider.exceptions import PayarcError, PayarcGuardStopped
from payarc_provider.sync import lookup
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.engine import Engine
from payarc_provider.sync.ledger import Alterations, Claimant, Control, Row
from payarc_provider.sync.plan import Allowance, Plan
from payarc_provider.sync.records import Record
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.state import RunState

from .invariants import CheckedResults, Invariants, Losses, Updates, Violation
from .ledger import LEDGER_ID, LedgerModel
from .loop import Process, Scheduler
from .payarc import Payarc
from .plans import PlannedRun
from .records import ACCOUNT, KEYS, READER, control_record, make_records
from .runtime import RateLimit, SimRuntime
from .scenario import HISTORY_SECONDS, FaultRates, choose_fault_rates, choose_plan, choose_scenario


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
        self.scenario = choose_scenario(rng)
        choose_plan(random.Random(f"plan {seed}"), self.scenario)
        self.rates = choose_fault_rates(rng, self.scenario)
        self.ledger = self.ledger_model({})
        # That PayArc alters values or damages references need not be known.
        altering = self.scenario.altering and not self.scenario.altering_some
        self.ledger.seen_alterations = Alterations(values=altering and not self.scenario.damage)
        self.ledger_offset = rng.uniform(-500, 500)
        self._former_offsets: list[float] = []
        self._lease_offsets: dict[str, float] = {}
        self.payarc = Payarc(self)
        self.invariants = Invariants(self)
        self.updates = Updates(self)
        self.absences: dict[str, float] = {}
        self.processes: list[Process] = []
        self.planned: dict[int, PlannedRun] = {}
        self.losses = Losses(self)
        self.faults = 0
        self.is_calm = False
        self.owners = 0
        self.deferrals = 0
        self.beyond_proof = False
        """Whether something misled a run that nothing could have shown: a list, before the ledger knew a customer to
        check it by, or a clock that had stepped away and back."""
        self.ended_well = 0
        self.combined: Counter[tuple[str, str]] = Counter()
        self._last_records: list[Record] = []
        self._calls: Counter[tuple[str, bool]] = Counter()
        self.failure: Violation | None = None

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
        scheduler = self.scheduler
        self.log("world", self.scenario, self.rates)
        self._schedule_events()
        scheduler.run(HISTORY_SECONDS, 20_000)
        self._raise()
        if self.beyond_proof:
            return
        self._end_faults()
        self.updates.dead = {process.name for process in self.processes if process.dead}
        last = self.attempt(len(self.processes), last=True)
        last.add_done_callback(lambda _: self.end())
        scheduler.run(math.inf, 60_000)
        self._raise()
        if self.beyond_proof:
            return
        problem = last.exception()
        if self.losses.at is not None and self.losses.explain(problem):
            return
        if problem is not None and not self.may_be_undecided(problem):
            raise Violation(f"the last attempt, without faults, failed: {problem!r}") from problem
        self.invariants.check_end()
        if self.scenario.updates and problem is None:
            self.updates.check_end(self._last_records)

    def _schedule_events(self) -> None:
        rng, scheduler = self.rng, self.scheduler
        for number in self._choose_runs():
            start = rng.choice((0.0, rng.uniform(0, 3), rng.uniform(0, 30)))
            if self.scenario.sequel:
                start = 12 * number + rng.uniform(0, 12)
            if self.scenario.reinsertion and number > 0:
                start = self.scenario.loss[0] + rng.uniform(-1, 3)
            scheduler.after(start, lambda number=number: self.attempt(number))
        if self.scenario.moving:
            for _ in range(rng.randint(2, 12)):
                scheduler.after(rng.uniform(0, HISTORY_SECONDS), self.payarc.change_list)
        for _ in range(rng.randint(0, 6)):
            self.payarc.add_noise()
        if self.scenario.loss:
            self._schedule_loss(*self.scenario.loss)
        for when, seconds in self.scenario.clock_steps:
            scheduler.after(when, lambda seconds=seconds: self._step_clock(seconds))
        if self.scenario.erasure:
            scheduler.after(rng.uniform(0, HISTORY_SECONDS), self._erase)
        if self.scenario.updates:
            for _ in range(rng.randint(1, 12)):
                scheduler.after(rng.uniform(0, HISTORY_SECONDS / 2), self.updates.change_source)

    def _planned_run(self, number: int, read_source: Callable[[], list[Record]]) -> PlannedRun:
        if number not in self.planned:
            self.planned[number] = PlannedRun(self, number, read_source, is_alone=self.scenario.alone)
        return self.planned[number]

    def _erase(self) -> None:
        """Erase a key, as the ledger's command does; if that has to wait, try again later."""
        if self.scheduler.now > HISTORY_SECONDS - 10:
            return
        key, self.ledger.now = self.rng.choice(KEYS[: self.scenario.people]), self.scheduler.now + self.ledger_offset
        row = self.ledger.table.get(key)
        done = self.ledger.erase(key)
        self.log("erasing", key, "of", row, "succeeds" if done else "has to wait")
        if not done:
            self.scheduler.after(self.rng.uniform(1, 10), self._erase)
        elif row is not None and row.customer_id is not None:
            customer_id = row.customer_id
            self.scheduler.after(self.rng.uniform(0, 5), lambda: self.payarc.delete(customer_id))

    def _choose_runs(self) -> range:
        runs = range(4 if self.scenario.duel or self.scenario.reinsertion else self.rng.choice((2, 2, 2, 3)))
        return runs[:1] if self.scenario.alone else runs

    def may_be_undecided(self, problem: BaseException) -> bool:
        if any(seconds < 0 for _, seconds in self.scenario.clock_steps) and lookup.NO_CONTROL in str(problem):
            return True  # the claim's time lies in the future of the ledger's clock
        scenario = self.scenario
        doubtful = scenario.altering or scenario.equal_records or scenario.mimic or bool(scenario.damage)
        unreferenced = not scenario.references or scenario.long_descriptions or scenario.mimic or bool(scenario.damage)
        return doubtful and (unreferenced or scenario.altering_some) and "left pending" in str(problem)

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
        sent = {request.key for request in self.payarc.requests if request.owner == me.owner}
        return any(row.owner == me.owner and row.key not in sent for row in self.ledger.table.values())

    def _end_faults(self) -> None:
        self.log("no more faults")
        self.is_calm = True
        self.scenario.traps = ()
        self.scenario.relay = False
        self.scenario.misleading = ""
        self.rates = FaultRates()
        self.scenario.outage = self.scenario.limit = None
        self.scenario.moving = False
        for process in self.processes:
            process.resume()

    def _schedule_loss(self, when: float, what: str) -> None:
        before: dict[str, Row] = {}
        if what == "the latest":
            self.scheduler.after(max(0.0, when - 1.5), lambda: before.update(self.ledger.table))
        self.scheduler.after(when, lambda: self._lose(what, before))

    def _lose(self, what: str, before: dict[str, Row]) -> None:
        table = self.ledger.table
        if what == "some":
            before = {key: row for key, row in table.items() if self.rng.random() < 0.5}
        self.losses.note(self.scheduler.now, table, before)
        table.clear()
        table.update(before)
        self.fault("the ledger loses", what)

    def _step_clock(self, seconds: float) -> None:
        self.fault("the ledger's clock steps by", seconds)
        self._former_offsets.append(self.ledger_offset)
        self.ledger_offset += seconds

    def note_leases(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """A transaction has given or renewed leases. After a clock has stepped away and back, nothing shows that.

        This is the window that ``docs/guarantee.md`` names: the history proves nothing about leases given in between.
        """
        claims = {args[1]} if name == "claim" else {one.claim for one in args[1]} if name == "claim_updates" else None
        keys = [key for key, row in result.items() if claims is None or row.claim in claims]
        has_returned = any(abs(self.ledger_offset - former) <= 5.0 for former in self._former_offsets)
        elsewhere = any(
            abs(self._lease_offsets.get(key, self.ledger_offset) - self.ledger_offset) > 3.0 for key in keys
        )
        if name in ("take_over", "claim_updates") and has_returned and elsewhere:
            self.beyond_proof = True
            self.end()
        self._lease_offsets.update(dict.fromkeys(keys, self.ledger_offset))

    def has_controls(self, keys: set[str], controls: Mapping[str, Control]) -> bool:
        """Whether one of these customers was claimed as late as each of these rows, so that it can check the list.

        One that was erased since checks nothing.
        """
        gone = {customer.customer_id for customer in self.payarc.deleted}
        latest = max((control.claimed_at for key, control in controls.items() if key not in gone), default=None)
        claimed = [self.ledger.table[key].claimed_at for key in keys]
        return latest is not None and all(moment is not None and moment <= latest for moment in claimed)

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure

    def violation(self, what: str) -> None:
        self.log("VIOLATION", what)
        self.failure = self.failure or Violation(what)
        self.end()

    def end(self) -> None:
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

        def make() -> list[Record]:
            versions, kind = self.updates.versions, -1 if last else number
            return make_records(rng, self.scenario, kind, versions, second_source=second_source)

        planned = self._planned_run(number, make) if self.scenario.plan and not last else None
        records = [] if planned else resumed if resumed is not None else make()
        if last:
            records.append(control_record(len(records)))
            self._last_records = records
        self.updates.note_records(records)
        settle = self.scenario.settles[number % 2]
        settings = Settings(
            concurrency=1 if self.scenario.relay else rng.choice((1, 2, 2)),
            batch_size=4 if self.scenario.relay else rng.choice((2, 2, 4)),
            reference=rng.random() < 0.5 if self.scenario.mimic else self.scenario.references,
            timeout=2.0,
            settle=settle,
            lease=9.0,
            margin=6.0,
            on_changed="update" if self.scenario.updates else "report",
            version="version" if self.scenario.updates == "versions" else None,
            ledger_patience=120.0 if self.scenario.relay else 15.0,
            held_patience=500.0 if self.scenario.clock_steps else 120.0,
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
        clock_offset, rate_limit = rng.uniform(-500, 500), RateLimit(self)
        engines: list[Engine] = []

        async def run_engine(
            me: Claimant,
            settings: Settings,
            records: list[Record],
            results: Any,
            plan: Plan | None = None,
            allowance: Allowance | None = None,
        ) -> None:
            runtime = SimRuntime(self, process, me, records, settings, clock_offset=clock_offset, rate_limit=rate_limit)
            state = RunState(me, LEDGER_ID, settings, READER, runtime, results, plan=plan, allowance=allowance)
            engines.append(Engine(state))
            await engines[-1].run()

        async def run() -> None:
            given, arguments, allowance = records, (me, settings), None
            try:
                if planned is not None:
                    *arguments, allowance = await planned.begin(process, me, settings, run_engine)
                    given = planned.read(process)
                    self.updates.note_records(given)
                results = CheckedResults(self, given)
                await run_engine(*arguments, given, results, allowance=allowance)
            except Deferral as deferral:
                self._defer(number, given, deferral.seconds)
                raise
            except PayarcGuardStopped as stopped:
                planned.refused(process, stopped)
                raise
            self.ended_well += 1
            if planned is not None:
                planned.check_success(given)
            results.check_complete()
            self.losses.check_success(process)

        if self.trace is not None:
            given = [(record.key, record.fields.get("name"), bool(record.errors)) for record in records]
            self.log(name, "starts as", me.source, "with", given, "resumed" if resumed else "")
        process.planned = planned
        task = process.start(run())
        task.add_done_callback(lambda task: self._ended(process, task))
        if not last:
            self._schedule_mishaps(process, number, again)
            if rng.random() < (0.5 if self.scenario.reinsertion and number > 0 else 0.15):
                when = rng.choice((rng.uniform(0, 2), rng.uniform(0, 20)))
                self.scheduler.after(when, lambda: process.act(lambda: self._terminate(process, engines[-1])))
        return task

    def _schedule_mishaps(self, process: Process, number: int, again: int) -> None:
        rng = self.rng
        if rng.random() < 0.4:
            start = rng.choice((rng.uniform(0, 2), rng.uniform(0, 30)))
            self.scheduler.after(start, lambda: self.suspend(process))
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

    def suspend_for_long(self, process: Process) -> None:
        """Suspend it, long enough for others to take its rows over."""
        self.suspend(process)
        self.scheduler.after(self.rng.uniform(25 if self.scenario.relay else 5, 60), process.resume)

    def suspend(self, process: Process) -> None:
        if not process.dead and not self.is_calm:
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
