"""The customers endpoint: checks the token and the rate limit of a request, applies faults, and writes the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

from starlette.types import Receive, Scope, Send

from payarc_provider.sandbox.customers import handle
from payarc_provider.sandbox.faults import FaultRule, fault_response
from payarc_provider.sandbox.http import (
    COLLECTION,
    SandboxRequest,
    SandboxResponse,
    can_send,
    read_request,
    send_response,
    too_many_attempts,
    unauthenticated,
)
from payarc_provider.sandbox.limits import quota_headers, retry_headers
from payarc_provider.sandbox.log import PostOutcome
from payarc_provider.sandbox.state import SandboxState


class CustomersEndpoint:
    """``/v1/customers`` and ``/v1/customers/{id}``.

    A request waits half its latency, passes the token check, the rate limit and the faults, is carried out, and waits
    the other half.
    """

    def __init__(self, state: SandboxState) -> None:
        self._state = state
        self._late: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await read_request(scope, receive)
            if request is None:
                return
            self._log_request(request)
            response = await self._respond(request)
            # Logged first, so that a client that has the response also finds it in the log.
            self._log_response(request, response, sent=can_send(response, scope))
            await send_response(response, scope, receive, send)
        except asyncio.CancelledError:
            pass  # the sandbox is stopping and has closed the connection

    def _log_request(self, request: SandboxRequest) -> None:
        state = self._state
        with state.lock:
            state.log.requests[request.endpoint] += 1
            request.generation = state.generation
            if request.endpoint == f"POST {COLLECTION}":
                request.post = state.log.post(request.idempotency_key, (request.body or {}).get("description"))

    def _log_response(self, request: SandboxRequest, response: SandboxResponse, *, sent: bool) -> None:
        with self._state.lock:
            if request.generation != self._state.generation:
                return
            self._state.log.response(response.status if sent else None)
            if request.post and sent:
                request.post.status = response.status
                request.post.id_sent = response.created is not None

    async def _respond(self, request: SandboxRequest) -> SandboxResponse:
        pause = self._state.latency() / 2
        await _sleep(pause)
        response = await self._check(request)
        await _sleep(pause)
        return response

    async def _check(self, request: SandboxRequest) -> SandboxResponse:
        state = self._state
        merchant = state.merchant_of(request.token)
        if request.token is None or merchant is None:
            return self._turn_away(request, "unauthorized", unauthenticated())
        if request.post:
            request.post.merchant = merchant
        with state.lock:
            quota = state.windows.hit(merchant, request.token, request.endpoint, state.settings, time.monotonic())
        headers = quota_headers(quota, state.settings)
        if quota and quota.exceeded:
            retry = retry_headers(quota.ends_in, state.now(), state.settings)
            return self._turn_away(request, "rate_limited", too_many_attempts(retry)).with_headers(headers)
        response = await self._carry_out(merchant, request)
        if request.endpoint == f"GET {COLLECTION}":
            await _sleep(state.settings.delay_list)
        return response.with_headers(headers)

    def _turn_away(self, request: SandboxRequest, outcome: PostOutcome, response: SandboxResponse) -> SandboxResponse:
        with self._state.lock:
            self._state.log.rate_limited += outcome == "rate_limited"
            if request.post:
                request.post.outcome = outcome
        return response

    async def _carry_out(self, merchant: str, request: SandboxRequest) -> SandboxResponse:
        state = self._state
        with state.lock:
            values = request.query if request.endpoint == f"GET {COLLECTION}" else request.body or {}
            fault = state.fault_for(request.method, request.route, values)
        if fault is None:
            return handle(state, merchant, request)
        if request.post:
            request.post.fault = fault.kind
        return await self._fail(fault, merchant, request)

    async def _fail(self, fault: FaultRule, merchant: str, request: SandboxRequest) -> SandboxResponse:
        state = self._state
        if fault.kind == "hang_before":
            await asyncio.sleep(fault.wait)
            return handle(state, merchant, request)
        if fault.kind.endswith("_after"):
            response = handle(state, merchant, request)
            if fault.kind != "hang_after":
                return fault_response(fault, response)
            await asyncio.sleep(fault.wait)
            return response
        if fault.kind == "late_commit":
            self._start(self._handle_late(fault.wait, merchant, request))
            return fault_response(fault)
        if fault.kind == "rate_limited":
            retry = retry_headers(fault.wait, state.now(), state.settings)
            return self._turn_away(request, "rate_limited", too_many_attempts(retry))
        outcome: PostOutcome = "unauthorized" if fault.kind == "unauthorized" else "not_created"
        return self._turn_away(request, outcome, fault_response(fault))

    async def _handle_late(self, seconds: float, merchant: str, request: SandboxRequest) -> None:
        await asyncio.sleep(seconds)
        handle(self._state, merchant, request)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        # The event loop keeps only weak references to tasks.
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
