"""Starting a run: `run` is what the operator, the command, the benchmarks and the tests call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from payarc_provider.api.client import PayarcClient
from payarc_provider.exceptions import PayarcError, PayarcRunStopped
from payarc_provider.sync.batches import Batches
from payarc_provider.sync.deferral import Carried, CarriedFact, Deferral
from payarc_provider.sync.engine import Engine
from payarc_provider.sync.ledger import Claimant, Ledger
from payarc_provider.sync.patience import wait_for_ledger
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.results import SILENT, Progress, Reporter, Results
from payarc_provider.sync.runtime import ThreadedRuntime, collecting_less_garbage, run_to_end
from payarc_provider.sync.settings import Settings, TaskIdentity
from payarc_provider.sync.sources import Source
from payarc_provider.sync.state import RunState

T = TypeVar("T")

REPORT_SECONDS = 10.0
REMOVE_SECONDS = 5.0
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
    """Bring all records of the source to PayArc, each exactly once.

    :param client: with a limiter of its own, which its answers teach
    :param ledger: open; None for a dry run where there is no ledger yet
    :param account: the merchant's scope in the ledger
    :param resumed: whether this goes on after a deferral
    :param on_start: called with a function that makes the run leave within seconds; it may be called from any thread
    :return: the results; every accepted record has its id
    :raises Deferral: the rate limit holds everything back for ``defer_after`` or longer; run again with ``resumed``
    :raises PayarcError: what stopped the run, after all that can be recorded and released has been
    """
    if ledger is None and not settings.dry_run:
        raise ValueError("only a dry run can do without a ledger")
    termination = _Termination()
    on_start(termination)
    start = _Start(source, client, ledger, account, task, reporter, termination)
    with collecting_less_garbage():
        if ledger is None or settings.dry_run:
            return start.once(settings)
        if settings.max_new is not None:
            _check_max_new(start, settings, settings.max_new)
        return _run_slice(start, ledger, settings, resumed=resumed)


class _Termination:
    """Makes the run leave within seconds, whatever it is doing. It may be called from any thread."""

    def __init__(self) -> None:
        self.was_called = False
        self._engine: Callable[[], None] | None = None

    def __call__(self) -> None:
        # A signal handler calls this between any two steps of the main thread, so there is no lock that it might hold.
        self.was_called = True
        if self._engine is not None:
            self._engine()

    def forward_to(self, engine: Callable[[], None]) -> None:
        """Terminate this engine, which runs now; at once if this was called before."""
        self._engine = engine
        if self.was_called:
            engine()


def _check_max_new(start: _Start, settings: Settings, most: int) -> None:
    plan = dataclasses.replace(settings, dry_run=True, keep_results=False)
    new = dataclasses.replace(start, reporter=SILENT).once(plan).summary["would_create"]
    if new > most:
        raise PayarcRunStopped(
            f"max_new={most}: this run would create {new} customers, so nothing was sent. "
            "Check that key and source are the right ones, then raise max_new"
        )


def _run_slice(start: _Start, ledger: Ledger, settings: Settings, *, resumed: bool) -> Results:
    """Run until the end of the input, or until the run is deferred."""
    fact = CarriedFact(ledger, start.task)

    def patiently(call: Callable[[], T]) -> T:
        return wait_for_ledger(call, settings.ledger_patience, lambda: start.termination.was_called)

    carried = patiently(fact.read) if resumed else None
    if carried is None:
        carried = Carried(start.task.try_number, began=patiently(ledger.now).isoformat(), started=time.time())
    else:
        start.client.limiter.restore(carried.limits, max(0.0, time.time() - carried.left_at))
    if settings.retry_rejected:  # but not what an earlier slice had rejected, or each slice would send it again
        settings = dataclasses.replace(settings, retry_rejected=carried.began_at)
    try:
        results = start.once(settings, carried)
    except Deferral:
        patiently(lambda: fact.write(carried))
        raise
    except BaseException:
        until = time.monotonic() + (LAST_SECONDS if start.termination.was_called else REMOVE_SECONDS)
        with contextlib.suppress(PayarcError):  # what is carried over is of no use any more, and does no harm
            wait_for_ledger(fact.remove, 0.0, lambda: time.monotonic() > until)
        raise
    patiently(fact.remove)
    return results


@dataclasses.dataclass(frozen=True)
class _Start:
    """What a run is made of; each pass over the input is an owner of its own."""

    source: Source
    client: PayarcClient
    ledger: Ledger | None
    account: str
    task: TaskIdentity
    reporter: Reporter
    termination: _Termination

    def once(self, settings: Settings, carried: Carried | None = None) -> Results:
        """Read the input once, from its beginning to its end, and do what is to be done for it."""
        task, client, reporter = self.task, self.client, self.reporter
        me = Claimant(
            account=self.account,
            owner=uuid.uuid4().hex,
            source=self.source.name[:500],
            lease=settings.lease,
            settle=settings.settle,
            dag_id=task.dag_id,
            run_id=task.run_id,
            task_id=task.task_id,
        )
        ledger_id = self.ledger.ledger_id if self.ledger is not None else uuid.uuid4().hex
        reader = RecordReader(settings.key, settings.fields, ledger_id)
        batches = Batches(self.source, reader, settings.batch_size, settings.partition)
        results = Results(keep=settings.keep_results)
        with ThreadedRuntime(client, self.ledger, batches, me=me, concurrency=settings.concurrency) as runtime:
            state = RunState(me, ledger_id, settings, reader, runtime, results)
            engine = Engine(state, reporter)
            began, sent_before, waited_before = runtime.now(), Counter(client.requests_sent), client.limiter.waited

            def progress() -> Progress:
                return Progress(
                    counts=Counter(state.counts),
                    records_read=batches.records_read,
                    total=batches.total,
                    repeated=batches.repeated,
                    seconds=runtime.now() - began,
                    requests=Counter(client.requests_sent) - sent_before,
                    rate_limit_wait=client.limiter.waited - waited_before,
                    columns=reader.columns_found,
                    lookalikes=reader.lookalike_columns,
                    personal_keys=reader.email_like_keys,
                )

            deferral: Deferral | None = None
            spent: dict[str, int] = {}
            with reporter.span("payarc.run", _attributes(settings)):
                try:
                    run_to_end(_run_and_report(engine, reporter, progress, self.termination))
                except Deferral as caught:  # no failure of the span's
                    deferral = caught
                finally:
                    end = progress()
                    spent = _spent(end)
                    if carried is not None:
                        carried.add(spent)
                    reporter.ended(end, deferred=deferral is not None)
        if deferral is not None:
            if carried is not None:
                carried.leave(client.limiter.export(), answers=engine.answers, unknown=state.counts["unknown"])
            raise deferral
        spent = {**spent, "deferrals": 0} if carried is None else {**carried.counts, "deferrals": carried.deferrals}
        seconds = end.seconds if carried is None else time.time() - carried.started
        results.summarize(end, spent, seconds, dry_run=settings.dry_run)
        return results


def _attributes(settings: Settings) -> dict[str, int | bool]:
    return {
        "payarc.batch.size": settings.batch_size,
        "payarc.concurrency": settings.concurrency,
        "payarc.dry_run": settings.dry_run,
    }


def _spent(progress: Progress) -> dict[str, int]:
    return {
        "unknown_outcomes": progress.counts["unknown"],
        "rate_limited": progress.counts["rate_limited"],
        "requests": progress.requests.total(),
        "posts": progress.requests["POST"],
    }


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
