"""The server: runs a sandbox on a loopback port; its methods control the sandbox and report what happened."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from payarc_provider.sandbox.access import OnlyOwnPages, warn_if_public
from payarc_provider.sandbox.endpoint import CustomersEndpoint
from payarc_provider.sandbox.fields import known_fields
from payarc_provider.sandbox.http import HttpServer
from payarc_provider.sandbox.profiles import read_profile
from payarc_provider.sandbox.settings import SandboxSettings
from payarc_provider.sandbox.state import SandboxState
from payarc_provider.sandbox.store import Customer
from payarc_provider.sandbox.tokens import SANDBOX_TOKEN


class SandboxServer:
    """A sandbox that serves HTTP while it is used as a context manager. Call its methods from any thread.

    :param host: the address to bind. Use a loopback address: the control endpoint needs no token
    :param port: the port; 0 for a free one
    :param state: a file that keeps the customers, even if the process is killed; None keeps them in memory only
    :param seed: makes ids, probabilities and shuffling repeatable
    :param allow_hosts: the host names by which clients may address it, besides ``localhost`` and IP addresses
    :param profile: the name of one of the :data:`~payarc_provider.sandbox.profiles.PROFILES`, or a file that the
        probe wrote; None for the default settings
    :param settings: the fields of :class:`~payarc_provider.sandbox.settings.SandboxSettings`, which
        override the profile's
    """

    token: str = SANDBOX_TOKEN
    """A token of merchant ``1``; :func:`~payarc_provider.sandbox.tokens.make_token` makes others."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        state: str | PathLike[str] | None = None,
        seed: int | None = None,
        allow_hosts: Iterable[str] = (),
        profile: str | PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        path = Path(state) if state is not None else None
        chosen = {**(read_profile(profile) if profile is not None else {}), **settings}
        self._state = SandboxState(SandboxSettings().changed(chosen), path, seed)
        self._socket = socket.create_server((host, port), backlog=512)
        # Accepted connections inherit TCP_NODELAY. asyncio does not set it here, and without it each response would
        # wait for an ACK.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._address: tuple[str, int] = self._socket.getsockname()[:2]
        warn_if_public(self._address[0])
        customers = CustomersEndpoint(self._state)
        routes = [Route("/v1/customers", customers), Route("/v1/customers/{customer_id}", customers)]
        app = Router([*routes, *control_routes(self)], redirect_slashes=False, default=_no_route)
        guarded = OnlyOwnPages(app, [*allow_hosts, host])
        self._server = HttpServer(guarded, self._state.now, self._state.connection_opened)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve in a background thread; returns as soon as requests can be sent."""
        self._thread = threading.Thread(target=self.serve, name="payarc-sandbox", daemon=True)
        self._thread.start()
        if not self._server.ready.wait(10):
            raise RuntimeError("The sandbox did not start within 10 s")

    def stop(self) -> None:
        """Abort every connection and stop; requests that hang are dropped."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(10)
        self._state.store.close()

    def serve(self, on_ready: Callable[[], None] | None = None) -> None:
        """Serve in this thread until :meth:`stop`; in the main thread, SIGINT and SIGTERM stop it too."""
        self._server.on_ready = on_ready
        self._server.run(sockets=[self._socket])

    @property
    def origin(self) -> str:
        """``http://host:port``; the control endpoint is below it, at ``/_sandbox``."""
        host, port = self._address
        return f"http://{host}:{port}"

    @property
    def url(self) -> str:
        """The base URL for clients, ``http://host:port/v1``."""
        return f"{self.origin}/v1"

    def connection_json(self, token: str | None = None, **extra: Any) -> str:
        """The value of an ``AIRFLOW_CONN_…`` variable: a connection of type ``payarc`` to this sandbox.

        :param token: a token to use instead of :attr:`token`
        :param extra: the connection's extras
        """
        connection = {"conn_type": "payarc", "password": token or self.token, "host": self.url}
        return json.dumps({**connection, "extra": extra} if extra else connection)

    def reset(self) -> None:
        """Delete everything, including late commits that are still to come, and restore the initial settings."""
        with self._state.lock:
            self._state.reset()

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Change settings from the next request on; returns all settings. ValueError for an invalid name or value."""
        with self._state.lock:
            self._state.settings = self._state.settings.changed(changes)
            return asdict(self._state.settings)

    def faults(self, rules: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """Add fault rules; returns all rules and how often each has fired. ValueError for an invalid rule.

        :param rules: the fields of :class:`~payarc_provider.sandbox.faults.FaultRule`
        """
        with self._state.lock:
            self._state.faults.add(rules)
            return self._state.faults.as_json()

    def clear_faults(self) -> None:
        """Remove all fault rules; requests that a rule has already hit are not affected."""
        with self._state.lock:
            self._state.faults.clear()

    def customers(self, merchant: str | None = None) -> list[dict[str, Any]]:
        """The customers of one merchant or of all merchants, in the order of creation."""
        with self._state.lock:
            return [customer.as_json() for customer in self._state.store if merchant in (None, customer.merchant)]

    def seed(self, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Create customers without validation, as if in PayArc's dashboard.

        :param records: PayArc's fields, and optionally ``merchant`` (default ``1``), ``created_at`` (Unix seconds) and
            ``customer_id``
        """
        with self._state.lock:
            return [self._seed(record).as_json() for record in records]

    def _seed(self, record: Mapping[str, Any]) -> Customer:
        return self._state.create(
            str(record.get("merchant", "1")),
            known_fields(record),
            created_at=record.get("created_at"),
            customer_id=record.get("customer_id"),
        )

    def revoke(self, token: str) -> None:
        """Respond 401 to this token from now on."""
        with self._state.lock:
            self._state.revoked.add(token)

    def stats(self) -> dict[str, Any]:
        """Counts of customers, requests, responses, POSTs by outcome, faults and connections."""
        with self._state.lock:
            return {"customers": self._state.store.counts(), **self._state.log.stats()}

    def log(self) -> list[dict[str, Any]]:
        """Every POST to ``/customers`` and its outcome, in the order of arrival."""
        with self._state.lock:
            return self._state.log.as_json()


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"message": "Not Found"}, status_code=404)(scope, receive, send)


def control_routes(server: SandboxServer) -> list[Route]:
    """The control endpoint: the server's methods over HTTP, without a token. Invalid input gets a 400 with the reason.

    | request | what it does |
    |---|---|
    | ``GET /_sandbox/stats`` | all counts |
    | ``GET /_sandbox/customers?merchant=`` | stored customers, in the order of creation |
    | ``POST /_sandbox/customers`` | a list of records to create without validation |
    | ``GET /_sandbox/log`` | every POST and its outcome |
    | ``GET /_sandbox/faults`` | all fault rules |
    | ``POST /_sandbox/faults`` | a list of fault rules to add |
    | ``DELETE /_sandbox/faults`` | remove all fault rules |
    | ``GET /_sandbox/settings`` | all settings |
    | ``POST /_sandbox/settings`` | an object with the settings to change |
    | ``POST /_sandbox/revoke`` | ``{"token": …}``: respond 401 to this token from now on |
    | ``POST /_sandbox/reset`` | delete everything and restore the initial settings |
    """

    def route(path: str, method: str, act: Callable[[Request, Any], Any]) -> Route:
        async def respond(request: Request) -> Response:
            try:
                body = json.loads(await request.body() or b"null")
                result = act(request, body)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=400)
            return Response(status_code=204) if result is None else JSONResponse(result)

        return Route(f"/_sandbox/{path}", respond, methods=[method])

    return [
        route("stats", "GET", lambda request, body: server.stats()),
        route("customers", "GET", lambda request, body: server.customers(request.query_params.get("merchant"))),
        route("customers", "POST", lambda request, body: server.seed(body)),
        route("log", "GET", lambda request, body: server.log()),
        route("faults", "GET", lambda request, body: server.faults()),
        route("faults", "POST", lambda request, body: server.faults(body)),
        route("faults", "DELETE", lambda request, body: server.clear_faults()),
        route("settings", "GET", lambda request, body: server.settings()),
        route("settings", "POST", lambda request, body: server.settings(**body)),
        route("revoke", "POST", lambda request, body: server.revoke(body["token"])),
        route("reset", "POST", lambda request, body: server.reset()),
    ]
