"""The state of one sandbox: its customers, settings, faults, rate windows and log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from string import ascii_letters, ascii_uppercase, digits
from threading import RLock
from typing import Any

from payarc_provider.sandbox.faults import FaultRule, Faults
from payarc_provider.sandbox.fields import as_stored
from payarc_provider.sandbox.http import SandboxResponse
from payarc_provider.sandbox.limits import RateWindows
from payarc_provider.sandbox.log import Log
from payarc_provider.sandbox.settings import SandboxSettings
from payarc_provider.sandbox.store import Customer, Store
from payarc_provider.sandbox.tokens import token_claims


class SandboxState:
    """What the endpoints and the server share. Hold :attr:`lock` to change anything.

    :param settings: the settings at the start and after each reset
    :param path: a file that keeps the customers; None keeps them in memory only
    :param seed: makes ids, probabilities and shuffling repeatable
    """

    def __init__(self, settings: SandboxSettings, path: Path | None = None, seed: int | None = None) -> None:
        self.lock = RLock()
        self.store = Store(path)
        self.generation = 0
        self._initial_settings = settings
        self._seed = seed
        self._start(1 + max((customer.request or 0 for customer in self.store), default=0))

    def _start(self, first_post: int) -> None:
        self.settings = self._initial_settings
        self.log = Log(first_post)
        self.windows = RateWindows()
        self.replays: dict[tuple[str, str], SandboxResponse] = {}
        self.cached_pages: dict[tuple[str, int, int, str | None], tuple[float, SandboxResponse]] = {}
        self.revoked: set[str] = set()
        # One generator per purpose: one id more or less must not change which fault fires.
        self.shuffler, self._jitter, self._ids = self._random("rows"), self._random("waits"), self._random("ids")
        self.faults = Faults(self._random("faults"))

    def _random(self, purpose: str) -> Random:
        return Random(None if self._seed is None else f"{self._seed}/{purpose}")  # noqa: S311 - not for secrets

    def reset(self) -> None:
        """Delete everything, including late commits that are still to come, and restore the initial settings."""
        self.generation += 1
        self.store.clear()
        self._start(1)

    def now(self) -> float:
        """PayArc's time in Unix seconds."""
        return time.time() + self.settings.clock_offset

    def connection_opened(self) -> None:
        """Count a connection."""
        self.log.connections += 1

    def latency(self) -> float:
        """The seconds that the next request takes."""
        jitter = self.settings.jitter
        return self.settings.latency + (self._jitter.uniform(0, jitter) if jitter else 0.0)

    def merchant_of(self, token: str | None) -> str | None:
        """The merchant that a token belongs to; None if the token is not valid now."""
        if token is None or token in self.revoked:
            return None
        if token in self.settings.tokens:
            return self.settings.tokens[token]
        claims = token_claims(token)
        if claims is None or claims.get("exp", 0) <= self.now():
            return None
        return str(claims.get("sub"))

    def fault_for(self, method: str, route: str, values: Mapping[str, Any]) -> FaultRule | None:
        """The fault that hits this request, if any; counts it."""
        rule = self.faults.choose(method, route, values)
        if rule:
            self.log.faults[rule.kind] += 1
        return rule

    def create(
        self,
        merchant: str,
        fields: Mapping[str, str | None],
        *,
        request: int | None = None,
        created_at: float | None = None,
        customer_id: str | None = None,
    ) -> Customer:
        """Create a customer; it is durable when this returns."""
        moment = int(self.now() if created_at is None else created_at)
        customer = Customer(
            number=self.store.next_number(),
            merchant=merchant,
            customer_id=customer_id or self._new_id(),
            fields=as_stored(fields, self.settings),
            created_at=moment,
            updated_at=moment,
            invoice_prefix="".join(self._ids.choices(ascii_uppercase, k=4)),
            request=request,
        )
        self.store.add(customer)
        return customer

    def _new_id(self) -> str:
        while (customer_id := "".join(self._ids.choices(ascii_letters + digits, k=16))) in self.store:
            pass  # with a state file, a seeded sequence of ids starts again at ids that are taken
        return customer_id
