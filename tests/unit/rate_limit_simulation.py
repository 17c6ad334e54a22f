"""PayArc, its rate limit and several workers in simulated time, around the real limiter and throttle."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import selectors
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.exceptions import PayarcLedgerError
from payarc_provider.sync.throttle import Throttle

POST, LIST = "POST /customers", "GET /customers"


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes without waiting."""

    def __init__(self) -> None:
        self.now = 1000.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> list[Any]:
                assert timeout is not None, "nothing will ever happen"
                loop.now += max(0.0, timeout)
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


class Payarc:
    """Fixed windows that open with the first request after the last one's end.

    :param per: ``endpoint`` or ``user``: what has a window of its own
    :param form: how a 429 tells the end: in seconds that Laravel's throttle rounds (``laravel``) or that are rounded
        ``up``, as a ``date``, not at all (``none``); ``reset``: in X-RateLimit-Reset on every response; ``silent``: no
        header at all
    """

    def __init__(self, limit: int, length: float = 60.0, *, per: str = "endpoint", form: str = "up") -> None:
        self.limit, self.length, self.per, self.form = limit, length, per, form
        self.windows: dict[str, tuple[float, int]] = {}
        self.log: list[tuple[float, str, str, int]] = []  # when, who, endpoint, status
        self.offset = 2_000_000_000 - 1000  # its clock, seconds after the loop's
        self.penalty: tuple[float, float] | None = None

    def handle(self, now: float, worker: str, endpoint: str) -> tuple[int, dict[str, str]]:
        name = endpoint if self.per == "endpoint" else ""
        end, used = self.windows.get(name, (-math.inf, 0))
        if now >= end:
            end, used = (int(now) if self.form == "laravel" else now) + self.length, 0
        refused = used >= self.limit
        self.windows[name] = end, used + (not refused)
        self.log.append((now, worker, endpoint, 429 if refused else 200))
        if self.form == "silent":
            return self.log[-1][-1], {}
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.limit - self.windows[name][1]),
            "Date": formatdate(int(now + self.offset), usegmt=True),
        }
        moment = math.ceil(end + self.offset)
        if self.form == "reset":
            headers["X-RateLimit-Reset"] = str(moment)
        if refused:
            headers |= {
                "laravel": {"Retry-After": str(int(end) - int(now))},
                "up": {"Retry-After": str(max(1, math.ceil(end - now)))},
                "date": {"Retry-After": formatdate(moment, usegmt=True)},
            }.get(self.form, {})
        return self.log[-1][-1], headers

    # ---- what came of it ----------------------------------------------------------------------------------------

    def count(self, status: int, endpoint: str = POST, *, since: float = 0.0) -> int:
        start = self.log[0][0]
        return sum(s == status and e == endpoint and at - start >= since for at, _, e, s in self.log)

    def seconds(self, endpoint: str = POST) -> float:
        return max(at for at, _, e, s in self.log if e == endpoint and s == 200) - self.log[0][0]

    def limited_later(self) -> float:
        """The share of 429s among requests after each worker's first window."""
        first: dict[str, float] = {}
        for at, worker, _, _ in self.log:
            first.setdefault(worker, at)
        later = [s for at, worker, _, s in self.log if at - first[worker] > self.length]
        return later.count(429) / max(1, len(later))


@dataclass
class Ledger:
    """The ledger's facts; every transaction takes a little time."""

    loop: Loop
    rng: random.Random
    facts: dict[str, str] = field(default_factory=dict)
    transactions: Counter[str] = field(default_factory=Counter)
    seconds: tuple[float, float] = (0.002, 0.02)
    broken: bool = False
    offset: float = 5e8  # the database's clock

    def update_fact(self, name: str, change: Any) -> str:
        if self.broken:
            raise PayarcLedgerError("the ledger is gone")
        self.facts[name] = change(self.facts.get(name), self.loop.now + self.offset)
        return self.facts[name]


class Worker:
    """Creates so many customers with ``concurrency`` senders, and reads the list meanwhile if told to."""

    def __init__(self, world: World, name: str, records: int, *, concurrency: int = 8, ledger: Ledger | None) -> None:
        self.world, self.name, self.left, self.concurrency = world, name, records, concurrency
        loop = world.loop
        self.limiter = RateLimiter(clock=lambda: loop.now)
        self.ledger = ledger
        self.throttle = Throttle(self.limiter, self.transact if ledger else None, "live/m", name)
        self.heard = asyncio.Event()
        self.busy = 0
        self.in_flight = 0
        self.pages_read: list[float] = []

    async def transact(self, call: Any) -> Any:
        assert self.ledger is not None
        await asyncio.sleep(self.world.rng.uniform(*self.ledger.seconds))
        self.ledger.transactions[self.name] += 1
        return call(self.ledger)

    async def request(self, endpoint: str) -> int | None:
        sent = self.limiter.depart(endpoint)
        rng, loop = self.world.rng, self.world.loop
        await asyncio.sleep(rng.uniform(*self.world.latency) / 2)
        if rng.random() < self.world.lost:
            status, headers = None, {}
        else:
            status, headers = self.world.payarc.handle(loop.now, self.name, endpoint)
        await asyncio.sleep(rng.uniform(*self.world.latency) / 2)
        self.limiter.learn(sent, status, headers)
        return status

    async def send(self) -> None:
        while self.left > 0:
            self.left -= 1
            self.busy += 1
            while True:
                ready = min(self.concurrency, self.left + self.busy - self.in_flight)
                wait = await self.throttle.acquire(POST, ready)
                if wait > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.heard.wait(), max(wait, 0.001))
                    continue
                self.in_flight += 1
                status = await self.request(POST)
                self.in_flight -= 1
                self.heard.set()
                self.heard.clear()
                if status == 200:
                    break
            self.busy -= 1

    async def read(self, pages: int, after: float = 0.0) -> None:
        await asyncio.sleep(after)
        while len(self.pages_read) < pages:
            wait = await self.throttle.acquire(LIST)
            if wait > 0:
                await asyncio.sleep(max(wait, 0.001))
            elif await self.request(LIST) == 200:
                self.pages_read.append(self.world.loop.now)

    async def run(self, *, pages: int = 0, after: float = 0.0, ping: bool = True) -> None:
        if ping:
            await self.request(LIST)
        await asyncio.gather(*(self.send() for _ in range(self.concurrency)), self.read(pages, after))


class World:
    def __init__(self, payarc: Payarc, seed: int = 0, *, latency: tuple[float, float] = (0.05, 0.06)) -> None:
        self.payarc = payarc
        self.rng = random.Random(seed)
        self.latency = latency
        self.lost = 0.0
        self.loop = Loop()

    def run(self, *workers: Any, timeout: float = 100_000.0) -> None:
        async def main() -> None:
            await asyncio.wait_for(asyncio.gather(*workers), timeout)

        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(main())
