"""The wire: requests read from a connection, and answers put on it, whole, cut short, or not at all."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from payarc_provider.sandbox.resource import COLLECTION, ITEM, SandboxRequest
from payarc_provider.sandbox.responses import SandboxResponse


def protocol_class(opened: Callable[[], None]) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which also lets requests reach their connection's transport.

    :param opened: called for each connection that a client opens
    """

    class ReachesTransport(asyncio.Protocol):
        app_state: dict[str, Any]

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.app_state = {**self.app_state, "transport": transport}
            opened()

    # ASGI itself has no way to break a connection off, and uvicorn chooses its protocol at run time.
    return type("SandboxProtocol", (ReachesTransport, AutoHTTPProtocol), {})


class Dated:
    """Puts exactly one ``Date`` on every answer: the moment it is sent, by PayArc's clock.

    uvicorn's own is the moment at which the request arrived, up to a second before.
    """

    def __init__(self, app: ASGIApp, now: Callable[[], float]) -> None:
        self._app = app
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"date", _date(int(self._now())))]
            await send(message)

        await self._app(scope, receive, dated)


@lru_cache(maxsize=8)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


async def read_request(scope: Scope, receive: Receive) -> SandboxRequest | None:
    """The request, its body read to the end as JSON or as a form; None if the client left before the end."""
    body = await _body(receive)
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
        body=_fields(body, headers.get(b"content-type", "")),
        idempotency_key=headers.get(b"idempotency-key"),
    )


async def _body(receive: Receive) -> bytes | None:
    body: bytes = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body
    return None


def _fields(body: bytes, content_type: str) -> Mapping[str, Any] | None:
    if not body:
        return {}
    try:
        if content_type.startswith("application/x-www-form-urlencoded"):
            return dict(parse_qsl(body.decode(), keep_blank_values=True))
        fields = json.loads(body)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def will_answer(answer: SandboxResponse, scope: Scope) -> bool:
    """Whether anything will be sent: not if the fault is that nothing is, nor if the client has left."""
    return answer.delivery != "reset" and not scope["state"]["transport"].is_closing()


async def deliver(answer: SandboxResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an answer in the way that it says."""
    transport = scope["state"]["transport"]
    if not will_answer(answer, scope):
        _reset(transport)
        await _gone(receive)
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": _headers(answer)})
    if answer.delivery == "cut":
        half = answer.body[: len(answer.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport.close()
        await _gone(receive)
    else:
        await send({"type": "http.response.body", "body": answer.body})


def _headers(answer: SandboxResponse) -> list[tuple[bytes, bytes]]:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    if answer.status != 204:
        headers.append((b"content-type", answer.content_type.encode()))
        headers.append((b"content-length", str(len(answer.body)).encode()))
    return headers


def _reset(transport: asyncio.Transport) -> None:
    # Lingering for no time makes the kernel send RST in place of a polite end.
    connection = None if transport.is_closing() else transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _gone(receive: Receive) -> None:
    # uvicorn would answer 500 for a request that returns unanswered before the end of its connection was noticed.
    while (await receive())["type"] != "http.disconnect":
        pass
