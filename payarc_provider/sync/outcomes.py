"""The outcome of a request, which decides whether it may be sent again: one pure function, `outcome_of`.

| phase | outcome | what follows |
|---|---|---|
| not sent | `Unreachable`, `NotCovered` | send later |
| rejected before it was processed | `Throttled` | send later |
| usable response | `Created`, `Updated`, `Rejected` | record |
| sent, no usable response | `Unknown` | a POST: look up before anything is sent again; a PATCH: send later |
| response that shows a wrong setting | `Misconfigured` | stop the run |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from payarc_provider.exceptions import (
    PayarcConnectionFailed,
    PayarcError,
    PayarcNotFound,
    PayarcRateLimited,
    PayarcRefused,
    PayarcUnknownOutcome,
)
from payarc_provider.sync.ledger import UpdateResult
from payarc_provider.sync.records import Errors


class LeaseTooShort(Exception):
    """The lease does not cover the request's deadline, so the request was not handed to the HTTP library."""


@dataclass(frozen=True, slots=True)
class Created:
    """A 2xx with an id: the customer exists."""

    customer_id: str
    customer: dict[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Updated:
    """A 2xx with an id: the customer was changed, or nothing had to be sent.

    :param result: what to record
    """

    result: UpdateResult


@dataclass(frozen=True, slots=True)
class Rejected:
    """PayArc itself rejected the record: no customer was created or changed."""

    errors: Errors


@dataclass(frozen=True, slots=True)
class Throttled:
    """A 429: PayArc rejects these before it processes them."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No connection: nothing was sent."""

    error: PayarcError


@dataclass(frozen=True, slots=True)
class NotCovered:
    """The lease did not cover the request: nothing was sent."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Sent, but no usable response: a customer may have been created or changed."""

    error: PayarcError


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The token, the host or a proxy is wrong; the record is not at fault.

    :param processed: whether PayArc may have processed the request anyway; False only for a 401, which PayArc returns
        before it processes a request
    """

    error: PayarcError
    processed: bool


Outcome = Created | Updated | Rejected | Throttled | Unreachable | NotCovered | Unknown | Misconfigured


def outcome_of(error: PayarcError | LeaseTooShort) -> Outcome:
    """What a request that did not create or change a customer means for its record."""
    if isinstance(error, LeaseTooShort):
        return NotCovered()
    if isinstance(error, PayarcUnknownOutcome):
        return Unknown(error)
    if isinstance(error, PayarcRateLimited):
        return Throttled()
    if isinstance(error, PayarcConnectionFailed):
        return Unreachable(error)
    if isinstance(error, PayarcRefused) and not isinstance(error, PayarcNotFound):
        return Rejected(error.errors or {"record": [error.message]})
    return Misconfigured(error, processed=getattr(error, "status", None) != 401)


def problem_of(error: PayarcError) -> str:
    """What came instead of a usable response, in a word: a status, ``timeout``, ``lost connection``…"""
    if isinstance(error, PayarcConnectionFailed):
        return "no connection"
    status = getattr(error, "status", None)
    if status is not None:
        return str(status)
    return "timeout" if getattr(error, "timed_out", False) else "lost connection"
