"""One run of the operator: connections in, engine run, results out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.hooks.database import sql_engine
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.operators.mapping import check_length, most_ids
from payarc_provider.operators.records import resolve_records
from payarc_provider.sync.account import Identity, find_scope, token_user
from payarc_provider.sync.engine import Run
from payarc_provider.sync.feed import BatchReader
from payarc_provider.sync.ledger import Claimant, Ledger
from payarc_provider.sync.progress import Progress
from payarc_provider.sync.records import Reader, check_partition
from payarc_provider.sync.results import Results
from payarc_provider.sync.sources import DatabaseSource, ListSource, Source
from payarc_provider.sync.threads import (
    NoLedger,
    SystemClock,
    ThreadedFeed,
    ThreadedLedger,
    ThreadedPayarc,
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
        End the task badly if so.

        :raises PayarcRecordsRejected: with one line of counts and at most ten reasons
        """
        from payarc_provider.operators.rejected import PayarcRecordsRejected

        if not self.too_many_rejected(allowed, tolerate_known=tolerate_known):
            return
        count = self.summary["rejected"]
        more = f" (and {count - len(self.reasons)} more)" if count > len(self.reasons) else ""
        raise PayarcRecordsRejected(
            f"{count} of {self.summary['records']} records were refused, max_rejected allows {allowed:g}; the "
            "other records are done. "
            f"Mend them at the source and run again: {' | '.join(self.reasons)}{more}. All are in the XCom "
            '"rejected" and in the ledger',
            rejected=count,
        )


def run(operator: CreateCustomerOperator, context: Context) -> Outcome:
    """Run the operator's task."""
    settings = operator.settings
    hook = PayarcHook(operator.payarc_conn_id)
    settings = dataclasses.replace(settings, timeout=hook.settings.timeout)
    settings.check()
    with contextlib.ExitStack() as stack:
        limiter = RateLimiter()
        client = hook.get_client(limiter)
        stack.callback(client.close)
        ledger_engine = sql_engine(operator.ledger_conn_id or operator.sql_conn_id or "", "ledger_conn_id")
        stack.callback(ledger_engine.dispose)
        ledger = Ledger(ledger_engine, operator.ledger_table)
        exists = ledger.open(create=not settings.dry_run)
        identity = Identity(hook.settings.place, hook.settings.account, token_user(hook.claims.sub, hook.token()))
        scope = (
            find_scope(ledger, identity, client.get_customer, remember=not settings.dry_run)
            if exists
            else identity.own_scope
        )
        reader = Reader(operator.key, operator.fields, ledger.ledger_id or uuid.uuid4().hex)
        source = _source(operator, reader, context, stack.callback)
        instance = context["ti"]
        me = Claimant(
            account=scope,
            owner=uuid.uuid4().hex,
            source=source.name[:500],
            lease=settings.lease,
            settle=settings.settle,
            dag_id=instance.dag_id,
            run_id=instance.run_id,
            task_id=instance.task_id,
        )
        partition = check_partition(operator.partition)
        if (most := most_ids(operator, context)) is not None and not settings.dry_run:
            ahead = Reader(operator.key, operator.fields, ledger.ledger_id)
            check_length(
                BatchReader(source, ahead, settings.batch_size, partition), most, operator.task_id, operator.group_ids
            )
        batches = BatchReader(source, reader, settings.batch_size, partition)
        results = Results(keep=operator.push_ids)
        pools = stack.enter_context(threads(settings.concurrency))
        clock = SystemClock()
        engine = Run(
            me,
            settings,
            ledger.ledger_id,
            reader,
            feed=ThreadedFeed(batches, pools.source),
            ledger=ThreadedLedger(ledger, me, pools, retry_rejected=settings.retry_rejected)
            if exists
            else cast("LedgerPort", NoLedger()),
            payarc=ThreadedPayarc(client, limiter, pools),
            sink=results,
            clock=clock,
        )
        progress = Progress(
            clock, cast("logging.Logger", operator.log), engine.counts, lambda: batches.read, batches.total
        )
        try:
            run_to_end(_with_progress(engine, progress, operator))
        finally:
            _tell_end(operator, reader, progress, client.requests_sent)
        return Outcome(
            summary=_summary(
                engine.counts,
                results,
                batches,
                client.requests_sent,
                limiter,
                progress.seconds,
                dry_run=settings.dry_run,
            ),
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


def _tell_end(operator: CreateCustomerOperator, reader: Reader, progress: Progress, requests: dict[str, int]) -> None:
    for column, name in reader.unsent_lookalikes.items():
        operator.log.warning(
            'The column "%s" is not sent: PayArc has no such field. Did you mean "%s"? Then name it in `fields`',
            column,
            name,
        )
    if reader.personal_keys:
        operator.log.warning(
            "%d keys look like email addresses. Keys are stored as they are: use a key that is no personal data",
            reader.personal_keys,
        )
    operator.log.info(
        "%s in %.1f s, %d requests, %d of them POSTs",
        progress.line(),
        progress.seconds,
        sum(requests.values()),
        requests.get("POST", 0),
    )


def _summary(
    counts: Any,
    results: Results,
    batches: BatchReader,
    requests: dict[str, int],
    limiter: RateLimiter,
    seconds: float,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    summary = {
        "records": batches.read - batches.repeated,
        "created": counts["created"],
        "adopted": counts["adopted"],
        "known": counts["known"],
        "changed": counts["changed"],
        "rejected": results.refused_count,
        "rejected_new": results.refused_new,
        "repeated": batches.repeated,
        "unknown_outcomes": counts["unknown"],
        "rate_limited": counts["rate_limited"],
        "requests": sum(requests.values()),
        "posts": requests.get("POST", 0),
        "seconds": round(seconds, 3),
    }
    if dry_run:
        summary |= {"dry_run": True, "would_create": counts["would_create"], "pending": counts["pending"]}
    return summary


def _source(operator: CreateCustomerOperator, reader: Reader, context: Context, at_end: Callable[..., Any]) -> Source:
    instance = context["ti"]
    if operator.records is not None:
        rows = resolve_records(operator, operator.records, context)
        return ListSource(rows, f"task {instance.dag_id}.{instance.task_id}")
    engine = sql_engine(operator.sql_conn_id or "", "sql_conn_id")
    at_end(engine.dispose)
    name = f"table {operator.table} of {operator.sql_conn_id}"
    if operator.sql is not None:
        name = f"query of {instance.dag_id}.{instance.task_id} on {operator.sql_conn_id}"
    columns = list(reader.mapping.values()) if reader.mapping is not None else None
    return DatabaseSource(
        engine,
        reader.key_columns,
        columns,
        name=name,
        table_name=operator.table,
        sql=operator.sql,
        parameters=operator.parameters,
    )
