"""One run of the operator: connections in, engine run, results out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from payarc_provider.exceptions import PayarcLedgerError
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.hooks.sql import sql_engine
from payarc_provider.hooks.tracing import get_tracer
from payarc_provider.operators.observing import Watch, note_lineage
from payarc_provider.operators.records import resolve_records
from payarc_provider.operators.results import PayarcRecordsRejected, check_mapped_ids, most_mapped_ids
from payarc_provider.sync.account import find_scope, new_scope
from payarc_provider.sync.batches import Batches
from payarc_provider.sync.deferral import Deferral, Note, Notes
from payarc_provider.sync.engine import Run
from payarc_provider.sync.keys import check_key, check_partition
from payarc_provider.sync.ledger import Claimant, Ledger
from payarc_provider.sync.progress import Progress
from payarc_provider.sync.records import RecordReader, check_fields
from payarc_provider.sync.results import Results
from payarc_provider.sync.sources import DatabaseSource, ListSource, Source
from payarc_provider.sync.threads import (
    NoLedger,
    SystemClock,
    ThreadedFeed,
    ThreadedLedger,
    ThreadedPayarc,
    only_new_garbage,
    run_to_end,
    threads,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from payarc_provider.operators.customer import CreateCustomerOperator
    from payarc_provider.sync.ports import LedgerPort


@dataclass
class Outcome:
    """What the run hands to XCom, and whether it may end well."""

    summary: dict[str, Any]
    customer_ids: list[str] = field(default_factory=list)
    customers: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def too_many_rejected(self, allowed: float, *, tolerate_known: bool) -> bool:
        """Whether more were refused than allowed (an int: how many; a float: which share)."""
        counted = self.summary["rejected_new" if tolerate_known else "rejected"]
        return bool(counted > (allowed * self.summary["records"] if isinstance(allowed, float) else allowed))

    def raise_if_too_many_rejected(self, allowed: float, *, tolerate_known: bool) -> None:
        """
        Fail the task if too many records were rejected.

        :raises PayarcRecordsRejected: with the counts and the first reasons
        """
        if not self.too_many_rejected(allowed, tolerate_known=tolerate_known):
            return
        count = self.summary["rejected"]
        more = f" (and {count - len(self.reasons)} more)" if count > len(self.reasons) else ""
        raise PayarcRecordsRejected(
            f"{count} of {self.summary['records']} records were rejected, but max_rejected is {allowed:g}. "
            f"Fix them at the source and run again; all other records have their customer. "
            f'The XCom "rejected" lists them all: {" | ".join(self.reasons)}{more}',
            rejected=count,
        )


def run(operator: CreateCustomerOperator, context: Context, *, resumed: bool) -> Outcome:
    """Run the operator's task, or go on with it after it has been deferred.

    :raises Deferral: nothing can be sent for a while, everything is let go of, and a note tells the next slice
    """
    with only_new_garbage(), contextlib.ExitStack() as stack:
        return _TaskRun(operator, context, stack).run(resumed=resumed)


class _TaskRun:
    """What one slice of a task works with; ``stack`` closes it."""

    def __init__(self, operator: CreateCustomerOperator, context: Context, stack: contextlib.ExitStack) -> None:
        self._operator = operator
        hook = PayarcHook(operator.payarc_conn_id)
        settings = dataclasses.replace(
            operator.settings,
            timeout=hook.settings.timeout,
            defer_after=operator.defer_after if operator.deferrable and not operator.settings.dry_run else None,
        )
        settings.check()
        self._client = hook.get_client()
        self._limiter = self._client.limiter
        stack.callback(self._client.close)
        engine = sql_engine(operator.ledger_conn_id or operator.sql_conn_id or "", "ledger_conn_id")
        stack.callback(engine.dispose)
        self._ledger = Ledger(engine, operator.ledger_table)
        self._exists = self._ledger.open(create=not settings.dry_run)
        self._source = _source(operator, context, stack.callback)
        self._partition = check_partition(operator.partition)
        self._task = context["ti"]
        self._me = Claimant(
            account=self._scope(hook),
            owner="",  # each pass is an owner of its own
            source=self._source.name[:500],
            lease=settings.lease,
            settle=settings.settle,
            dag_id=self._task.dag_id,
            run_id=self._task.run_id,
            task_id=self._task.task_id,
        )
        self._settings = settings
        self._pools = stack.enter_context(threads(settings.concurrency))
        self._check_mapped_downstream(context)

    def _scope(self, hook: PayarcHook) -> str:
        if not self._exists:
            return new_scope(hook.identity)
        return find_scope(
            self._ledger, hook.identity, self._client.get_customer, remember=not self._operator.settings.dry_run
        )

    def _check_mapped_downstream(self, context: Context) -> None:
        operator = self._operator
        most = most_mapped_ids(operator, context)
        if most is not None and not self._settings.dry_run:
            check_mapped_ids(self._batches(self._reader()), most, operator.task_id, operator.group_ids)

    def _reader(self) -> RecordReader:
        return RecordReader(self._operator.key, self._operator.fields, self._ledger.ledger_id or uuid.uuid4().hex)

    def _batches(self, reader: RecordReader) -> Batches:
        return Batches(self._source, reader, self._settings.batch_size, self._partition)

    def run(self, *, resumed: bool) -> Outcome:
        """Read the whole input; a slice that resumes the run also takes up what the one before has noted."""
        if not self._exists:
            return self._pass(None)
        task = self._task
        notes = Notes(self._ledger, (task.dag_id, task.run_id, task.task_id, task.map_index))
        source = f"{self._source.name} by {self._operator.key} in {self._partition}"
        note = notes.read(task.try_number, source) if resumed else None
        if note is None:
            note = Note(task.try_number, source, began=self._ledger.now().isoformat(), started=time.time())
        else:
            self._limiter.restore(note.limits, max(0.0, time.time() - note.left_at))
        if self._settings.retry_rejected:
            # Not those that this try has had refused already: they would be sent in each slice again.
            moment = datetime.datetime.fromisoformat(note.began)
            self._settings = dataclasses.replace(self._settings, retry_rejected=moment)
        try:
            outcome = self._pass(note)
        except Deferral:
            notes.write(note)
            raise
        except BaseException:
            with contextlib.suppress(PayarcLedgerError):  # the note is of no use, and does no harm
                notes.remove()
            raise
        notes.remove()
        return outcome

    def _pass(self, note: Note | None) -> Outcome:
        """Read the input to its end."""
        operator, settings = self._operator, self._settings
        reader = self._reader()
        batches = self._batches(reader)
        results = Results(keep=operator.push_ids)
        clock = SystemClock()
        me = dataclasses.replace(self._me, owner=uuid.uuid4().hex)
        ledger = (
            ThreadedLedger(self._ledger, me, self._pools, retry_rejected=settings.retry_rejected)
            if self._exists
            else cast("LedgerPort", NoLedger())
        )
        payarc = ThreadedPayarc(self._client, self._limiter, self._pools, self._ledger if self._exists else None, me)
        tracer = get_tracer()
        engine = Run(
            me,
            settings,
            self._ledger.ledger_id,
            reader,
            feed=ThreadedFeed(batches, self._pools.source),
            ledger=ledger,
            payarc=payarc,
            sink=results,
            clock=clock,
            observer=tracer,
        )
        note_lineage(operator, me.account, self._source, reader, engine)
        watch = Watch(operator, self._task, engine, self._client, payarc, clock, note.met if note is not None else {})
        progress = Progress(
            clock,
            cast("logging.Logger", operator.log),
            engine.counts,
            lambda: batches.read,
            batches.total,
            watch.meter.tell,
        )
        before = Counter(self._client.requests_sent)
        try:
            with watch.going_on(tracer):
                run_to_end(_with_progress(engine, progress, operator))
        except Deferral:
            if note is not None:
                note.limits = self._limiter.export()
                note.leave(answers=engine.answers, unknown=engine.counts["unknown"])
            raise
        finally:
            requests = Counter(self._client.requests_sent) - before
            spent = {
                "unknown_outcomes": engine.counts["unknown"],
                "rate_limited": engine.counts["rate_limited"],
                "requests": requests.total(),
                "posts": requests["POST"],
            }
            if note is not None:
                note.add(spent)
                note.meet(engine.met)
            _tell_end(operator, reader, progress, requests)
        return Outcome(
            summary=_summary(engine.counts, results, batches, settings.dry_run)
            | (note.counts | {"deferrals": note.deferrals} if note is not None else spent | {"deferrals": 0})
            | {"seconds": round(progress.seconds if note is None else time.time() - note.started, 3)},
            customer_ids=results.customer_ids(),
            customers=results.customers(),
            rejected=results.rejected(),
            reasons=results.reasons,
        )


async def _with_progress(engine: Run, progress: Progress, operator: CreateCustomerOperator) -> None:
    loop = asyncio.get_running_loop()

    def terminate() -> None:
        loop.call_soon_threadsafe(engine.terminate)

    operator._terminate = terminate
    telling = asyncio.ensure_future(progress.tell())
    try:
        await engine.run()
    finally:
        operator._terminate = None
        telling.cancel()


def _tell_end(
    operator: CreateCustomerOperator, reader: RecordReader, progress: Progress, requests: dict[str, int]
) -> None:
    for column, name in reader.lookalike_columns.items():
        operator.log.warning(
            'The column "%s" is not sent: PayArc has no such field. Did you mean "%s"? Then name it in `fields`',
            column,
            name,
        )
    if reader.email_like_keys:
        operator.log.warning(
            "%d keys look like email addresses. Keys are stored as they are: use a key that is no personal data",
            reader.email_like_keys,
        )
    operator.log.info(
        "%s in %.1f s, %d requests, %d of them POSTs",
        progress.line(),
        progress.seconds,
        sum(requests.values()),
        requests.get("POST", 0),
    )


def _summary(counts: Counter[str], results: Results, batches: Batches, dry_run: bool) -> dict[str, Any]:
    summary = {
        "records": batches.read - batches.repeated,
        "created": counts["created"],
        "adopted": counts["adopted"],
        "known": counts["known"],
        "changed": counts["changed"],
        "rejected": results.refused_count,
        "rejected_new": results.refused_new,
        "repeated": batches.repeated,
    }
    if dry_run:
        summary |= {"dry_run": True, "would_create": counts["would_create"], "pending": counts["pending"]}
    return summary


def _source(operator: CreateCustomerOperator, context: Context, at_end: Callable[..., Any]) -> Source:
    instance = context["ti"]
    if operator.records is not None:
        rows = resolve_records(operator, operator.records, context)
        return ListSource(rows, f"task {instance.dag_id}.{instance.task_id}")
    engine = sql_engine(operator.sql_conn_id or "", "sql_conn_id")
    at_end(engine.dispose)
    name = f"table {operator.table} of {operator.sql_conn_id}"
    if operator.sql is not None:
        name = f"query of {instance.dag_id}.{instance.task_id} on {operator.sql_conn_id}"
    mapping = check_fields(operator.fields)
    return DatabaseSource(
        engine,
        check_key(operator.key),
        list(mapping.values()) if mapping is not None else None,
        name=name,
        table_name=operator.table,
        sql=operator.sql,
        parameters=operator.parameters,
    )
