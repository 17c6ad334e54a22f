"""How a task fails: with an exception that holds no values, and without a retry if one would be useless."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from payarc_provider.exceptions import PayarcConfigError, PayarcError, PayarcGuardStopped
from payarc_provider.tracebacks import bare, raised_at

P = ParamSpec("P")
T = TypeVar("T")


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
    except tuple(_NOT_RETRIED) as error:
        raise _not_retried(error).with_traceback(error.__traceback__) from None


def fails_as_task(function: Callable[P, T]) -> Callable[P, T]:
    """Let the function raise what `task_failure` returns, from a frame that holds no arguments."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again
            failure = task_failure(error)
        del args, kwargs
        raise failure

    return call


def task_failure(error: BaseException) -> BaseException:
    """What the task raises in place of this exception: without a traceback, and with no text of unknown origin.

    Airflow logs a task's exception, some versions with all local variables of its traceback's frames.
    """
    if isinstance(error, PayarcError):
        return _not_retried(bare(error))
    if isinstance(error, AirflowException) or not isinstance(error, Exception):  # such as the end of a process
        return bare(error)
    return PayarcError(
        f"Unexpected {type(error).__name__}. Run again, nothing is sent twice; if it happens again, please report this "
        f"line. {raised_at(error)}"
    )


def _not_retried(error: PayarcError) -> Exception:
    """The same failure as one that Airflow does not retry, if a retry would change nothing."""
    kind = next((kind for base, kind in _NOT_RETRIED.items() if isinstance(error, base)), None)
    if kind is None or isinstance(error, AirflowFailException):
        return error
    failure = kind(str(error))
    for note in getattr(error, "__notes__", ()):
        failure.add_note(note)
    return failure
