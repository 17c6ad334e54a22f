"""The task's end when too many records were refused."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowFailException

from payarc_provider.exceptions import PayarcError


class PayarcRecordsRejected(PayarcError, AirflowFailException):
    """More records were refused than ``max_rejected`` allows: mend them and run again; the others are done.

    A retry would change nothing, so Airflow does not retry the task.

    :param rejected: how many records were refused
    """

    def __init__(self, message: str | None = None, *, rejected: int = 0) -> None:
        super().__init__(message)
        self.rejected = rejected
