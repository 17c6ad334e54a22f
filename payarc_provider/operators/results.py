"""How a task's results reach Airflow: XComs, asset events, mapped tasks, and failing because of rejected records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.failures import PayarcRecordsRejected

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from payarc_provider.operators.customer import CreateCustomerOperator
    from payarc_provider.operators.options import Options
    from payarc_provider.sync.results import Results
    from payarc_provider.sync.sources import Source


def hand_over(operator: CreateCustomerOperator, context: Context, options: Options, results: Results) -> Any:
    """Push the XComs, fill the asset events and return ``return_value``.

    :raises PayarcRecordsRejected: more records were rejected than ``max_rejected`` allows; ``return_value`` is pushed
        all the same
    :raises PayarcGuardStopped: after a dry run, if a guard or the approved plan would stop a run
    """
    from payarc_provider.operators.reporting import fill_asset_events

    summary = results.summary
    ids = _grouped(results.customer_ids(), options.group_ids) if options.push_ids else None
    failed = _too_many_rejected(options, summary)
    if operator.do_xcom_push:
        push = context["ti"].xcom_push
        push(key="summary", value=summary)
        if options.push_ids:
            push(key="customers", value=results.customers())
            push(key="rejected", value=results.rejected())
            if options.settings.dry_run:
                push(key="plan", value=results.plan)
            if failed:
                push(key="return_value", value=ids)
    if results.refusal is not None:
        raise results.refusal
    if failed:
        _fail(operator, options, results)
    fill_asset_events(operator, context, summary, dry_run=options.settings.dry_run)
    return ids


def _grouped(ids: list[str], size: int | None) -> list[Any]:
    return [ids[start : start + size] for start in range(0, len(ids), size)] if size else ids


def _too_many_rejected(options: Options, summary: dict[str, Any]) -> bool:
    rejected = summary["rejected_new" if options.tolerate_known_rejected else "rejected"]
    allowed = options.max_rejected
    return bool(rejected > (allowed * summary["records"] if isinstance(allowed, float) else allowed))


def _fail(operator: CreateCustomerOperator, options: Options, results: Results) -> None:
    summary, shown = results.summary, len(results.rejection_reasons)
    rejected = summary["rejected"]
    for reason in results.rejection_reasons:
        operator.log.error("Rejected %s", reason)
    if rejected > shown:
        operator.log.error("%d more rejected", rejected - shown)
    new = f", {summary['rejected_new']} of them new" if options.tolerate_known_rejected else ""
    where = 'the XCom "rejected" lists the reasons'
    if not (options.push_ids and operator.do_xcom_push):
        off = "do_xcom_push" if options.push_ids else "push_ids"
        where = "the log lists the reasons"
        if rejected > shown:
            where = f'the log lists the first {shown} reasons, and with {off}=True the XCom "rejected" lists all'
    raise PayarcRecordsRejected(
        f"Rejected {rejected} of {summary['records']} records{new}, but max_rejected is {options.max_rejected:g}. "
        f"Fix these records and run again; {where}",
        rejected=rejected,
    )


def check_mapped_ids(operator: CreateCustomerOperator, context: Context, options: Options, source: Source) -> None:
    """Check that a downstream task can map over the ids. Airflow itself would only notice after the last request.

    Reads the source no further than the first record too many.

    :raises PayarcConfigError: if Airflow would fail the task at its end
    """
    from payarc_provider.sync.records import RecordReader
    from payarc_provider.sync.sources import Batches

    settings, most = options.settings, _most_mapped_ids(operator, context, options)
    if most is None or settings.dry_run:
        return
    reader = RecordReader(settings.key, settings.fields, operator.task_id)
    batches = Batches(source, reader, settings.batch_size, settings.partition)
    count = 0
    while (batch := batches.next_batch()) is not None:
        count += sum(not record.errors for record in batch)
        if count > most:
            larger = f"more than {options.group_ids}" if options.group_ids else "100"
            raise PayarcConfigError(
                f"group_ids: a task maps over the ids of {operator.task_id}, which has more than {most} records. "
                f"Nothing was sent. Set group_ids to {larger} or raise [core] max_map_length"
            )


def _most_mapped_ids(operator: CreateCustomerOperator, context: Context, options: Options) -> int | None:
    """How many ids a mapped downstream task can take; None if no task maps over the ids."""
    index = context["ti"].map_index
    if index is not None and index >= 0:  # a task that maps over a mapped task maps over its copies, not their ids
        return None
    mapped = next(iter(context["task"].iter_mapped_dependants()), None)
    if mapped is None:
        return None
    if not options.push_ids:
        raise PayarcConfigError(
            f"push_ids: {mapped.node_id} maps over the ids of {operator.task_id}, but push_ids=False pushes none. "
            "Remove push_ids=False"
        )
    return int(conf.getint("core", "max_map_length", fallback=1024)) * (options.group_ids or 1)
