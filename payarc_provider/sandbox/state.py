"""The state of one sandbox, and everything that a test may ask of it or do to it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random
from string import ascii_letters, digits
from threading import RLock
from typing import Any

from payarc_provider.sandbox.customer import Customer
from payarc_provider.sandbox.faults import FaultRule, Faults
from payarc_provider.sandbox.fields import altered, known_fields
from payarc_provider.sandbox.limits import RateWindows
from payarc_provider.sandbox.log import Log
from payarc_provider.sandbox.responses import SandboxResponse
from payarc_provider.sandbox.settings import SandboxSettings
from payarc_provider.sandbox.store import Store
from payarc_provider.sandbox.tokens import token_claims


class SandboxState:
    """Customers, settings, faults, rate windows and the log. Its methods may be called from any thread.

    :param settings: what holds at the start and again after each reset
    :param path: a file that keeps the customers; None for memory only
    :param seed: makes ids, chance and shuffling repeatable
    """

    def __init__(
        self, settings: SandboxSettings | None = None, path: Path | None = None, seed: int | None = None
    ) -> None:
        self.lock = RLock()
        self._initial = settings or SandboxSettings()
        self._seed = seed
        self.store = Store(path)
        self.generation = 0
        self._begin(1 + max((customer.request or 0 for customer in self.store), default=0))

    def _begin(self, first_post: int) -> None:
        self.current = self._initial
        self.log_book = Log(first_post)
        self.windows = RateWindows()
        self.replays: dict[tuple[str, str], SandboxResponse] = {}
        self._revoked: set[str] = set()
        # One source of chance for each purpose: an id more or less must not change which fault fires.
        self.shuffler, self._waits, self._ids = self._numbers("rows"), self._numbers("waits"), self._numbers("ids")
        self.rules = Faults(self._numbers("faults"))

    def _numbers(self, use: str) -> Random:
        return Random(None if self._seed is None else f"{self._seed}/{use}")  # noqa: S311 - chance, no secrets

    # What tests call, directly or through the control endpoint.

    def reset(self) -> None:
        """Forget everything, late commits to come as well, and take the first settings again."""
        with self.lock:
            self.generation += 1
            self.store.clear()
            self._begin(1)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Change settings from the next request on; returns all of them. ValueError for what cannot be."""
        with self.lock:
            self.current = self.current.changed(changes)
            return asdict(self.current)

    def faults(self, rules: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """Add fault rules; returns all of them, with how often each has fired."""
        with self.lock:
            self.rules.add(rules)
            return self.rules.as_json()

    def clear_faults(self) -> None:
        """Drop all fault rules; requests that one has hit already go on as they would."""
        with self.lock:
            self.rules.clear()

    def customers(self, merchant: str | None = None) -> list[dict[str, Any]]:
        """The customers of one merchant or of all, in the order of their creation."""
        with self.lock:
            return [each.as_raw() for each in self.store if merchant in (None, each.merchant)]

    def seed(self, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Create customers unchecked, as if made in the dashboard.

        A record holds PayArc's fields, and may hold ``merchant`` (``1``), ``created_at`` (Unix seconds) and
        ``customer_id``.
        """
        with self.lock:
            return [self._seed_one(dict(record)).as_raw() for record in records]

    def _seed_one(self, record: dict[str, Any]) -> Customer:
        merchant, created_at = str(record.pop("merchant", "1")), record.pop("created_at", None)
        return self.create(merchant, known_fields(record), created_at=created_at, customer_id=record.get("customer_id"))

    def revoke(self, token: str) -> None:
        """SandboxResponse 401 to this token from now on."""
        with self.lock:
            self._revoked.add(token)

    def stats(self) -> dict[str, Any]:
        """Counts of customers, requests, answers, POSTs by outcome, faults and connections."""
        with self.lock:
            return {"customers": self.store.counts(), **self.log_book.stats()}

    def log(self) -> list[dict[str, Any]]:
        """Every POST to ``/customers``, in the order of arrival, and what became of it."""
        with self.lock:
            return self.log_book.as_json()

    # What handling a request needs; the caller holds the lock where it changes something.

    def now(self) -> float:
        """PayArc's time in Unix seconds."""
        return time.time() + self.current.clock_offset

    def connection_opened(self) -> None:
        """Count a connection."""
        self.log_book.connections += 1

    def latency(self) -> float:
        """Seconds that the next request takes."""
        return self.current.latency + (self._waits.uniform(0, self.current.jitter) if self.current.jitter else 0.0)

    def merchant_of(self, token: str | None) -> str | None:
        """Whose token this is; None if it is not valid now."""
        if token is None or token in self._revoked:
            return None
        if token in self.current.tokens:
            return self.current.tokens[token]
        claims = token_claims(token)
        if claims is None or claims.get("exp", 0) <= self.now():
            return None
        return str(claims.get("sub"))

    def fault_for(self, method: str, route: str, values: Mapping[str, Any]) -> FaultRule | None:
        """The fault that hits this request, if any; counted."""
        rule = self.rules.choose(method, route, values)
        if rule:
            self.log_book.faults[rule.kind] += 1
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
        """Make a customer; it is durable when this returns."""
        moment = int(self.now() if created_at is None else created_at)
        new = Customer(
            number=self.store.next_number(),
            merchant=merchant,
            customer_id=customer_id or self._new_id(),
            fields=altered(fields, self.current),
            created_at=moment,
            updated_at=moment,
            invoice_prefix="".join(self._ids.choices(_CAPITALS, k=4)),
            request=request,
        )
        self.store.add(new)
        return new

    def _new_id(self) -> str:
        while (customer_id := "".join(self._ids.choices(_ALPHABET, k=16))) in self.store:
            pass  # a state file outlives a seeded sequence of ids
        return customer_id


_ALPHABET = ascii_letters + digits
_CAPITALS = _ALPHABET[26:]
