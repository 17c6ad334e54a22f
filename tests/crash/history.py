"""The history of a sandbox's customers: the values that each request has given them, in the order of their commits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from payarc_provider.sandbox import endpoint
from payarc_provider.sandbox.fields import RULES
from payarc_provider.sandbox.http import SandboxRequest, SandboxResponse
from payarc_provider.sandbox.server import SandboxServer
from payarc_provider.sandbox.state import SandboxState

_handle = endpoint.handle
_histories: dict[int, History] = {}  # id of the sandbox's state → history


@dataclass(frozen=True)
class Change:
    """A POST that created a customer, or a PATCH that was applied.

    :param request: its ``Idempotency-Key``
    :param committed: by the monotonic clock, which all processes of this machine share
    :param values: all fields of the customer afterwards
    """

    method: str
    request: str | None
    customer_id: str
    committed: float
    values: dict[str, Any]


class History:
    """Keeps what the requests to a sandbox have changed, until it is closed."""

    def __init__(self, sandbox: SandboxServer) -> None:
        self._state = sandbox._state
        self._commits: list[Change] = []
        _histories[id(self._state)] = self

    def close(self) -> None:
        """Keep nothing more."""
        _histories.pop(id(self._state), None)

    @property
    def commits(self) -> list[Change]:
        """The creates and changes so far."""
        with self._state.lock:
            return list(self._commits)

    @property
    def changes(self) -> list[Change]:
        """The PATCHes so far."""
        return [change for change in self.commits if change.method == "PATCH"]

    def add(self, merchant: str, request: SandboxRequest, response: SandboxResponse) -> None:
        """Add a request that was carried out, if it has changed a customer."""
        customer_id = response.created if request.method == "POST" else request.customer_id
        customer = self._state.store.find(merchant, customer_id or "")
        if customer is not None and 200 <= response.status < 300 and request.method in ("POST", "PATCH"):
            values = {name: customer.fields.get(name) for name in RULES}
            change = Change(request.method, request.idempotency_key, customer.customer_id, time.monotonic(), values)
            self._commits.append(change)


def _recorded(state: SandboxState, merchant: str, request: SandboxRequest) -> SandboxResponse:
    with state.lock:
        response = _handle(state, merchant, request)
        if history := _histories.get(id(state)):
            history.add(merchant, request, response)
        return response


endpoint.handle = _recorded  # the sandbox's own log has POSTs only
