"""What a task hands to downstream tasks, and when it fails because of rejected records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException, conf

from payarc_provider.exceptions import PayarcConfigError, PayarcError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from payarc_provider.operators.customer import CreateCustomerOperator
    from payarc_provider.sync.batches import Batches


class PayarcRecordsRejected(PayarcError, AirflowFailException):
    """More records were rejected than ``max_rejected`` allows; all others have their customer: fix them and run again.

    A retry would change nothing, so Airflow does not retry the task.

    :param rejected: how many records were rejected
    """

    def __init__(self, message: str | None = None, *, rejected: int = 0) -> None:
        super().__init__(message)
        self.rejected = rejected


def most_mapped_ids(operator: CreateCustomerOperator, context: Context) -> int | None:
    """How many ids the task may return because a downstream task maps over them; None if nothing maps over them.

    :raises PayarcConfigError: if a task maps over ids that are not pushed
    """
    index = context["ti"].map_index
    if index is not None and index >= 0:  # a task that maps over a mapped task maps over its copies, not their ids
        return None
    mapped = next(iter(context["task"].iter_mapped_dependants()), None)
    if mapped is None:
        return None
    if not operator.push_ids:
        raise PayarcConfigError(
            f"push_ids: {mapped.node_id} maps over the ids of {operator.task_id}, but push_ids=False pushes none. "
            "Remove push_ids=False"
        )
    return int(conf.getint("core", "max_map_length", fallback=1024)) * (operator.group_ids or 1)


def check_mapped_ids(batches: Batches, most: int, task_id: str, group_ids: int | None) -> None:
    """Check before the first request what Airflow would only notice after the last one.

    :param batches: the input, read no further than the first record too many
    :raises PayarcConfigError: if more than ``most`` records could be accepted
    """
    count = 0
    while (batch := batches.next_batch()) is not None:
        count += sum(not record.errors for record in batch)
        if count > most:
            larger = f"more than {group_ids}" if group_ids else "100"
            raise PayarcConfigError(
                f"group_ids: a task maps over the ids of {task_id}, which has more than {most} records. "
                f"Nothing was sent. Set group_ids to {larger} or raise [core] max_map_length"
            )
