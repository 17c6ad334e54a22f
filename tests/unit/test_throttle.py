"""Workers, PayArc and the ledger in simulated time, around the real throttle and limiter."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import selectors
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest

from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.exceptions import PayarcLedgerError
from payarc_provider.sync.runtime import Throttle

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
    lag: float = 0.002  # seconds for which a process may pause after it has read that clock

    def update_fact(self, name: str, change: Any) -> str:
        if self.broken:
            raise PayarcLedgerError("the ledger is gone")
        self.facts[name] = change(self.facts.get(name), self.loop.now + self.offset - self.rng.uniform(0.0, self.lag))
        return self.facts[name]


class Worker:
    """Creates customers with ``concurrency`` senders, and may read the list at the same time."""

    def __init__(self, world: World, name: str, records: int, *, concurrency: int = 8, ledger: Ledger | None) -> None:
        self.world, self.name, self.left, self.concurrency = world, name, records, concurrency
        loop = world.loop
        self.limiter = RateLimiter(clock=lambda: loop.now)
        self.ledger = ledger
        self.throttle = Throttle(self.limiter, self.transact if ledger else None, "live/main", name)
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
            await asyncio.sleep(self.world.rng.uniform(0.0, 2.0))  # the first claim, for example
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

    def alone(self, records: int, *, pages: int = 0, concurrency: int = 8) -> Worker:
        """One worker with a ledger creates customers, and reads pages from the second window on."""
        ledger = Ledger(self.loop, self.rng)
        worker = Worker(self, "alone", records, concurrency=concurrency, ledger=ledger)
        self.run(worker.run(pages=pages, after=self.payarc.length * 1.5))
        return worker

    def four(self, records: int, *, pages: int = 0, ledger: Ledger | None = None, delay: float = 0.0) -> list[Worker]:
        """Four workers on one ledger, which may start at different times; the first one reads pages as well."""
        ledger = ledger or Ledger(self.loop, self.rng)
        workers = [Worker(self, f"worker {number}", records // 4, ledger=ledger) for number in range(4)]

        async def start(number: int, worker: Worker) -> None:
            await asyncio.sleep(number * delay)
            await worker.run(pages=0 if number else pages, after=self.payarc.length * 1.5)

        self.run(*(start(*each) for each in enumerate(workers)))
        return workers


PER = pytest.mark.parametrize("per", ["endpoint", "user"])
SEEDS = pytest.mark.parametrize("seed", range(2))


def use(payarc: Payarc, count: int) -> float:
    """The share of the windows that was used until the last customer was created."""
    return ((math.ceil(count / payarc.limit) - 1) * payarc.length + 0.05) / payarc.seconds()


# ---- a worker that is alone -----------------------------------------------------------------------------------------


@SEEDS
@PER
@pytest.mark.parametrize("limit", [5, 30, 90])
@pytest.mark.parametrize("form", ["laravel", "up", "date", "reset"])
def test_alone_it_uses_every_window_and_gets_429s_in_the_first_only(seed, per, limit, form):
    world = World(Payarc(limit, per=per, form=form), seed)
    worker = world.alone(10 * limit)
    requests = 10 * limit + world.payarc.count(200, LIST) * (per == "user")
    assert use(world.payarc, requests) >= 0.97
    assert world.payarc.count(429) <= 5
    assert worker.ledger.transactions["alone"] <= 12, "once in a window"


@SEEDS
@PER
def test_short_windows_are_used_as_well(seed, per):
    world = World(Payarc(30, 5.0, per=per), seed)
    world.alone(600)
    assert use(world.payarc, 600 + (per == "user")) >= 0.97
    assert world.payarc.limited_later() <= 0.01


@SEEDS
@pytest.mark.parametrize("limit", [1, 2])
def test_the_smallest_limits(seed, limit):
    world = World(Payarc(limit), seed)
    world.alone(8 * limit)
    assert use(world.payarc, 8 * limit) >= 0.97
    assert world.payarc.count(429) <= 3


@SEEDS
def test_one_request_opens_each_window(seed):
    world = World(Payarc(30, 5.0), seed)
    world.alone(300)
    windows: dict[int, list[float]] = {}
    for at, _, endpoint, _ in world.payarc.log:
        if endpoint == POST:
            windows.setdefault(int((at - world.payarc.log[0][0]) // 5.02), []).append(at)
    for moments in list(windows.values())[1:]:
        first, second, *_ = sorted(moments)
        assert second - first > 0.04, "the second request waits for the first one's response"


@pytest.mark.parametrize("form", ["none", "silent"])
def test_without_headers_it_finds_windows_by_trying(form):
    world = World(Payarc(30, 60.0, form=form))
    world.alone(300)
    assert use(world.payarc, 300) >= 0.95
    assert world.payarc.count(429) <= 2 * 60 * 10, "about once in a second"


@SEEDS
def test_lost_responses_cost_little(seed):
    world = World(Payarc(30), seed)
    world.lost = 0.05
    world.alone(270)
    assert use(world.payarc, 300) >= 0.85
    assert world.payarc.count(429) <= 10


@SEEDS
@PER
def test_slow_responses_cost_little(seed, per):
    world = World(Payarc(30, per=per), seed, latency=(0.1, 1.5))
    world.alone(300)
    assert use(world.payarc, 300 + (per == "user")) >= 0.95
    assert world.payarc.count(429) <= 6


@SEEDS
@PER
def test_windows_that_become_longer_or_shorter_are_followed(seed, per):
    payarc = Payarc(30, 20.0, per=per)
    world = World(payarc, seed)

    async def change() -> None:
        await asyncio.sleep(95)
        payarc.length = 30.0

    worker = Worker(world, "alone", 300, ledger=None)
    world.run(worker.run(), change())
    assert payarc.count(429) <= 4
    assert payarc.seconds() <= 5 * 20 + 5 * 30 + 5


def test_a_penalty_is_waited_out_and_forgotten(monkeypatch):
    payarc = Payarc(30, 10.0)
    world = World(payarc)
    handle = payarc.handle

    def penalise(now: float, worker: str, endpoint: str) -> tuple[int, dict[str, str]]:
        if 1035.0 <= now < 1335.0:
            payarc.log.append((now, worker, endpoint, 429))
            return 429, {"Retry-After": str(math.ceil(1335.0 - now))}
        return handle(now, worker, endpoint)

    monkeypatch.setattr(payarc, "handle", penalise)
    world.alone(300)
    assert payarc.seconds() <= 300 + 10 * 10 + 5
    assert payarc.count(429) <= 10


# ---- look-ups during creates ----------------------------------------------------------------------------------------


@SEEDS
@PER
@pytest.mark.parametrize("concurrency", [8, 40])
def test_a_look_up_and_creates_do_not_starve_each_other(seed, per, concurrency):
    world = World(Payarc(30, 10.0, per=per), seed)
    worker = world.alone(600, pages=15, concurrency=concurrency)
    started = 1000 + 15.0
    assert max(worker.pages_read) < started + 16 * 10.0, "a page in each window at least"
    assert use(world.payarc, 600 + (per == "user") * 16) >= 0.95
    assert world.payarc.limited_later() <= 0.05
    if per == "endpoint":
        assert max(worker.pages_read) < started + 10.0, "creates do not slow it down"


@SEEDS
@PER
def test_a_look_up_by_one_of_four_workers(seed, per):
    world = World(Payarc(30, 10.0, per=per), seed)
    reading, *_ = world.four(620, pages=15)
    assert max(reading.pages_read) < 1000 + 15.0 + 15 * 10.0
    assert use(world.payarc, 620 + (per == "user") * 19) >= 0.95
    assert world.payarc.limited_later() <= 0.05


# ---- several workers ------------------------------------------------------------------------------------------------


@SEEDS
@PER
@pytest.mark.parametrize("form", ["laravel", "up"])
@pytest.mark.parametrize("delay", [0.0, 7.0])
def test_four_workers_share_every_window_and_get_few_429s(seed, per, form, delay):
    world = World(Payarc(30, per=per, form=form), seed)
    world.four(620, delay=delay)
    assert use(world.payarc, 620 + (per == "user") * 4) >= 0.95
    assert world.payarc.limited_later() <= 0.05
    assert world.payarc.count(429, since=3 * 60.0) <= 2, "none once the length is known"


@SEEDS
@PER
def test_four_workers_share_short_windows(seed, per):
    world = World(Payarc(30, 5.0, per=per), seed)
    world.four(620)
    assert use(world.payarc, 620 + (per == "user") * 4) >= 0.95
    assert world.payarc.limited_later() <= 0.05


@SEEDS
def test_sharing_costs_a_few_transactions_in_a_window(seed):
    world = World(Payarc(30), seed)
    ledger = Ledger(world.loop, world.rng)
    world.four(620, ledger=ledger)
    assert ledger.transactions.total() <= 20 * 30


@SEEDS
def test_no_worker_is_starved(seed):
    world = World(Payarc(30), seed)
    world.four(620)
    middle = [worker for at, worker, _, status in world.payarc.log if 1300 < at < 1800 and status == 200]
    assert min(Counter(middle).values()) >= 0.15 * len(middle)


@SEEDS
def test_a_worker_with_little_to_do_leaves_its_part_to_the_others(seed):
    world = World(Payarc(30), seed)
    ledger = Ledger(world.loop, world.rng)
    busy, idle = Worker(world, "busy", 600, ledger=ledger), Worker(world, "idle", 1, ledger=ledger)

    async def trickle() -> None:
        for _ in range(30):
            idle.left = 1
            await idle.run(ping=False)
            await asyncio.sleep(20)

    world.run(busy.run(), trickle())
    done = max(at for at, worker, _, status in world.payarc.log if worker == "busy" and status == 200)
    assert done - 1000 <= 60 * 21


@SEEDS
def test_a_worker_that_dies_takes_its_slots_with_it_for_one_window_only(seed):
    world = World(Payarc(30), seed)
    ledger = Ledger(world.loop, world.rng)
    workers = [Worker(world, f"worker {number}", 200, ledger=ledger) for number in range(4)]

    async def die(worker: Worker) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.run(), 300.2)

    world.run(die(workers[0]), *(worker.run() for worker in workers[1:]))
    created = world.payarc.count(200)
    assert use(world.payarc, created) >= 0.95
    assert world.payarc.limited_later() <= 0.05


@SEEDS
def test_without_a_usable_ledger_payarcs_responses_limit_the_rate(seed, caplog):
    world = World(Payarc(30), seed)
    ledger = Ledger(world.loop, world.rng, broken=True)
    world.four(620, ledger=ledger)
    assert use(world.payarc, 620) >= 0.95
    assert caplog.text.count("could not share the rate limit") == 4, "each worker logs one line"
    assert ledger.transactions.total() <= 4 * 25


@SEEDS
def test_a_ledger_that_does_not_respond_delays_requests_by_seconds(seed, caplog):
    world = World(Payarc(30), seed)
    ledger = Ledger(world.loop, world.rng, seconds=(1000.0, 2000.0))
    world.four(620, ledger=ledger)
    assert use(world.payarc, 620) >= 0.75
    assert "did not respond in time" in caplog.text


@SEEDS
def test_the_databases_clock_may_differ_from_the_workers(seed):
    world = World(Payarc(30), seed)
    ledger = Ledger(world.loop, world.rng, offset=-7_000.0)
    world.four(620, ledger=ledger)
    assert use(world.payarc, 620) >= 0.95
    assert world.payarc.limited_later() <= 0.05


@SEEDS
def test_processes_that_pause_at_a_bad_moment_cost_little(seed):
    world = World(Payarc(30, 10.0), seed)
    world.four(620, ledger=Ledger(world.loop, world.rng, lag=0.2))
    assert use(world.payarc, 620) >= 0.93
    assert world.payarc.limited_later() <= 0.05


@SEEDS
@pytest.mark.parametrize("step", [-30.0, 30.0])
def test_a_database_clock_that_jumps_costs_no_more_than_a_window(seed, step):
    world = World(Payarc(30), seed)
    ledger = Ledger(world.loop, world.rng)

    async def jump() -> None:
        await asyncio.sleep(310)
        ledger.offset += step

    workers = [Worker(world, f"worker {number}", 155, ledger=ledger) for number in range(4)]
    world.run(jump(), *(worker.run() for worker in workers))
    assert use(world.payarc, 620) >= 0.93


def test_the_fact_holds_numbers_times_and_worker_ids_only():
    world = World(Payarc(30))
    ledger = Ledger(world.loop, world.rng)
    world.four(400, pages=5, ledger=ledger)
    [(name, value)] = ledger.facts.items()
    assert name == "rate_limit:live/main"
    words = set(re.findall(r'"([^"]+)"', value))
    keys = {"apart", "workers", "budgets", "all", "number", "length", "taken", "opened", "end", "probed"}
    assert words <= keys | {POST, LIST} | {f"worker {number}" for number in range(4)}


def test_workers_on_different_ledgers_still_use_every_window():
    world = World(Payarc(30))
    workers = [Worker(world, f"worker {number}", 150, ledger=Ledger(world.loop, world.rng)) for number in range(4)]
    world.run(*(worker.run() for worker in workers))
    assert use(world.payarc, 600) >= 0.95
    assert world.payarc.limited_later() <= 0.3


def test_a_slot_that_was_not_used_goes_to_another_request():
    world = World(Payarc(3))
    worker = Worker(world, "alone", 0, ledger=None)

    async def main() -> None:
        assert await worker.throttle.acquire(POST) == 0.0
        worker.throttle.release(POST)
        assert await worker.throttle.acquire(POST) == 0.0

    world.run(main())
