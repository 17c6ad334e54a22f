"""Failures that Airflow does not retry, because a retry would change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airflow.providers.common.compat.sdk import AirflowFailException

from payarc_provider.exceptions import PayarcConfigError, PayarcError, PayarcGuardStopped


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


class PayarcTaskGuardStopped(PayarcGuardStopped, AirflowFailException):
    """A guard or the approved plan does not allow the run: check the source, then change it or make a new plan."""


_NOT_RETRIED = {PayarcConfigError: PayarcTaskConfigError, PayarcGuardStopped: PayarcTaskGuardStopped}


@contextlib.contextmanager
def no_retry_if_useless() -> Iterator[None]:
    """Within this context, a PayarcConfigError and a PayarcGuardStopped fail the task at once."""
    try:
        yield
    except AirflowFailException:
        raise
    except tuple(_NOT_RETRIED) as error:
        kind = next(kind for base, kind in _NOT_RETRIED.items() if isinstance(error, base))
        raise kind(str(error)).with_traceback(error.__traceback__) from None
