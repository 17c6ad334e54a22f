"""HTTP: requests as the sandbox reads them, and responses as it sends them."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    import asyncio

    from payarc_provider.sandbox.log import Post

COLLECTION = "/customers"
ITEM = "/customers/{id}"
JSON = "application/json"


@dataclass(slots=True)
class SandboxRequest:
    """A request, read to its end.

    :param base: the URL of the collection, as the client sees it
    :param body: the fields sent; None if the body could not be parsed
    :param post: its entry in the log, if it is a POST to the collection
    :param generation: the state's generation when the request arrived; a reset makes the request void
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
        """Method and route, such as ``GET /customers/{id}``."""
        return f"{self.method} {self.route}"


@dataclass(frozen=True, slots=True)
class SandboxResponse:
    """A response.

    :param created: the id of the new customer, if the response contains it
    :param delivery: send it ``complete``; ``truncated``, so that the connection ends half-way through the body; or
        ``reset`` the connection without a response
    """

    status: int = 0
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    created: str | None = None
    delivery: Literal["complete", "truncated", "reset"] = "complete"

    def with_headers(self, headers: Mapping[str, str]) -> SandboxResponse:
        """Add headers if PayArc itself responds: a proxy does not know PayArc's rate limit."""
        return replace(self, headers={**headers, **self.headers}) if headers and self.content_type == JSON else self


NO_RESPONSE = SandboxResponse(delivery="reset")


def json_response(
    status: int, value: Any, headers: Mapping[str, str] | None = None, created: str | None = None
) -> SandboxResponse:
    """A response with a JSON body."""
    return SandboxResponse(status, json.dumps(value, separators=(",", ":")).encode(), JSON, headers or {}, created)


def unauthenticated() -> SandboxResponse:
    """The 401 for a token that is missing, unknown, expired or revoked."""
    return json_response(401, {"error": "Unauthenticated."})


def too_many_attempts(headers: Mapping[str, str]) -> SandboxResponse:
    """The 429 that Laravel's rate limiter sends."""
    return json_response(429, {"message": "Too Many Attempts."}, headers)


async def read_request(scope: Scope, receive: Receive) -> SandboxRequest | None:
    """Read a request with a JSON or form body; None if the client disconnects before the end of the body."""
    body = await _read_body(receive)
    if body is None:
        return None
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    customer_id = scope["path_params"].get("customer_id")
    scheme, _, token = headers.get(b"authorization", "").partition(" ")
    return SandboxRequest(
        method=scope["method"],
        route=ITEM if customer_id else COLLECTION,
        base=f"http://{headers.get(b'host', '')}/v1{COLLECTION}",
        token=token.strip() if scheme.lower() == "bearer" else None,
        customer_id=customer_id,
        query=dict(parse_qsl(scope["query_string"].decode("latin-1"))),
        body=_parse_body(body, headers.get(b"content-type", "")),
        idempotency_key=headers.get(b"idempotency-key"),
    )


async def _read_body(receive: Receive) -> bytes | None:
    body: bytes = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body
    return None


def _parse_body(body: bytes, content_type: str) -> Mapping[str, Any] | None:
    if not body:
        return {}
    try:
        if content_type.startswith("application/x-www-form-urlencoded"):
            return dict(parse_qsl(body.decode(), keep_blank_values=True))
        fields = json.loads(body)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def can_send(response: SandboxResponse, scope: Scope) -> bool:
    """Whether anything will be sent: not if the connection is to be reset, nor if the client has disconnected."""
    return response.delivery != "reset" and not scope["state"]["transport"].is_closing()


async def send_response(response: SandboxResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response the way its ``delivery`` says."""
    transport = scope["state"]["transport"]
    if not can_send(response, scope):
        _reset(transport)
        await _wait_for_disconnect(receive)
        return
    await send({"type": "http.response.start", "status": response.status, "headers": _raw_headers(response)})
    if response.delivery == "truncated":
        half = response.body[: len(response.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport.close()
        await _wait_for_disconnect(receive)
    else:
        await send({"type": "http.response.body", "body": response.body})


def _raw_headers(response: SandboxResponse) -> list[tuple[bytes, bytes]]:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers.items()]
    if response.status != 204:
        headers.append((b"content-type", response.content_type.encode()))
        headers.append((b"content-length", str(len(response.body)).encode()))
    return headers


def _reset(transport: asyncio.Transport) -> None:
    # With a linger time of zero the kernel sends RST instead of closing the connection in an orderly way.
    connection = None if transport.is_closing() else transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _wait_for_disconnect(receive: Receive) -> None:
    # If the application returned without a response first, uvicorn would send a 500.
    while (await receive())["type"] != "http.disconnect":
        pass
