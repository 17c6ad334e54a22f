"""What a run reports of a record, and what a request can have come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from payarc_provider.exceptions import (
    PayarcConnectionFailed,
    PayarcError,
    PayarcNotFound,
    PayarcRateLimited,
    PayarcRefused,
    PayarcUnknownOutcome,
)
from payarc_provider.sync.records import Errors


class Status(StrEnum):
    """What a run says of an accepted record."""

    CREATED = "created"
    """Created in this DAG run, whichever try did it."""
    ADOPTED = "adopted"
    """PayArc already had the customer, and ``match_existing`` recognised it."""
    KNOWN = "known"
    """The ledger had its id from an earlier run."""


@dataclass(frozen=True, slots=True)
class Created:
    """Definite success: a 2xx with an id."""

    customer_id: str
    customer: dict[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """Definite refusal of the record, in PayArc's own shape."""

    errors: Errors


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not processed (429) or not sent (no connection, no lease): send later, after ``wait`` seconds if known."""

    wait: float | None = None
    connected: bool = True
    leased: bool = True


@dataclass(frozen=True, slots=True)
class Unknown:
    """Sent, and no usable answer: to be looked up before it is sent again."""

    status: int | None = None


@dataclass(frozen=True, slots=True)
class Wrong:
    """Not the record but the run is wrong (token, host): stop and release."""

    error: PayarcError


Outcome = Created | Refused | Deferred | Unknown | Wrong


class LeaseTooShort(Exception):
    """The lease does not cover the request's deadline, so the request was not handed to the HTTP library."""


def outcome_of(error: PayarcError | LeaseTooShort) -> Outcome:
    """What a failed ``create_customer`` means for its record: the one place where sending again is decided."""
    if isinstance(error, LeaseTooShort):  # stopped by ourselves before a byte was sent
        return Deferred(leased=False)
    if isinstance(error, PayarcUnknownOutcome):  # a customer may exist: never send before looking
        return Unknown(error.status)
    if isinstance(error, PayarcRateLimited):  # PayArc throttles before it handles a request
        return Deferred(wait=error.retry_after)
    if isinstance(error, PayarcConnectionFailed):  # nothing left this machine
        return Deferred(connected=False)
    if isinstance(error, PayarcRefused) and not isinstance(error, PayarcNotFound):  # PayArc handled it and said no
        return Refused(error.errors or {"record": [error.message]})
    return Wrong(error)  # token, host, proxy: no record is at fault
