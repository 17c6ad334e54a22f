"""The control endpoint: :class:`~payarc_provider.sandbox.state.SandboxState` over HTTP, under ``/_sandbox``.

It asks for no token: a sandbox is for the loopback interface only. What a method refuses is a 400 that says why.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from payarc_provider.sandbox.state import SandboxState

Handler = Callable[[Request], Awaitable[Response]]


def control_routes(state: SandboxState) -> list[Route]:
    """The routes of the control endpoint.

    ======================================  ===========================================================
    ``GET /_sandbox/stats``                 all counts
    ``GET /_sandbox/customers?merchant=``   stored customers, in the order of creation
    ``POST /_sandbox/customers``            list of records to create unchecked
    ``GET /_sandbox/log``                   every POST and what became of it
    ``GET /_sandbox/faults``                fault rules
    ``POST /_sandbox/faults``               list of fault rules to add
    ``DELETE /_sandbox/faults``             drop all fault rules
    ``GET /_sandbox/settings``              all settings
    ``POST /_sandbox/settings``             object of settings to change
    ``POST /_sandbox/revoke``               ``{"token": …}`` is answered 401 from now on
    ``POST /_sandbox/reset``                forget everything, first settings again
    ======================================  ===========================================================
    """

    def route(path: str, method: str, act: Callable[[Request, Any], Any]) -> Route:
        return Route(f"/_sandbox/{path}", _handler(act), methods=[method])

    return [
        route("stats", "GET", lambda request, body: state.stats()),
        route("customers", "GET", lambda request, body: state.customers(request.query_params.get("merchant"))),
        route("customers", "POST", lambda request, body: state.seed(body)),
        route("log", "GET", lambda request, body: state.log()),
        route("faults", "GET", lambda request, body: state.faults()),
        route("faults", "POST", lambda request, body: state.faults(body)),
        route("faults", "DELETE", lambda request, body: state.clear_faults()),
        route("settings", "GET", lambda request, body: state.settings()),
        route("settings", "POST", lambda request, body: state.settings(**body)),
        route("revoke", "POST", lambda request, body: state.revoke(body["token"])),
        route("reset", "POST", lambda request, body: state.reset()),
    ]


def _handler(act: Callable[[Request, Any], Any]) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"null")
            result = act(request, body)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=400)
        return Response(status_code=204) if result is None else JSONResponse(result)

    return answer
