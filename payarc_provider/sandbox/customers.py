"""PayArc's customer API: creates, lists, reads, changes and deletes customers, and responds in PayArc's format."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from payarc_provider.sandbox.fields import RULES, as_stored, known_fields, validation_errors
from payarc_provider.sandbox.http import NO_RESPONSE, SandboxRequest, SandboxResponse, json_response
from payarc_provider.sandbox.lists import list_customers
from payarc_provider.sandbox.settings import Envelope, SandboxSettings
from payarc_provider.sandbox.state import SandboxState
from payarc_provider.sandbox.store import Customer

_SYMFONY = "Symfony\\Component\\HttpKernel\\Exception\\"
_META = {"include": ["card", "charge", "subscription", "invoice"], "custom": []}


def handle(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    """Carry out a request and return PayArc's response. What it changed is durable when this returns."""
    with state.lock:
        if request.generation != state.generation:
            return NO_RESPONSE
        action = _ACTIONS.get(request.endpoint)
        if action is None:
            return _error(405, "The method is not allowed.", "MethodNotAllowedHttpException")
        return action(state, merchant, request)


def _post(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    key = (merchant, request.idempotency_key or "")
    replaying = state.settings.idempotency == "replay" and request.idempotency_key
    if replaying and key in state.replays:
        if request.post:
            request.post.outcome = "replayed"
        return state.replays[key]
    response = _create(state, merchant, request)
    if replaying:
        state.replays[key] = response
    return response


def _create(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    post = request.post
    fields = known_fields(request.body or {})
    rejection = _validate(state, request, fields)
    if rejection:
        if post:
            post.outcome = "rejected"
        return rejection
    shared = state.settings.shared_email
    if shared != "allowed" and (known := state.store.with_email(merchant, fields.get("email"))):
        if post:
            post.outcome = "merged" if shared == "merged" else "rejected"
        if shared == "merged":
            return _customer_response(state, known)
        return _rejected({"email": ["The email has already been taken."]}, state.settings.envelope)
    customer = state.create(merchant, fields, request=post.sequence if post else None)
    if post:
        post.created(customer.customer_id)
    return _customer_response(state, customer, state.settings.create_status, created=customer.customer_id)


def _get(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    customer = state.store.find(merchant, request.customer_id or "")
    if customer is None and state.settings.deletion == "soft":
        customer = state.store.find_removed(merchant, request.customer_id or "")
    return _customer_response(state, customer) if customer else _not_found(state.settings)


def _patch(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    customer = state.store.find(merchant, request.customer_id or "")
    if customer is None:
        return _not_found(state.settings)
    fields = sent = known_fields(request.body or {})
    if rejection := _validate(state, request, fields):
        return rejection
    if state.settings.empty_values == "ignored":
        fields = {name: value for name, value in fields.items() if value is not None}
    customer.fields.update(as_stored(fields, state.settings))
    customer.updated_at = int(state.now())
    state.store.save(customer)
    if state.settings.patch_echo == "sent":
        customer = replace(customer, fields=customer.fields | sent)
    return _customer_response(state, customer)


def _delete(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    customer = state.store.find(merchant, request.customer_id or "")
    if customer is None:
        return _not_found(state.settings)
    state.store.remove(customer)
    return SandboxResponse(204)


def _list(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    now, settings = state.now(), state.settings
    return list_customers(state, merchant, request, lambda row: _customer(row, now, settings, settings.list_shift))


_ACTIONS: dict[str, Callable[[SandboxState, str, SandboxRequest], SandboxResponse]] = {
    "POST /customers": _post,
    "GET /customers": _list,
    "GET /customers/{id}": _get,
    "PATCH /customers/{id}": _patch,
    "DELETE /customers/{id}": _delete,
}


# Responses in PayArc's format.


def _customer_response(
    state: SandboxState, customer: Customer, status: int = 200, created: str | None = None
) -> SandboxResponse:
    data = _customer(customer, state.now(), state.settings)
    return json_response(status, {"data": data, "meta": _META}, created=created)


def _customer(customer: Customer, now: float, settings: SandboxSettings, shift: int = 0) -> dict[str, Any]:
    guide = settings.id_style == "guide"
    ids = {"id": customer.customer_id, "real_id": customer.number} if guide else {"customer_id": customer.customer_id}
    return {
        "object": "customer",
        **ids,
        **{name: customer.fields.get(name) for name in RULES},
        "payment_overdue": None,
        "source_id": None,
        "created_at": _timestamp(customer.created_at + shift, settings),
        "updated_at": _timestamp(customer.updated_at + shift, settings),
        "readable_created_at": _age(now - customer.created_at),
        "readable_updated_at": _age(now - customer.updated_at),
        "invoice_prefix": customer.invoice_prefix,
        "card": {"data": []},
        "charge": {"data": []},
    }


def _timestamp(moment: int, settings: SandboxSettings) -> int | str:
    if settings.time_style == "unix":
        return moment
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))


def _age(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return _ago(int(seconds // length), unit)
    return _ago(max(1, int(seconds)), "second")


def _ago(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' if count != 1 else ''} ago"


def _validate(state: SandboxState, request: SandboxRequest, fields: Mapping[str, Any]) -> SandboxResponse | None:
    if request.body is None:
        return _error(400, "The body could not be read.", f"{_SYMFONY}BadRequestHttpException")
    errors = validation_errors(fields, state.settings, creating=request.method == "POST")
    return _rejected(errors, state.settings.envelope) if errors else None


def _rejected(errors: Mapping[str, list[str]], envelope: Envelope) -> SandboxResponse:
    messages = [message for messages in errors.values() for message in messages]
    if envelope == "409-list":
        return json_response(409, messages)
    if envelope == "409-message":
        return _error(409, " ".join(messages), f"{_SYMFONY}ConflictHttpException")
    invalid = "Illuminate\\Validation\\ValidationException"
    return _error(422, "The given data was invalid.", invalid, errors=dict(errors))


def _not_found(settings: SandboxSettings) -> SandboxResponse:
    if settings.not_found == "message":
        return json_response(404, {"message": "The route v1/customers/… could not be found."})
    return _error(404, "Customer not found.", f"{_SYMFONY}NotFoundHttpException")


def _error(status: int, message: str, exception: str, **more: Any) -> SandboxResponse:
    head = {"status": "error", "code": 0, "message": message}
    tail = {"status_code": status, "exception": exception, "file": "Handler.php", "line": 130}
    return json_response(status, {**head, **more, **tail})
