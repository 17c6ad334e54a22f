"""Faults on request: rules that pick single requests, and what is to go wrong with those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from random import Random
from typing import Any, Literal, get_args

FaultKind = Literal[
    "lost_before",
    "lost_after",
    "status_before",
    "status_after",
    "html_before",
    "html_after",
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
"""What can go wrong. ``…_before``: nothing is done; ``…_after``: the request is carried out first.

- ``lost``: the connection is reset without an answer
- ``status``: an answer of ``status`` (500)
- ``html``: a proxy's HTML page with ``status`` (502)
- ``cut``: a success whose body ends half-way, and the connection with it
- ``garbage``: a success whose ``body`` (``OK``) is not PayArc's
- ``hang``: the request is held for ``seconds`` (60) before it is carried out, or before it is answered; it is carried
  out even if the client has left
- ``late_commit``: answered with ``status``, or by a reset, at once; carried out ``seconds`` (1) later
- ``unauthorized``, ``forbidden``, ``not_found``, ``redirect``, ``rate_limited``: 401, 403, 404, 302, 429 (for
  ``seconds``, 1), and nothing is done
"""

_METHODS = ("*", "POST", "GET", "PATCH", "DELETE")
_ROUTES = (None, "/customers", "/customers/{id}")
_WAITS: dict[str, float] = {"hang_before": 60.0, "hang_after": 60.0}


@dataclass(slots=True)
class FaultRule:
    """One rule. The first rule that fires decides, and later ones do not count that request.

    :param kind: what goes wrong
    :param method: of the requests it looks at; ``*`` for all
    :param route: ``/customers`` or ``/customers/{id}``; None for both
    :param match: field → value that the request must carry; for a list, its query parameters
    :param skip: how many matching requests pass first
    :param every: fires at each n-th of those that follow
    :param probability: with which it then fires, drawn from the sandbox's seeded numbers
    :param times: how often it fires; None for always. Left out: once, or always with ``every`` or ``probability``
    :param status: of the answer, where the kind has one
    :param seconds: to wait, where the kind waits
    :param body: of the answer, for ``garbage``, ``html`` and ``status``
    :param headers: further headers of the answer, for ``garbage``, ``html``, ``status`` and ``redirect``
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
            raise ValueError(f"no such fault: {self.kind!r}; there are {', '.join(get_args(FaultKind))}")
        if self.method not in _METHODS or self.route not in _ROUTES:
            raise ValueError(f"a fault's method is one of {_METHODS}, and its route one of {_ROUTES}")
        if self.every < 1 or self.skip < 0 or not 0 <= self.probability <= 1:
            raise ValueError("a fault needs every >= 1, skip >= 0 and probability from 0 to 1")

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> FaultRule:
        """A rule from its JSON form; ValueError says what is wrong with it."""
        allowed = {known.name for known in fields(cls)} - {"seen", "fired"}
        if "kind" not in form or set(form) - allowed:
            raise ValueError(f"a fault has a kind and may have {', '.join(sorted(allowed - {'kind'}))}")
        standing = "every" in form or "probability" in form
        return cls(**{"times": None if standing else 1, **form})

    @property
    def wait(self) -> float:
        """The seconds to wait."""
        return self.seconds if self.seconds is not None else _WAITS.get(self.kind, 1.0)

    def fires(self, method: str, route: str, values: Mapping[str, Any], numbers: Random) -> bool:
        """Whether this request is hit; counts it."""
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

    :param numbers: where chance comes from
    """

    def __init__(self, numbers: Random) -> None:
        self._rules: list[FaultRule] = []
        self._numbers = numbers

    def add(self, forms: Iterable[Mapping[str, Any]]) -> None:
        """Add rules in their JSON form, all or none."""
        self._rules += [FaultRule.from_json(form) for form in forms]

    def choose(self, method: str, route: str, values: Mapping[str, Any]) -> FaultRule | None:
        """The rule that hits this request, if any."""
        return next((rule for rule in self._rules if rule.fires(method, route, values, self._numbers)), None)

    def clear(self) -> None:
        """Drop all rules."""
        self._rules.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """The rules, with how many requests each has ``seen`` and how often it has ``fired``."""
        return [asdict(rule) for rule in self._rules]
