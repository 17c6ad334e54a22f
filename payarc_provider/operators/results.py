"""How a task's results reach Airflow: XComs, asset events, mapped tasks, and failing because of rejected records."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.failures import PayarcRecordsRejected
from payarc_provider.sync.wording import counted

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from payarc_provider.operators.customer import CreateCustomerOperator
    from payarc_provider.operators.options import Options
    from payarc_provider.sync.results import Results
    from payarc_provider.sync.sources import Source

SHOWN_IN_ERROR = 3


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
    _log_rejected(operator, options, results, failed=failed)
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


def _log_rejected(operator: CreateCustomerOperator, options: Options, results: Results, *, failed: bool) -> None:
    """Log the rejected records by reason, the most frequent reasons first."""
    level = logging.ERROR if failed else logging.WARNING
    for reason in results.summary["reasons"]:
        operator.log.log(level, "Rejected %s", reason)
    if len(results.rejections.groups()) > len(results.summary["reasons"]):
        operator.log.log(level, "Rejected more records for other reasons; %s", _where(operator, options))


def _where(operator: CreateCustomerOperator, options: Options) -> str:
    """Where all reasons are listed."""
    if options.push_ids and operator.do_xcom_push:
        return 'the XCom "rejected" lists all'
    off = "do_xcom_push" if options.push_ids else "push_ids"
    return f'the log has the reasons, and with {off}=True the XCom "rejected" lists all'


def _fail(operator: CreateCustomerOperator, options: Options, results: Results) -> None:
    summary = results.summary
    rejected = summary["rejected"]
    new = f", {summary['rejected_new']} of them new" if options.tolerate_known_rejected else ""
    shown = "".join(f"\n{reason}" for reason in summary["reasons"][:SHOWN_IN_ERROR])
    raise PayarcRecordsRejected(
        f"Rejected {rejected} of {counted(summary['records'], 'record')}{new}, but max_rejected is "
        f"{options.max_rejected:g}. Fix them and run again; {_where(operator, options)}:{shown}",
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
    reader = RecordReader(settings.key, settings.fields, operator.task_id, validation=settings.validation)
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
