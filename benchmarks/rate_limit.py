"""How well runs use PayArc's rate limit: alone and with others, counted per endpoint and per user over all endpoints.

    python benchmarks/rate_limit.py            # everything side by side, about 5 minutes
    python benchmarks/rate_limit.py alone      # or some of the cases

Real processes with the real engine, over HTTP, against the sandbox: 30 requests in 5 s, 50 ms latency. *Use* is the
shortest possible time, (windows - 1) whole windows and one latency, divided by the time from the first POST to the end
of the last one. With ``read``, the first worker also reads 40 pages of PayArc's list; where these count in the same
windows, they count in the shortest time as well.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any, TypeVar

import sqlalchemy as sa

from payarc_provider.api.client import PayarcClient
from payarc_provider.exceptions import PayarcRateLimited
from payarc_provider.sandbox import SandboxServer
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.runner import run
from payarc_provider.sync.runtime import Throttle
from payarc_provider.sync.settings import Settings, TaskIdentity
from payarc_provider.sync.sources import ListSource

T = TypeVar("T")
LIMIT, WINDOW, LATENCY, PAGES = 30, 5.0, 0.05, 40
ACCOUNT = "sandbox/1"


def work(number: int, count: int, url: str, token: str, database: str, pages: int, start: Barrier, ends: Any) -> None:
    """One worker with records of its own; puts into ``ends`` when its reading began and ended."""
    client = PayarcClient(url, lambda _: token)
    ledger = Ledger(sa.create_engine(database))
    ledger.open()
    rows = [{"id": f"{number}-{row}", "name": "Ada Worker", "email": f"p{row}@w{number}.ex"} for row in range(count)]
    start.wait()
    reading = threading.Thread(target=lambda: ends.put(asyncio.run(read(client, ledger, pages))))
    reading.start()
    settings = Settings(keep_results=False)
    run(ListSource(rows, f"list {number}"), client, ledger, settings, account=ACCOUNT, task=TaskIdentity())
    reading.join()


async def read(client: PayarcClient, ledger: Ledger, pages: int) -> tuple[float, float]:
    """Read pages of the list one after the other, as a look-up does; returns when it began and ended."""

    async def transact(call: Callable[[Ledger], T]) -> T:
        return await asyncio.to_thread(call, ledger)

    throttle = Throttle(client.limiter, transact, ACCOUNT, uuid.uuid4().hex)
    await asyncio.sleep(1.5 * WINDOW)
    began = time.monotonic()
    while pages > 0:
        if (wait := await throttle.acquire("GET /customers")) > 0:
            await asyncio.sleep(wait)
            continue
        try:
            await asyncio.to_thread(client.list_page, 1)
        except PayarcRateLimited:
            continue
        pages -= 1
    return began, time.monotonic()


def measure(count: int, workers: int, ledgers: int, per: str, pages: int) -> str:
    """Create ``count`` customers with several workers on one or more ledgers."""
    spawn = multiprocessing.get_context("spawn")
    settings: dict[str, Any] = {"rate_limit": LIMIT, "rate_limit_per": per, "rate_window": WINDOW, "latency": LATENCY}
    with tempfile.TemporaryDirectory() as folder, SandboxServer(**settings) as sandbox:
        start, ends = spawn.Barrier(workers), spawn.Queue()
        tasks = []
        for number in range(workers):
            ledger = f"sqlite:///{folder}/ledger{number % ledgers}.db"
            share = count // workers + (number < count % workers)
            to_read = pages if number == 0 else 0
            arguments = (number, share, sandbox.url, sandbox.token, ledger, to_read, start, ends)
            tasks.append(spawn.Process(target=work, args=arguments))
            tasks[-1].start()
        reading = max((ends.get() for _ in tasks), key=lambda times: times[1])
        for task in tasks:
            task.join()
        assert all(task.exitcode == 0 for task in tasks), "a worker failed"
        assert len(sandbox.customers()) == count, "customers are missing"
        return described(sandbox, per, workers, count, pages, reading)


def described(
    sandbox: SandboxServer, per: str, workers: int, count: int, pages: int, reading: tuple[float, float]
) -> str:
    """What the sandbox's log shows."""
    log = sandbox.log()
    began = log[0]["arrived"]
    end = max(post["committed"] for post in log if post["committed"] is not None) + LATENCY / 2
    counted = count
    if per == "user":  # with the request that each worker begins with
        counted, end = count + workers + pages, max(end, reading[1] if pages else 0.0)
    seconds, ideal = end - began, (math.ceil(counted / LIMIT) - 1) * WINDOW + LATENCY
    limited = sandbox.stats()["rate_limited"]
    later = sum(post["outcome"] == "rate_limited" and post["arrived"] - began > WINDOW + 1 for post in log)
    text = (
        f"{seconds:.1f} s, use {ideal / seconds:.3f}, {limited} requests answered 429, "
        f"{later} POSTs ({later / count:.1%}) after the first window"
    )
    return text + (f"; {pages} pages read in {reading[1] - reading[0]:.1f} s" if pages else "")


# Customers, workers, ledgers, pages.
CASES = {
    "alone": (600, 1, 1, 0),
    "shared": (1500, 4, 1, 0),
    "alone, read": (600, 1, 1, PAGES),
    "shared, read": (1500, 4, 1, PAGES),
    "apart": (1500, 4, 4, 0),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {'; '.join(CASES)}; by default all")
    parser.add_argument("--records", type=int, help="instead of each case's own number")
    given = parser.parse_args()

    def job(case: str, per: str) -> None:
        count, workers, ledgers, pages = CASES[case]
        result = measure(given.records or count, workers, ledgers, per, pages)
        print(f"{case}, per {per}: {given.records or count} records, {workers} workers: {result}", flush=True)

    jobs = [(case, per) for case in given.cases or CASES for per in ("endpoint", "user")]
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job, *each) for each in jobs]:
            done.result()


if __name__ == "__main__":
    main()
