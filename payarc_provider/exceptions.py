"""Every error of this package.

::

    PayarcError
    ├── PayarcConfigError         the connection, the operator's arguments or the ledger's set-up is wrong
    ├── PayarcAuthError           401 or 403: the token
    ├── PayarcRefused             PayArc (or its documented rules) refused the data
    │   └── PayarcNotFound        there is no such customer
    ├── PayarcRateLimited         429: not processed, send later
    ├── PayarcConnectionFailed    could not connect: nothing was sent
    ├── PayarcUnknownOutcome      sent, and no usable answer: PayArc may have acted
    ├── PayarcUnexpectedAnswer    an answer that is not PayArc's: the set-up is wrong, not the record
    ├── PayarcLedgerError         the ledger's database failed or refused
    ├── PayarcSourceError         the records could not be read
    ├── PayarcRunStopped          the run ended early on purpose; what is left is safe to run again
    └── PayarcRecordsRejected     more records were refused than ``max_rejected`` allows

The docstring of each class is its default message and says what to do next. No error carries a record's values, a
token or an answer's body: only statuses, field names, PayArc's own words per field with quoted values struck out, and
record keys. ``may_have_acted`` tells whether PayArc may have changed something before the error arose.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from payarc_provider.operators.results import PayarcRecordsRejected as PayarcRecordsRejected  # noqa: PLC0414

__all__ = [
    "PayarcAuthError",
    "PayarcConfigError",
    "PayarcConnectionFailed",
    "PayarcError",
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


@functools.cache
def _first_paragraph(text: str) -> str:
    return inspect.cleandoc(text).split("\n\n")[0].replace("\n", " ")


class PayarcError(Exception):
    """Something went wrong with PayArc."""

    may_have_acted: bool = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or _first_paragraph(type(self).__doc__ or ""))

    @property
    def message(self) -> str:
        """The text without any traceback."""
        return str(self)


class PayarcConfigError(PayarcError, ValueError):
    """The connection or the operator is set up wrongly: mend the named setting and run again."""


class PayarcAuthError(PayarcError):
    """PayArc does not accept the access token: put a valid one, of the right environment, into the connection."""

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PayarcRefused(PayarcError):
    """PayArc refused the data: mend the named fields at the source and run again.

    :param status: the HTTP status (400, 404, 409, 422), or None when this package's rules refused before any request
    :param message: PayArc's own sentence, values struck out
    :param errors: PayArc's field → what is wrong with it, one text per fault
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
        """PayArc's own sentence, or this error's text where PayArc gave none."""
        return self._message or str(self)


class PayarcNotFound(PayarcRefused):
    """PayArc has no customer with this id: check the id, and that the token is of the same merchant and environment."""


class PayarcRateLimited(PayarcError):
    """PayArc's rate limit is used up: send the request again after ``retry_after`` seconds; nothing was created."""

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PayarcConnectionFailed(PayarcError):
    """Could not connect to PayArc, nothing was sent: check the connection's host and the network, then try again."""


class PayarcUnknownOutcome(PayarcError):
    """PayArc gave no usable answer and may have acted: look the customer up before anything is sent again.

    :param status: the HTTP status where one arrived (408, 5xx, or a 2xx without an id)
    :param may_have_acted: False for a read, which changes nothing
    """

    def __init__(self, message: str | None = None, *, status: int | None = None, may_have_acted: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.may_have_acted = may_have_acted


class PayarcUnexpectedAnswer(PayarcError):
    """The server's answer is not PayArc's: check the connection's host and environment, and any proxy on the way."""

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PayarcLedgerError(PayarcError):
    """The ledger's database failed: see that it is reachable and run again; nothing is sent twice."""


class PayarcSourceError(PayarcError):
    """The records could not be read: mend the source and run again."""


class PayarcRunStopped(PayarcError):
    """The run stopped before its end: run it again; it goes on where it was and sends nothing twice."""


def __getattr__(name: str) -> Any:
    # PayarcRecordsRejected is an AirflowFailException too: loaded on demand, it keeps `api` and `sync` free of Airflow.
    if name == "PayarcRecordsRejected":
        from payarc_provider.operators.results import PayarcRecordsRejected  # noqa: PLC0415

        return PayarcRecordsRejected
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
