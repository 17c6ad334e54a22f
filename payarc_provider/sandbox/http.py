"""HTTP: requests as the sandbox reads them, responses as it sends them, and the uvicorn server in between."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
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
    :param delivery: send it ``complete``; ``truncated``, so that the connection ends halfway through the body; or
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


class HttpServer(uvicorn.Server):
    """A uvicorn server that reports when it is ready and stops without waiting for its clients.

    :param now: PayArc's time in Unix seconds
    :param on_connection: called for each connection that a client opens
    """

    def __init__(self, app: ASGIApp, now: Callable[[], float], on_connection: Callable[[], None]) -> None:
        config = uvicorn.Config(
            _DateHeader(app, now),
            loop="asyncio",  # uvloop would be no faster here; older versions of uvicorn install it process-wide
            log_level="warning",
            http=_protocol(on_connection),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,  # _DateHeader sets it
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,  # tests count connections, so idle ones stay open
        )
        super().__init__(config)
        self.ready = threading.Event()
        self.on_ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
        if self.on_ready:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for _ in range(100):
            if not self.server_state.connections:
                break
            await asyncio.sleep(0.001)
        for task in list(self.server_state.tasks):
            task.cancel()
        await super().shutdown(sockets)


def _protocol(on_connection: Callable[[], None]) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, with each connection's transport in the ASGI scope: ASGI cannot reset a connection."""

    class WithTransport(asyncio.Protocol):
        app_state: dict[str, Any]

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.app_state = {**self.app_state, "transport": transport}
            on_connection()

    # uvicorn chooses its protocol class when it is imported.
    return type("SandboxProtocol", (WithTransport, AutoHTTPProtocol), {})


class _DateHeader:
    """Sets the ``Date`` of every response that has none to the moment it is sent, by PayArc's clock.

    uvicorn's own ``Date`` is the moment when the request arrived, up to a second earlier.
    """

    def __init__(self, app: ASGIApp, now: Callable[[], float]) -> None:
        self._app = app
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_date(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                if all(name != b"date" for name, _ in headers):  # a cached response keeps its own
                    message["headers"] = [*headers, (b"date", _http_date(int(self._now())))]
            await send(message)

        await self._app(scope, receive, send_with_date)


@lru_cache(maxsize=8)
def _http_date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
