"""Answers: PayArc's own shapes, and the shapes in which something between PayArc and the client answers instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Literal

from payarc_provider.sandbox.faults import FaultRule
from payarc_provider.sandbox.settings import Envelope

JSON = "application/json"
_HTML = "text/html; charset=utf-8"
_PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class SandboxResponse:
    """What is sent back.

    :param made: the id of the customer that this answer tells the client of
    :param delivery: the ``whole`` answer; ``cut`` half-way; or the connection is ``reset`` without a word
    """

    status: int = 0
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    made: str | None = None
    delivery: Literal["whole", "cut", "reset"] = "whole"

    def adding(self, headers: Mapping[str, str]) -> SandboxResponse:
        """This answer with further headers, if it is PayArc's: proxies know nothing of its limits."""
        return replace(self, headers={**headers, **self.headers}) if headers and self.content_type == JSON else self


RESET = SandboxResponse(delivery="reset")
"""No answer at all."""


def json_answer(
    status: int, value: Any, headers: Mapping[str, str] | None = None, made: str | None = None
) -> SandboxResponse:
    """A JSON body."""
    return SandboxResponse(status, json.dumps(value, separators=(",", ":")).encode(), JSON, headers or {}, made)


def unauthenticated() -> SandboxResponse:
    """The 401 for a token that is missing, unknown, expired or revoked."""
    return json_answer(401, {"error": "Unauthenticated."})


def throttled(headers: Mapping[str, str]) -> SandboxResponse:
    """The 429 of Laravel's throttle."""
    return json_answer(429, {"message": "Too Many Attempts."}, headers)


def failed(status: int, message: str, exception: str, **more: Any) -> SandboxResponse:
    """PayArc's error envelope."""
    head = {"status": "error", "code": 0, "message": message}
    tail = {"status_code": status, "exception": exception, "file": "Handler.php", "line": 130}
    return json_answer(status, {**head, **more, **tail})


def not_found() -> SandboxResponse:
    """The 404 for an unknown customer."""
    return failed(404, "Customer not found.", "Symfony\\Component\\HttpKernel\\Exception\\NotFoundHttpException")


def rejected(errors: Mapping[str, list[str]], envelope: Envelope) -> SandboxResponse:
    """The rejection of a record, in one of the shapes that PayArc is known to use."""
    texts = [text for of_field in errors.values() for text in of_field]
    if envelope == "409-list":
        return json_answer(409, texts)
    if envelope == "409-message":
        return failed(409, " ".join(texts), "Symfony\\Component\\HttpKernel\\Exception\\ConflictHttpException")
    invalid = "Illuminate\\Validation\\ValidationException"
    return failed(422, "The given data was invalid.", invalid, errors=dict(errors))


def spoilt(rule: FaultRule, done: SandboxResponse | None = None) -> SandboxResponse:
    """What the client gets when a fault fires.

    :param done: the answer that it would have got; None if nothing was done
    """
    return _SPOILT[rule.kind.removesuffix("_before").removesuffix("_after")](rule, done)


def _cut(done: SandboxResponse | None) -> SandboxResponse:
    whole = done or json_answer(201, {"data": {"object": "customer", "customer_id": "never-made", "name": None}})
    return replace(whole, made=None, delivery="cut")


def _garbage(rule: FaultRule) -> SandboxResponse:
    return SandboxResponse(rule.status or 201, ("OK" if rule.body is None else rule.body).encode(), JSON, rule.headers)


def _redirect(rule: FaultRule) -> SandboxResponse:
    return replace(_page(rule, rule.status or 302), headers={"Location": "/login", **rule.headers})


def _message(rule: FaultRule, status: int) -> SandboxResponse:
    if rule.body is not None:
        return SandboxResponse(status, rule.body.encode(), JSON, rule.headers)
    return json_answer(status, {"message": _phrase(status)}, rule.headers)


def _page(rule: FaultRule, status: int) -> SandboxResponse:
    title = f"{status} {_phrase(status)}"
    page = f"<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>\n"
    return SandboxResponse(status, (page if rule.body is None else rule.body).encode(), _HTML, rule.headers)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


_SPOILT: dict[str, Callable[[FaultRule, SandboxResponse | None], SandboxResponse]] = {
    "lost": lambda rule, done: RESET,
    "status": lambda rule, done: _message(rule, rule.status or 500),
    "html": lambda rule, done: _page(rule, rule.status or 502),
    "cut": lambda rule, done: _cut(done),
    "garbage": lambda rule, done: _garbage(rule),
    "late_commit": lambda rule, done: _message(rule, rule.status) if rule.status else RESET,
    "unauthorized": lambda rule, done: unauthenticated(),
    "forbidden": lambda rule, done: json_answer(403, {"message": "This action is unauthorized."}),
    "not_found": lambda rule, done: SandboxResponse(404, b"404 page not found\n", _PLAIN),
    "redirect": lambda rule, done: _redirect(rule),
}
