"""Faults: rules that pick single requests, and what goes wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from http import HTTPStatus
from random import Random
from typing import Any, Literal, get_args

from payarc_provider.sandbox.http import (
    COLLECTION,
    ITEM,
    JSON,
    NO_RESPONSE,
    SandboxResponse,
    json_response,
    unauthenticated,
)

FaultKind = Literal[
    "lost_before",
    "lost_after",
    "status_before",
    "status_after",
    "html_before",
    "html_after",
    "foreign_before",
    "foreign_after",
    "cut_before",
    "cut_after",
    "garbage_before",
    "garbage_after",
    "hang_before",
    "hang_after",
    "late_commit",
    "unauthorized",
    "forbidden",
    "not_found",
    "redirect",
    "rate_limited",
]
"""What can go wrong. ``…_before``: the request is not carried out; ``…_after``: it is carried out first.

- ``lost``: the connection is reset without a response
- ``status``: a response with ``status`` (default 500)
- ``html``: a proxy's HTML page with ``status`` (default 502)
- ``foreign``: a gateway's JSON with ``status`` (default 502), without PayArc's format and headers
- ``cut``: a success, but the connection ends halfway through the body
- ``garbage``: a success with a ``body`` that is not PayArc's (default ``OK``)
- ``hang``: the sandbox waits ``seconds`` (default 60), with ``hang_before`` before it carries out the request, with
  ``hang_after`` before it responds; it carries out the request even if the client has disconnected
- ``late_commit``: an immediate response with ``status``, or a reset; the request is carried out ``seconds`` (default 1)
  later
- ``unauthorized``, ``forbidden``, ``not_found``, ``redirect``, ``rate_limited``: a 401, 403, 404, 302 or 429 (for
  ``seconds``, default 1); the request is not carried out
"""

_METHODS = ("*", "POST", "GET", "PATCH", "DELETE")
_ROUTES = (None, COLLECTION, ITEM)
_HTML = "text/html; charset=utf-8"
_GATEWAY_JSON = f"{JSON}; charset=utf-8"  # only responses with PayArc's own content type get its headers
_TEXT = "text/plain; charset=utf-8"


@dataclass(slots=True)
class FaultRule:
    """One rule. Rules are tried in order; after the first one that fires, the rest do not count the request.

    :param kind: what goes wrong
    :param method: the method that the rule applies to; ``*`` for all
    :param route: ``/customers`` or ``/customers/{id}``; None for both
    :param match: field → value that the request must have; for a list, its query parameters
    :param skip: how many matching requests to let through first
    :param every: fire on every n-th request after those
    :param probability: fire with this probability, drawn from the sandbox's seeded generator
    :param times: how often to fire; None for no limit. Default: once, or without limit if ``every`` or ``probability``
        is given
    :param status: the status of the response, for kinds that have one
    :param seconds: how long to wait, for kinds that wait
    :param body: the body of the response, for ``garbage``, ``html``, ``foreign`` and ``status``
    :param headers: more headers of the response, for ``garbage``, ``html``, ``foreign``, ``status`` and
        ``redirect``
    """

    kind: FaultKind
    method: str = "POST"
    route: str | None = None
    match: Mapping[str, Any] = field(default_factory=dict)
    skip: int = 0
    every: int = 1
    probability: float = 1.0
    times: int | None = 1
    status: int | None = None
    seconds: float | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seen: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"Unknown fault {self.kind!r}; use one of {', '.join(get_args(FaultKind))}")
        if self.method not in _METHODS or self.route not in _ROUTES:
            raise ValueError(f"A fault's method must be one of {_METHODS}, and its route one of {_ROUTES}")
        if self.every < 1 or self.skip < 0 or not 0 <= self.probability <= 1:
            raise ValueError("A fault needs every >= 1, skip >= 0 and a probability from 0 to 1")

    @classmethod
    def from_json(cls, rule: Mapping[str, Any]) -> FaultRule:
        """A rule from its JSON form; ValueError if it is invalid."""
        allowed = {known.name for known in fields(cls)} - {"seen", "fired"}
        if "kind" not in rule or set(rule) - allowed:
            raise ValueError(f"A fault needs a kind and can have {', '.join(sorted(allowed - {'kind'}))}")
        unlimited = "every" in rule or "probability" in rule
        return cls(**{"times": None if unlimited else 1, **rule})

    @property
    def wait(self) -> float:
        """Seconds to wait: ``seconds`` if the rule sets it, otherwise a default for its kind."""
        if self.seconds is not None:
            return self.seconds
        return 60.0 if self.kind.startswith("hang") else 1.0

    def fires(self, method: str, route: str, values: Mapping[str, Any], numbers: Random) -> bool:
        """Whether the rule hits this request; counts it."""
        if self.method not in ("*", method) or self.route not in (None, route):
            return False
        if any(str(values.get(name)) != str(value) for name, value in self.match.items()):
            return False
        if self.times is not None and self.fired >= self.times:
            return False
        self.seen += 1
        hit = self.seen > self.skip and (self.seen - self.skip) % self.every == 0
        if hit and (self.probability >= 1 or numbers.random() < self.probability):
            self.fired += 1
            return True
        return False


class Faults:
    """The rules in force, in the order in which they were added.

    :param numbers: the source of random numbers
    """

    def __init__(self, numbers: Random) -> None:
        self._rules: list[FaultRule] = []
        self._numbers = numbers

    def add(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Add rules in their JSON form; adds none if one is invalid."""
        self._rules += [FaultRule.from_json(rule) for rule in rules]

    def choose(self, method: str, route: str, values: Mapping[str, Any]) -> FaultRule | None:
        """The rule that hits this request, if any."""
        return next((rule for rule in self._rules if rule.fires(method, route, values, self._numbers)), None)

    def clear(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """The rules, with the number of requests each has ``seen`` and how often it has ``fired``."""
        return [asdict(rule) for rule in self._rules]


def fault_response(rule: FaultRule, actual: SandboxResponse | None = None) -> SandboxResponse:
    """The response to a request that a rule has hit, for every kind but ``hang`` and ``rate_limited``.

    :param actual: PayArc's own response; None if the request was not carried out
    """
    return _RESPONSES[rule.kind.removesuffix("_before").removesuffix("_after")](rule, actual)


def _garbage(rule: FaultRule) -> SandboxResponse:
    return SandboxResponse(rule.status or 201, ("OK" if rule.body is None else rule.body).encode(), JSON, rule.headers)


def _redirect(rule: FaultRule) -> SandboxResponse:
    return replace(_page(rule, rule.status or 302), headers={"Location": "/login", **rule.headers})


def _truncated(actual: SandboxResponse | None) -> SandboxResponse:
    never_made = {"data": {"object": "customer", "customer_id": "never-made", "name": None}}
    return replace(actual or json_response(201, never_made), created=None, delivery="truncated")


def _message(rule: FaultRule, status: int) -> SandboxResponse:
    if rule.body is not None:
        return SandboxResponse(status, rule.body.encode(), JSON, rule.headers)
    return json_response(status, {"message": _phrase(status)}, rule.headers)


def _page(rule: FaultRule, status: int) -> SandboxResponse:
    title = f"{status} {_phrase(status)}"
    page = f"<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>\n"
    return SandboxResponse(status, (page if rule.body is None else rule.body).encode(), _HTML, rule.headers)


def _foreign(rule: FaultRule, status: int) -> SandboxResponse:
    text = (
        json.dumps({"code": status, "reason": _phrase(status), "requestId": "gw-1"}) if rule.body is None else rule.body
    )
    return SandboxResponse(status, text.encode(), _GATEWAY_JSON, rule.headers)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


_RESPONSES: dict[str, Callable[[FaultRule, SandboxResponse | None], SandboxResponse]] = {
    "lost": lambda rule, actual: NO_RESPONSE,
    "status": lambda rule, actual: _message(rule, rule.status or 500),
    "html": lambda rule, actual: _page(rule, rule.status or 502),
    "foreign": lambda rule, actual: _foreign(rule, rule.status or 502),
    "cut": lambda rule, actual: _truncated(actual),
    "garbage": lambda rule, actual: _garbage(rule),
    "late_commit": lambda rule, actual: _message(rule, rule.status) if rule.status else NO_RESPONSE,
    "unauthorized": lambda rule, actual: unauthenticated(),
    "forbidden": lambda rule, actual: json_response(403, {"message": "This action is unauthorized."}),
    "not_found": lambda rule, actual: SandboxResponse(404, b"404 page not found\n", _TEXT),
    "redirect": lambda rule, actual: _redirect(rule),
}
