"""Failures that Airflow does not retry, because a retry would change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airflow.providers.common.compat.sdk import AirflowFailException

from payarc_provider.exceptions import PayarcConfigError, PayarcError


class PayarcRecordsRejected(PayarcError, AirflowFailException):
    """More records were rejected than ``max_rejected`` allows; all others have their customer: fix them and run again.

    A retry would change nothing, so Airflow does not retry the task.

    :param rejected: how many records were rejected
    """

    def __init__(self, message: str | None = None, *, rejected: int = 0) -> None:
        super().__init__(message)
        self.rejected = rejected


class PayarcTaskConfigError(PayarcConfigError, AirflowFailException):
    """The task's connection, arguments or ledger are misconfigured: fix the named setting and run again."""


@contextlib.contextmanager
def no_retry_if_misconfigured() -> Iterator[None]:
    """Within this context, a PayarcConfigError fails the task at once."""
    try:
        yield
    except PayarcTaskConfigError:
        raise
    except PayarcConfigError as error:
        raise PayarcTaskConfigError(str(error)).with_traceback(error.__traceback__) from None
