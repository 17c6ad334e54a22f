"""What maps over the ids downstream: noticed before anything is sent, since Airflow would fail the task at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import conf

from payarc_provider.exceptions import PayarcConfigError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from payarc_provider.operators.customer import CreateCustomerOperator
    from payarc_provider.sync.batches import Batches


def most_ids(operator: CreateCustomerOperator, context: Context) -> int | None:
    """How many ids the task may give, since another task maps over them; None for any number.

    :raises PayarcConfigError: when it gives none at all
    """
    index = context["ti"].map_index
    if index is not None and index >= 0:  # what maps over a mapped task maps over its copies
        return None
    mapped = next(iter(context["task"].iter_mapped_dependants()), None)
    if mapped is None:
        return None
    if not operator.push_ids:
        raise PayarcConfigError(
            f"push_ids: {mapped.node_id} maps over the ids of {operator.task_id}, which push_ids=False does not push; "
            "leave it out"
        )
    return int(conf.getint("core", "max_map_length", fallback=1024)) * (operator.group_ids or 1)


def check_length(batches: Batches, most: int, task_id: str, group_ids: int | None) -> None:
    """
    Read no further than to the first record too many.

    :param batches: the input, to be read for this only
    :raises PayarcConfigError: when more than ``most`` records may be accepted
    """
    fit = 0
    while (batch := batches.next_batch()) is not None:
        fit += sum(not record.errors for record in batch)
        if fit > most:
            more = f"more than {group_ids}" if group_ids else "100"
            raise PayarcConfigError(
                f"group_ids: {task_id} has more than {most} records, and a task maps over its "
                f"{'groups of ids' if group_ids else 'ids'}, of which Airflow takes [core] max_map_length at most. Set "
                f"group_ids to {more}, so that each mapped task gets a list of so many ids, or raise max_map_length. "
                "Nothing was sent"
            )
