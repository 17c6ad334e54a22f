"""The server: a sandbox inside this process, on a loopback port of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.responses import JSONResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from payarc_provider.sandbox.control import control_routes
from payarc_provider.sandbox.endpoint import CustomersEndpoint
from payarc_provider.sandbox.settings import SandboxSettings
from payarc_provider.sandbox.state import SandboxState
from payarc_provider.sandbox.tokens import SANDBOX_TOKEN
from payarc_provider.sandbox.wire import Dated, protocol_class


class SandboxServer:
    """A running sandbox; a context manager. Its methods act on the state itself, from any thread, without HTTP.

    :param host: the address to bind; anything but a loopback address lets everybody at the control endpoint
    :param port: 0 for a free one
    :param state: a file that keeps the customers, also when the process is killed; None for memory only
    :param seed: makes ids, chance and shuffling repeatable
    :param settings: the fields of :class:`~payarc_provider.sandbox.settings.SandboxSettings`
    """

    token: str = SANDBOX_TOKEN
    """A token of merchant ``1``; :func:`~payarc_provider.sandbox.tokens.make_token` gives others."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        state: str | PathLike[str] | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        self._state = SandboxState(
            SandboxSettings().changed(settings), Path(state) if state is not None else None, seed
        )
        self._socket = socket.create_server((host, port), backlog=512)
        # Accepted connections inherit it; asyncio alone would not set it here, and each answer would wait for an ACK.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._address: tuple[str, int] = self._socket.getsockname()[:2]
        self._server = _Server(_application(self._state), self._state.connection_opened)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve in a background thread; returns when the first request can come."""
        self._thread = threading.Thread(target=self.serve, name="payarc-sandbox", daemon=True)
        self._thread.start()
        if not self._server.ready.wait(10):
            raise RuntimeError("the sandbox did not start")

    def stop(self) -> None:
        """Break off every connection and end; requests that hang come to nothing."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(10)
        self._state.store.close()

    def serve(self, on_ready: Callable[[], None] | None = None) -> None:
        """Serve in this thread until stopped; in the main thread, by SIGINT or SIGTERM too."""
        self._server.on_ready = on_ready
        self._server.run(sockets=[self._socket])

    @property
    def origin(self) -> str:
        """``http://host:port``, under which the control endpoint has ``/_sandbox``."""
        host, port = self._address
        return f"http://{host}:{port}"

    @property
    def url(self) -> str:
        """The base URL for clients, ``http://host:port/v1``."""
        return f"{self.origin}/v1"

    def connection_json(self, token: str | None = None, **extra: Any) -> str:
        """The value of ``AIRFLOW_CONN_…`` for a connection of type ``payarc`` to this sandbox.

        :param token: another token than :attr:`token`
        :param extra: the connection's extras
        """
        connection = {"conn_type": "payarc", "password": token or self.token, "host": self.url}
        return json.dumps({**connection, "extra": extra} if extra else connection)

    def faults(self, rules: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """Add fault rules, in the form of :class:`~payarc_provider.sandbox.faults.FaultRule`; returns all of them."""
        return self._state.faults(rules)

    def clear_faults(self) -> None:
        """Drop all fault rules."""
        self._state.clear_faults()

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Change settings from the next request on; returns all of them."""
        return self._state.settings(**changes)

    def customers(self, merchant: str | None = None) -> list[dict[str, Any]]:
        """The stored customers of one merchant or of all, in the order of their creation."""
        return self._state.customers(merchant)

    def seed(self, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Create customers unchecked, as if made in the dashboard.

        :param records: PayArc's fields, and where wanted ``merchant`` (``1``), ``created_at`` (Unix seconds) and
            ``customer_id``
        """
        return self._state.seed(records)

    def revoke(self, token: str) -> None:
        """SandboxResponse 401 to this token from now on."""
        self._state.revoke(token)

    def stats(self) -> dict[str, Any]:
        """Counts of customers, requests, answers, POSTs by outcome, faults and connections."""
        return self._state.stats()

    def log(self) -> list[dict[str, Any]]:
        """Every POST to ``/customers``, in the order of arrival, and what became of it."""
        return self._state.log()

    def reset(self) -> None:
        """Forget everything, late commits to come as well, and take the first settings again."""
        self._state.reset()


class _Server(uvicorn.Server):
    """uvicorn, which says when it is ready, and which does not wait for anybody at its end."""

    def __init__(self, app: Dated, opened: Callable[[], None]) -> None:
        # No Date of uvicorn's, since `Dated` puts a better one; and idle connections stay: tests count them.
        config = uvicorn.Config(
            app,
            # uvloop would be no faster here, and older versions of uvicorn make it the default of the whole process.
            loop="asyncio",
            log_level="warning",
            http=protocol_class(opened),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
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


def _application(state: SandboxState) -> Dated:
    customers = CustomersEndpoint(state)
    routes = [Route("/v1/customers", customers), Route("/v1/customers/{customer_id}", customers)]
    return Dated(Router([*routes, *control_routes(state)], redirect_slashes=False, default=_no_route), state.now)


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"message": "Not Found"}, status_code=404)(scope, receive, send)
