"""The exceptions of this package.

::

    PayarcError
    ├── PayarcConfigError          the connection, an argument or the ledger is misconfigured
    ├── PayarcSourceError          the records could not be read
    ├── PayarcLedgerError          the ledger's database failed
    ├── PayarcConnectionFailed     could not connect; nothing was sent
    ├── PayarcRateLimited          429; not processed, send it again later
    ├── PayarcAuthError            401 or 403; PayArc does not accept the token
    ├── PayarcRefused              PayArc rejected the data
    │   └── PayarcNotFound         PayArc has no such customer
    ├── PayarcUnknownOutcome       sent, but no usable response; PayArc may have acted
    ├── PayarcUnexpectedAnswer     a response that is not PayArc's
    ├── PayarcRunStopped           the run stopped early, on purpose
    │   └── PayarcGuardStopped     a guard or the approved plan stopped it
    └── PayarcRecordsRejected      more records were rejected than ``max_rejected`` allows

The first paragraph of each docstring is the exception's default message. Exceptions never carry a record's values, a
token or a response body. They carry statuses, field names, record keys, and of PayArc's own words about a field what
is known to be harmless (`payarc_provider.api.reasons`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from payarc_provider.operators.failures import PayarcRecordsRejected as PayarcRecordsRejected  # noqa: PLC0414

__all__ = [
    "PayarcAuthError",
    "PayarcConfigError",
    "PayarcConnectionFailed",
    "PayarcError",
    "PayarcGuardStopped",
    "PayarcLedgerError",
    "PayarcNotFound",
    "PayarcRateLimited",
    "PayarcRecordsRejected",
    "PayarcRefused",
    "PayarcRunStopped",
    "PayarcSourceError",
    "PayarcUnexpectedAnswer",
    "PayarcUnknownOutcome",
]

_CONNECTION = "Connection "


@functools.cache
def _first_paragraph(text: str) -> str:
    return inspect.cleandoc(text).split("\n\n")[0].replace("\n", " ")


class PayarcError(Exception):
    """The base class of this package's exceptions.

    ``may_have_acted`` is True if PayArc may have changed something before the exception was raised.
    """

    may_have_acted: bool = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or _first_paragraph(type(self).__doc__ or ""))

    @property
    def message(self) -> str:
        """The text of the exception."""
        return str(self)

    def about(self, conn_id: str | None) -> Self:
        """Let the text begin with the Airflow connection that the exception is about, unless it does already."""
        if conn_id and not str(self).startswith(_CONNECTION):
            self.args = (f"{_CONNECTION}{conn_id}: {self}", *self.args[1:])
        return self


class PayarcConfigError(PayarcError, ValueError):
    """The connection, an argument or the ledger is misconfigured: fix the named setting and run again."""


class PayarcAuthError(PayarcError):
    """PayArc does not accept the access token: put a valid one for the right environment into the connection.

    :param status: 401, or 403 where the token may not manage customers; None where the token was not sent
    """

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PayarcRefused(PayarcError):
    """PayArc rejected the data: fix the named fields at the source and run again.

    :param message: PayArc's own sentence, as far as it is shown
    :param status: the HTTP status (400, 404, 409, 422); None if the data breaks PayArc's documented rules and was not
        sent
    :param errors: PayArc field → what is wrong with it
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        status: int | None = None,
        errors: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.status = status
        self.errors: dict[str, list[str]] = {field: list(texts) for field, texts in (errors or {}).items()}
        self._message = message
        parts = [message] if message else []
        parts += [f"{field}: {' '.join(texts)}" for field, texts in self.errors.items()]
        super().__init__("; ".join(parts) or None)

    @property
    def message(self) -> str:
        """PayArc's own sentence, or the text of the exception if PayArc gave none."""
        return self._message or str(self)


class PayarcNotFound(PayarcRefused):
    """PayArc has no customer with this id: check the id, and that the token is for its merchant and environment."""


class PayarcRateLimited(PayarcError):
    """PayArc's rate limit is used up and nothing was done: send the request again later.

    :param retry_after: seconds to wait; None where PayArc does not say
    """

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PayarcConnectionFailed(PayarcError):
    """Could not connect to PayArc, so nothing was sent: check the connection's host and the network, then try again."""


class PayarcUnknownOutcome(PayarcError):
    """PayArc gave no usable response and may have acted: look the customer up before you send anything again.

    :param status: the HTTP status, if one arrived (408, 5xx, or a 2xx without an id)
    :param may_have_acted: False for a read, which changes nothing
    :param timed_out: whether no complete response arrived in time
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        status: int | None = None,
        may_have_acted: bool = True,
        timed_out: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.may_have_acted = may_have_acted
        self.timed_out = timed_out


class PayarcUnexpectedAnswer(PayarcError):
    """The response is not from PayArc's customer API: check the connection's host and environment, and any proxy.

    :param status: the HTTP status
    """

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PayarcLedgerError(PayarcError):
    """The ledger's database failed: make sure that it is reachable and run again. Nothing is sent twice."""


class PayarcSourceError(PayarcError):
    """The records could not be read: fix the source and run again."""


class PayarcRunStopped(PayarcError):
    """The run stopped early: run it again. It continues where it stopped and sends nothing twice."""


class PayarcGuardStopped(PayarcRunStopped):
    """A guard or the approved plan does not allow the run: check the source, then change the guard or make a new plan.

    A retry would change nothing, so Airflow does not retry the task.
    """


def __getattr__(name: str) -> Any:
    # Loaded on demand because it is an AirflowFailException too, while `api` and `sync` work without Airflow.
    if name == "PayarcRecordsRejected":
        from payarc_provider.operators.failures import PayarcRecordsRejected  # noqa: PLC0415

        return PayarcRecordsRejected
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
