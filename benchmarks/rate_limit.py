"""How well a run uses PayArc's rate limit: alone, with others on one ledger, and with others it cannot see.

    python benchmarks/rate_limit.py            # all of it, about 12 minutes
    python benchmarks/rate_limit.py alone      # or: shared, apart

Real processes with the real engine, over HTTP, against the sandbox: 30 requests in 5 s, 50 ms latency. A ratio is the
time from the common start to the last worker's end over the shortest possible: (windows - 1) whole windows and one
latency.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import tempfile
import time
import uuid
from multiprocessing.synchronize import Barrier
from typing import Any

import sqlalchemy as sa
from payarc_provider.sync.threads import SystemClock, ThreadedFeed, ThreadedLedger, ThreadedPayarc, threads

from payarc_provider.api.client import PayarcClient
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.sandbox import SandboxServer
from payarc_provider.sync.batches import Batches
from payarc_provider.sync.engine import Run
from payarc_provider.sync.ledger import Claimant, Ledger
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.results import Results
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.sources import ListSource

LIMIT, WINDOW, LATENCY = 30, 5.0, 0.05


def work(
    number: int, count: int, url: str, token: str, database: str, concurrency: int, start: Barrier, ends: Any
) -> None:
    """One worker, with records of its own; tells ``ends`` when it has done them."""
    settings = Settings(concurrency=concurrency)
    limiter = RateLimiter()
    client = PayarcClient(url, lambda _: token, timeout=settings.timeout, limiter=limiter)
    ledger = Ledger(sa.create_engine(database))
    ledger.open()
    reader = RecordReader("id", None, ledger.ledger_id)
    rows = [
        {"id": f"{number}-{row}", "name": "Ada Worker", "email": f"p{row}@w{number}.example"} for row in range(count)
    ]
    me = Claimant("sandbox/1", uuid.uuid4().hex, f"list {number}", settings.lease, settings.settle)
    with threads(concurrency) as pools:

        async def main() -> None:
            run = Run(
                me,
                settings,
                ledger.ledger_id,
                reader,
                feed=ThreadedFeed(Batches(ListSource(rows, me.source), reader, settings.batch_size), pools.source),
                ledger=ThreadedLedger(ledger, me, pools, retry_rejected=False),
                payarc=ThreadedPayarc(client, limiter, pools, ledger, me),
                sink=Results(keep=False),
                clock=SystemClock(),
            )
            await run.run()

        start.wait()
        asyncio.run(main())
        ends.put(time.monotonic())


def measure(count: int, workers: int, concurrency: int, *, ledgers: int) -> dict[str, Any]:
    """Create so many customers with so many workers, in as many ledgers."""
    spawn = multiprocessing.get_context("spawn")
    settings = {"rate_limit": LIMIT, "rate_window": WINDOW, "latency": LATENCY}
    with tempfile.TemporaryDirectory() as folder, SandboxServer(**settings) as sandbox:
        start, ends = spawn.Barrier(workers + 1), spawn.Queue()
        tasks = []
        for number in range(workers):
            ledger = f"sqlite:///{folder}/ledger{number % ledgers}.db"
            share = count // workers + (number < count % workers)
            arguments = (number, share, sandbox.url, sandbox.token, ledger, concurrency, start, ends)
            tasks.append(spawn.Process(target=work, args=arguments))
            tasks[-1].start()
        start.wait()
        began = time.monotonic()
        for task in tasks:
            task.join()
        assert all(task.exitcode == 0 for task in tasks), "a worker failed"
        assert len(sandbox.customers()) == count, "customers are missing"
        return told(sandbox, count, max(ends.get() for _ in tasks) - began, began)


def told(sandbox: SandboxServer, count: int, seconds: float, began: float) -> dict[str, Any]:
    """What the sandbox says of it."""
    limited = [post["arrived"] for post in sandbox.log() if post["outcome"] == "rate_limited"]
    late = sum(at - began > WINDOW + 2 * LATENCY + 1 for at in limited)
    least = (math.ceil(count / LIMIT) - 1) * WINDOW + LATENCY
    return {
        "ratio": round(seconds / least, 4),
        "seconds": round(seconds, 2),
        "429": len(limited),
        "429 %": round(100 * len(limited) / count, 2),
        "429 after the first window": late,
        "after the first window %": round(100 * late / count, 2),
    }


CASES = {
    "alone": [(300, 1, 8, 1), (300, 1, 16, 1)],
    "shared": [(1500, 4, 8, 1)],
    "apart": [(1500, 4, 8, 4)],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; by default all")
    parser.add_argument("--records", type=int, help="instead of each case's own number")
    given = parser.parse_args()
    for case in given.cases or CASES:
        for count, workers, concurrency, ledgers in CASES[case]:
            records = given.records or count
            result = measure(records, workers, concurrency, ledgers=ledgers)
            print(f"{case}: {records} records, {workers} workers, concurrency {concurrency}: {result}", flush=True)


if __name__ == "__main__":
    main()
