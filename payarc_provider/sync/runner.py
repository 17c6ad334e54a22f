"""Starts runs: `run` is what the operator, the benchmarks and the tests call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from typing import TypeVar

from payarc_provider.api.client import PayarcClient
from payarc_provider.exceptions import (
    PayarcConfigError,
    PayarcError,
    PayarcGuardStopped,
    PayarcRunStopped,
    PayarcUnknownOutcome,
)
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.deferral import CarryOver, CarryOverStore, Deferral
from payarc_provider.sync.engine import Engine
from payarc_provider.sync.id_column import IdColumn
from payarc_provider.sync.key_order import check_key_order
from payarc_provider.sync.ledger import Claimant, Ledger
from payarc_provider.sync.ledger.runs import Ending, RunLog, TaskRunFact
from payarc_provider.sync.patience import wait_for_ledger
from payarc_provider.sync.plan import Allowance, Plan, check_guards, plan_id
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.results import SILENT, Progress, Reporter, Results
from payarc_provider.sync.runtime import ThreadedRuntime, collecting_less_garbage, run_to_end
from payarc_provider.sync.settings import Settings, TaskIdentity
from payarc_provider.sync.sources import PAGE, Batches, Source, check_source
from payarc_provider.sync.state import RunState
from payarc_provider.sync.write_back import MissingIds, WriteBack

T = TypeVar("T")

REPORT_SECONDS = 10.0
DELETE_SECONDS = 5.0
LAST_SECONDS = 0.2  # of the five that Airflow gives a task: the engine may have taken four of them


def run(
    source: Source,
    client: PayarcClient,
    ledger: Ledger | None,
    settings: Settings,
    *,
    account: str,
    task: TaskIdentity,
    reporter: Reporter = SILENT,
    resumed: bool = False,
    on_start: Callable[[Callable[[], None]], None] = lambda terminate: None,
) -> Results:
    """Create a PayArc customer for each record of the source, exactly once.

    :param client: its limiter must belong to this run only; it learns from the responses
    :param ledger: an open ledger; None for a dry run if there is no ledger yet
    :param account: the merchant's scope in the ledger
    :param resumed: whether this run continues after a deferral
    :param on_start: called with a function that ends the run within seconds and may be called from any thread
    :return: the results; every accepted record has its id
    :raises Deferral: the rate limit allows no request for ``defer_after`` or longer; run again with ``resumed``
    :raises PayarcGuardStopped: a guard or the approved plan does not allow the run; a dry run's ``refusal`` says so
    :raises PayarcError: the run stopped early; its results are recorded and its rows released, as far as possible
    """
    if ledger is None and not settings.dry_run:
        raise ValueError("only a dry run works without a ledger")
    termination = _Termination()
    on_start(termination)
    column = _id_column(source, settings)
    runner = _Runner(source, client, ledger, account, task, reporter, termination, plan_id(settings, task), column)
    if ledger is not None:
        _check_key_order(runner, ledger, settings)
    with collecting_less_garbage():
        if ledger is None or settings.dry_run:
            return runner.dry_run(settings)
        return _run_slice(runner, ledger, settings, resumed=resumed)


class _Termination:
    """Ends the run within seconds, whatever it is doing. It may be called from any thread."""

    def __init__(self) -> None:
        self.was_called = False
        self._engine: Callable[[], None] | None = None

    def __call__(self) -> None:
        # A signal handler calls this between any two steps of the main thread, so it must not wait for a lock.
        self.was_called = True
        if self._engine is not None:
            self._engine()

    def forward_to(self, engine: Callable[[], None]) -> None:
        """Terminate this engine, which runs now; at once if this was called before."""
        self._engine = engine
        if self.was_called:
            engine()


def _id_column(source: Source, settings: Settings) -> IdColumn | None:
    """The column that receives the ids, if it can; None without ``write_back``."""
    if settings.write_back is None:
        return None
    column = source.id_column() if isinstance(source, DatabaseSource) else None
    if column is None:
        raise PayarcConfigError("write_back: only a table can receive ids. Read one with table, or remove write_back")
    column.check()
    return column


def _check_key_order(runner: _Runner, ledger: Ledger, settings: Settings) -> None:
    def check() -> None:
        check_key_order(ledger, runner.account, settings.key, remember=not settings.dry_run)

    wait_for_ledger(check, settings.ledger_patience, lambda: runner.termination.was_called)


def _run_slice(runner: _Runner, ledger: Ledger, settings: Settings, *, resumed: bool) -> Results:
    """Run until the end of the input, or until the run is deferred."""
    store = CarryOverStore(ledger, runner.task)

    def patiently(call: Callable[[], T]) -> T:
        return wait_for_ledger(call, settings.ledger_patience, lambda: runner.termination.was_called)

    log, this_run = RunLog(ledger, runner.account), runner.fact(settings)
    carry_over = patiently(store.load) if resumed else None
    if carry_over is None:
        patiently(store.delete_abandoned)
        started = patiently(lambda: log.begin(this_run)).began.isoformat()
        carry_over = CarryOver(runner.task.try_number, started_at=started, started_seconds=time.time())
    else:
        runner.client.limiter.restore(carry_over.limiter, max(0.0, time.time() - carry_over.saved_at))
    if settings.retry_rejected:  # not those rejected by an earlier slice, or each slice would send them again
        settings = dataclasses.replace(settings, retry_rejected=carry_over.started)

    def end(ending: Ending) -> None:
        log.end(dataclasses.replace(this_run, began=carry_over.started, ending=ending, counts=carry_over.records))
        store.delete()

    try:
        allowance = runner.make_allowance(settings) if settings.is_guarded else None
        results = runner.run_engine(settings, carry_over, allowance=allowance)
    except Deferral:
        patiently(lambda: store.save(carry_over))
        raise
    except BaseException:
        until = time.monotonic() + (LAST_SECONDS if runner.termination.was_called else DELETE_SECONDS)
        with contextlib.suppress(PayarcError):  # a carry-over that stays behind does no harm
            wait_for_ledger(lambda: end("stopped"), 0.0, lambda: time.monotonic() > until)
        raise
    patiently(lambda: end("finished"))
    return results


@dataclasses.dataclass(frozen=True, repr=False)
class _Runner:
    """Holds the arguments of `run`: plans and guards take two runs of the engine, a dry run and then the real one."""

    source: Source
    client: PayarcClient
    ledger: Ledger | None
    account: str
    task: TaskIdentity
    reporter: Reporter
    termination: _Termination
    plan_id: str | None
    id_column: IdColumn | None

    def dry_run(self, settings: Settings, allowance: Allowance | None = None) -> Results:
        """Find out what a run would do, and whether the guards and the approved plan allow it.

        :param allowance: receives what the run may send
        """
        plan = Plan(self.account, keep=settings.keep_results, allowance=allowance)
        results = self.run_engine(settings, plan=plan)
        results.plan, results.summary["plan"] = plan.entries(), plan.digest
        results.refusal = check_guards(plan, settings, results.summary)
        if allowance is not None:
            allowance.begin(plan, results.summary["records"])
        return results

    def make_allowance(self, settings: Settings) -> Allowance:
        """What the run may send.

        :raises PayarcGuardStopped: a guard or the approved plan does not allow the run
        """
        allowance = Allowance(settings)
        dry_run = dataclasses.replace(settings, dry_run=True, keep_results=False)
        results = dataclasses.replace(self, reporter=SILENT).dry_run(dry_run, allowance)
        if results.refusal is not None:
            raise results.refusal
        return allowance

    def run_engine(
        self,
        settings: Settings,
        carry_over: CarryOver | None = None,
        *,
        plan: Plan | None = None,
        allowance: Allowance | None = None,
    ) -> Results:
        """Run the engine once over the whole input, with an owner id of its own."""
        ledger_id = self.ledger.ledger_id if self.ledger is not None else uuid.uuid4().hex
        write_back = None if settings.dry_run else settings.write_back
        me, reader = (
            self._claimant(settings),
            RecordReader(settings.key, settings.fields, ledger_id, settings.version, write_back, settings.validation),
        )
        results = Results(keep=settings.keep_results)
        missing = MissingIds(results)
        batches = Batches(self.source, reader, PAGE, settings.partition, missing.note_repeat)
        deferral: Deferral | None = None
        with ThreadedRuntime(self.client, self.ledger, batches, me=me, concurrency=settings.concurrency) as runtime:
            state = RunState(me, ledger_id, settings, reader, runtime, missing, plan=plan, allowance=allowance)
            writer = None
            if self.id_column is not None and write_back is not None:
                writer = WriteBack(
                    state,
                    missing,
                    self.id_column,
                    runtime.in_source_thread,
                    lambda keys: self._keys_in_source(reader, keys),
                )
            engine, meter = Engine(state, self.reporter, writer), _Meter(state, batches, self.client)
            with self.reporter.span("payarc.run", _attributes(settings)):
                try:
                    run_to_end(_run_and_report(engine, self.reporter, meter.progress, self.termination))
                except Deferral as caught:  # must not mark the span as failed
                    deferral = caught
                except PayarcGuardStopped:  # which is not about the connection
                    raise
                except (PayarcRunStopped, PayarcUnknownOutcome) as error:
                    error.about(None if self.termination.was_called else self.client.conn_id)
                    raise
                finally:
                    final = meter.progress()
                    if carry_over is not None:
                        carry_over.add_counts(_request_counts(final))
                        carry_over.records = _record_counts(final)
                    self.reporter.ended(final, deferred=deferral is not None)
        if deferral is not None:
            if carry_over is not None:
                limiter, unknown = self.client.limiter.export(), final.counts["unknown"]
                carry_over.note_deferral(
                    limiter,
                    responses=engine.usable_responses,
                    unknown=unknown,
                    rate_limited=final.counts["rate_limited"],
                )
            raise deferral
        requests, deferrals, seconds = _request_counts(final), 0, final.seconds
        if carry_over is not None:
            requests, deferrals = carry_over.counts, carry_over.deferrals
            seconds = time.time() - carry_over.started_seconds
        results.summarize(final, {**requests, "deferrals": deferrals}, seconds, dry_run=settings.dry_run)
        return results

    def _keys_in_source(self, reader: RecordReader, keys: Collection[str]) -> set[str]:
        found = (reader.key_of(row) for page in self.source.pages() for row in page)
        return {key for key in found if key is not None and key in keys}

    def fact(self, settings: Settings) -> TaskRunFact:
        """What the ledger is to remember about this run, before it begins."""
        task, source = self.task, settings.source or self.source.name
        return TaskRunFact(task.dag_id or "", task.run_id or "", task.task_id or "", task.map_index, source)

    def _claimant(self, settings: Settings) -> Claimant:
        return Claimant(
            account=self.account,
            owner=uuid.uuid4().hex,
            source=check_source(settings.source or self.source.name),
            lease=settings.lease,
            settle=settings.settle,
            dag_id=self.task.dag_id,
            run_id=self.task.run_id,
            task_id=self.task.task_id,
            plan=self.plan_id,
        )


class _Meter:
    """Measures the progress of one run of the engine, from now on."""

    def __init__(self, state: RunState, batches: Batches, client: PayarcClient) -> None:
        self._state = state
        self._batches = batches
        self._client = client
        self._started = state.runtime.now()
        self._sent_before, self._waited_before = Counter(client.requests_sent), client.limiter.waited

    def progress(self) -> Progress:
        """How far the run has come."""
        batches, reader = self._batches, self._state.reader
        return Progress(
            counts=Counter(self._state.counts),
            records_read=batches.records_read,
            total=batches.total,
            repeated=batches.repeated,
            seconds=self._state.runtime.now() - self._started,
            requests=Counter(self._client.requests_sent) - self._sent_before,
            problems=Counter(self._state.problems),
            waiting=self._state.waits.text,
            rate_limit_wait=self._client.limiter.waited - self._waited_before,
            columns=reader.columns_found,
            lookalikes=reader.lookalike_columns,
            personal_keys=Counter(reader.personal_keys),
        )


def _attributes(settings: Settings) -> dict[str, int | bool]:
    return {
        "payarc.batch.size": settings.batch_size,
        "payarc.concurrency": settings.concurrency,
        "payarc.dry_run": settings.dry_run,
    }


def _request_counts(progress: Progress) -> dict[str, int]:
    return {
        "unknown_outcomes": progress.counts["unknown"],
        "rate_limited": progress.counts["rate_limited"],
        "requests": progress.requests.total(),
        "posts": progress.requests["POST"],
        "patches": progress.requests["PATCH"],
        "written_back": progress.counts["written_back"],
    }


def _record_counts(progress: Progress) -> dict[str, int]:
    names = ("created", "adopted", "updated", "known", "rejected")
    return {"records": progress.records_read - progress.repeated} | {name: progress.counts[name] for name in names}


async def _run_and_report(
    engine: Engine,
    reporter: Reporter,
    progress: Callable[[], Progress],
    termination: _Termination,
) -> None:
    loop = asyncio.get_running_loop()

    def terminate() -> None:
        with contextlib.suppress(RuntimeError):  # the run has ended
            loop.call_soon_threadsafe(engine.terminate)

    async def report() -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            reporter.progress(progress())

    termination.forward_to(terminate)
    reporting = asyncio.ensure_future(report())
    try:
        await engine.run()
    finally:
        reporting.cancel()
