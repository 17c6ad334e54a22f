"""The customer resource: what PayArc does with an accepted request, apart from all transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from payarc_provider.sandbox.fields import altered, known_fields, validation_errors
from payarc_provider.sandbox.log import Post
from payarc_provider.sandbox.responses import RESET, SandboxResponse, failed, json_answer, not_found, rejected
from payarc_provider.sandbox.state import SandboxState

COLLECTION = "/customers"
ITEM = "/customers/{id}"

_BAD_REQUEST = "Symfony\\Component\\HttpKernel\\Exception\\BadRequestHttpException"
_META = {"include": ["card", "charge", "subscription", "invoice"], "custom": []}


@dataclass(slots=True)
class SandboxRequest:
    """One request, read to its end.

    :param base: the URL of the collection, as the client sees it
    :param body: the fields sent; None if the body could not be read
    :param post: its entry in the log, if it is a POST
    :param generation: the state's at its arrival; after a reset it has come to nothing
    """

    method: str
    route: str
    base: str
    token: str | None
    customer_id: str | None
    query: Mapping[str, str]
    body: Mapping[str, Any] | None
    idempotency_key: str | None
    post: Post | None = None
    generation: int = 0

    @property
    def endpoint(self) -> str:
        """Method and route, by which limits and counts go."""
        return f"{self.method} {self.route}"


def handle(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    """Carry a request out, and answer it. What it made is durable when this returns."""
    with state.lock:
        if request.generation != state.generation:
            return RESET
        match request.endpoint:
            case "POST /customers":
                return _post(state, merchant, request)
            case "GET /customers":
                return _list(state, merchant, request)
            case "GET /customers/{id}" | "PATCH /customers/{id}" | "DELETE /customers/{id}":
                return _one(state, merchant, request)
        return failed(405, "The method is not allowed.", "MethodNotAllowedHttpException")


def _post(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    key = (merchant, request.idempotency_key or "")
    replaying = state.current.idempotency == "replay" and request.idempotency_key
    if replaying and key in state.replays:
        if request.post:
            request.post.outcome = "replayed"
        return state.replays[key]
    answer = _create(state, merchant, request)
    if replaying:
        state.replays[key] = answer
    return answer


def _create(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    post = request.post
    fields = known_fields(request.body or {})
    rejection = _rejection(state, request, fields)
    if rejection:
        if post:
            post.outcome = "rejected"
        return rejection
    customer = state.create(merchant, fields, request=post.sequence if post else None)
    if post:
        post.created(customer.customer_id)
    data = customer.as_payarc(state.now(), state.current)
    return json_answer(state.current.create_status, {"data": data, "meta": _META}, made=customer.customer_id)


def _rejection(state: SandboxState, request: SandboxRequest, fields: Mapping[str, Any]) -> SandboxResponse | None:
    if request.body is None:
        return failed(400, "The body could not be read.", _BAD_REQUEST)
    errors = validation_errors(fields, state.current, creating=request.method == "POST")
    return rejected(errors, state.current.envelope) if errors else None


def _one(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    customer = state.store.find(merchant, request.customer_id or "")
    if customer is None:
        return not_found()
    if request.method == "DELETE":
        state.store.remove(customer)
        return SandboxResponse(204)
    if request.method == "PATCH":
        fields = known_fields(request.body or {})
        rejection = _rejection(state, request, fields)
        if rejection:
            return rejection
        customer.fields.update(altered(fields, state.current))
        customer.updated_at = int(state.now())
        state.store.save(customer)
    return json_answer(200, {"data": customer.as_payarc(state.now(), state.current), "meta": _META})


def _list(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    size = min(_number(request.query.get("limit"), 25), 100)
    page = _number(request.query.get("page"), 1)
    shuffle = state.shuffler if state.current.shuffle_same_second else None
    rows = state.store.page(merchant, (page - 1) * size, size, shuffle)
    total, now = state.store.counts().get(merchant, 0), state.now()
    pages = max(1, -(-total // size))
    neighbours = {"previous": page - 1, "next": page + 1}
    links = {
        name: f"{request.base}?{urlencode({'limit': size, 'page': number})}"
        for name, number in neighbours.items()
        if 1 <= number <= pages
    }
    pagination = {
        "total": total,
        "count": len(rows),
        "per_page": size,
        "current_page": page,
        "total_pages": pages,
        "links": links,
    }
    data = [row.as_payarc(now, state.current) for row in rows]
    return json_answer(200, {"data": data, "meta": {"pagination": pagination}})


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and int(text) > 0 else default
