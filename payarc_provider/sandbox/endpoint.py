"""The endpoint: the way of one request through latency, token, rate limit and faults to the customers and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

from starlette.types import Receive, Scope, Send

from payarc_provider.sandbox.faults import FaultRule
from payarc_provider.sandbox.limits import quota_headers, retry_headers
from payarc_provider.sandbox.log import Outcome
from payarc_provider.sandbox.resource import COLLECTION, SandboxRequest, handle
from payarc_provider.sandbox.responses import SandboxResponse, spoilt, throttled, unauthenticated
from payarc_provider.sandbox.state import SandboxState
from payarc_provider.sandbox.wire import deliver, read_request, will_answer


class CustomersEndpoint:
    """The ASGI application behind ``/v1/customers`` and ``/v1/customers/{id}``."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state
        self._late: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await read_request(scope, receive)
            if request is None:
                return
            self._note_arrival(request)
            answer = await self._answer(request)
            # Noted first: who has the answer in hand finds it in the log.
            self._note_departure(request, answer, will_answer(answer, scope))
            await deliver(answer, scope, receive, send)
        except asyncio.CancelledError:
            pass  # the sandbox stops, and has closed the connection

    def _note_arrival(self, request: SandboxRequest) -> None:
        with self._state.lock:
            log = self._state.log_book
            log.requests[request.endpoint] += 1
            request.generation = self._state.generation
            if request.endpoint == f"POST {COLLECTION}":
                request.post = log.post(request.idempotency_key, (request.body or {}).get("description"))

    def _note_departure(self, request: SandboxRequest, answer: SandboxResponse, sending: bool) -> None:
        with self._state.lock:
            if request.generation != self._state.generation:
                return
            self._state.log_book.answered(answer.status if sending else None)
            if request.post and sending:
                request.post.status = answer.status
                request.post.told = answer.made is not None

    async def _answer(self, request: SandboxRequest) -> SandboxResponse:
        pause = self._state.latency() / 2
        await _sleep(pause)
        answer = await self._decide(request)
        await _sleep(pause)
        return answer

    async def _decide(self, request: SandboxRequest) -> SandboxResponse:
        state = self._state
        merchant = state.merchant_of(request.token)
        if request.token is None or merchant is None:
            return self._turned_away(request, "unauthorized", unauthenticated())
        if request.post:
            request.post.merchant = merchant
        with state.lock:
            quota = state.windows.hit(request.token, request.endpoint, state.current, time.monotonic())
        headers = quota_headers(quota, state.current)
        if quota and quota.exceeded:
            retry = retry_headers(quota.ends_in, state.now(), state.current)
            return self._turned_away(request, "rate_limited", throttled(retry).adding(headers))
        answer = await self._perform(merchant, request)
        if request.endpoint == f"GET {COLLECTION}":
            await _sleep(state.current.delay_list)
        return answer.adding(headers)

    def _turned_away(self, request: SandboxRequest, outcome: Outcome, answer: SandboxResponse) -> SandboxResponse:
        with self._state.lock:
            self._state.log_book.rate_limited += outcome == "rate_limited"
            if request.post:
                request.post.outcome = outcome
        return answer

    async def _perform(self, merchant: str, request: SandboxRequest) -> SandboxResponse:
        state = self._state
        with state.lock:
            values = request.query if request.endpoint == f"GET {COLLECTION}" else request.body or {}
            fault = state.fault_for(request.method, request.route, values)
        if fault is None:
            return handle(state, merchant, request)
        if request.post:
            request.post.fault = fault.kind
        return await self._misbehave(fault, merchant, request)

    async def _misbehave(self, fault: FaultRule, merchant: str, request: SandboxRequest) -> SandboxResponse:
        state = self._state
        if fault.kind == "hang_before":
            await asyncio.sleep(fault.wait)
            return handle(state, merchant, request)
        if fault.kind.endswith("_after"):
            done = handle(state, merchant, request)
            if fault.kind != "hang_after":
                return spoilt(fault, done)
            await asyncio.sleep(fault.wait)
            return done
        if fault.kind == "late_commit":
            self._start(self._handle_late(fault.wait, merchant, request))
            return spoilt(fault)
        if fault.kind == "rate_limited":
            retry = retry_headers(fault.wait, state.now(), state.current)
            return self._turned_away(request, "rate_limited", throttled(retry))
        outcome: Outcome = "unauthorized" if fault.kind == "unauthorized" else "not_created"
        return self._turned_away(request, outcome, spoilt(fault))

    async def _handle_late(self, seconds: float, merchant: str, request: SandboxRequest) -> None:
        await asyncio.sleep(seconds)
        handle(self._state, merchant, request)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        # The loop keeps only weak references to tasks.
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
