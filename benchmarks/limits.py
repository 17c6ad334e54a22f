"""Under a rate limit: how much of each window one process and four use, and how long a worker slot is held.

All of it is waiting, so everything runs at once, each with a sandbox of its own.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from benchmarks.people import write_crm
from benchmarks.roster import SQLITE_LEDGER, Contender
from benchmarks.sandbox import Sandbox
from benchmarks.speed import LATENCY, THREADS
from benchmarks.world import Child, Failed, World, crash_safe, say

REQUESTS, WINDOW = 30, 5.0


def ideal(records: int, requests: int = REQUESTS, window: float = WINDOW) -> float:
    """The shortest possible time in seconds: every window used up as soon as it opens, and one latency."""
    return (math.ceil(records / requests) - 1) * window + LATENCY


def one_process(world: World, contender: Contender, records: int, per: str = "endpoint") -> dict[str, Any]:
    """One process under 30 requests per 5 seconds.

    :param per: what the sandbox counts together: ``endpoint``, or ``user`` for all endpoints
    """
    with Sandbox() as sandbox:
        sandbox.begin(latency=LATENCY, rate_limit=REQUESTS, rate_window=WINDOW, rate_limit_per=per)
        crm = write_crm(world.folder() / "crm.db", records)
        arguments = {"crm": str(crm), "threads": THREADS, "limit": [REQUESTS, WINDOW], **contender.fresh(world)}
        child = world.start(contender.call, {"url": sandbox.url, "token": sandbox.token, **arguments})
        with crash_safe(child):
            child.result()
        return figures(sandbox.posts(), records, others=int(per == "user"))


def workers(world: World, records: int, per: str = "endpoint", count: int = 4) -> dict[str, Any]:
    """Several processes on one token and one ledger, each with a share of the table."""
    with Sandbox() as sandbox:
        sandbox.begin(latency=LATENCY, rate_limit=REQUESTS, rate_window=WINDOW, rate_limit_per=per)
        crm = write_crm(world.folder() / "crm.db", records)
        ledger, url = world.postgresql()
        common = {
            "url": sandbox.url,
            "token": sandbox.token,
            "crm": str(crm),
            "state": str(world.folder()),
            "threads": 4,
            "limit": None,
            "ledger": ledger,
        }
        with contextlib.ExitStack() as stack:
            children = [
                world.start(SQLITE_LEDGER.call, {**common, "partition": [share, count], "run_id": f"worker-{share}"})
                for share in range(count)
            ]
            stack.enter_context(crash_safe(*children))
            for child in children:
                child.result()
        others = count if per == "user" else 0
        return figures(sandbox.posts(), records, _claimed_by(url), others=others) | {"workers": count}


def _claimed_by(url: str) -> dict[str, str]:
    """Reference → the worker that claimed its record, by the ledger."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT reference, run_id FROM payarc_customers"))
            return {str(reference): str(run_id) for reference, run_id in rows}
    finally:
        engine.dispose()


def figures(
    log: Sequence[Mapping[str, Any]],
    records: int,
    worker_of: Mapping[str, str] = MappingProxyType({}),
    *,
    others: int = 0,
) -> dict[str, Any]:
    """What the sandbox's log shows of a run under 30 requests per 5 s.

    :param worker_of: the first part of the idempotency key → the worker that sent it, where there are several
    :param others: how many requests other than POSTs count in the same windows
    """
    began = log[0]["arrived"]
    made = [post["committed"] for post in log if post["committed"] is not None]
    seconds = max(made) - began + LATENCY / 2
    limited = [post for post in log if post["status"] == 429]
    first: dict[str | None, float] = {}
    for post in log:
        first.setdefault(_worker(post, worker_of), post["arrived"])
    later = [post for post in limited if post["arrived"] - first[_worker(post, worker_of)] > WINDOW]
    return {
        "records": records,
        "customers": len(made),
        "seconds": seconds,
        "ideal": ideal(records + others),
        "ratio": seconds / ideal(records + others),
        "limited": len(limited) / records,
        "limited_later": len(later) / records,
    }


def _worker(post: Mapping[str, Any], worker_of: Mapping[str, str]) -> str | None:
    return worker_of.get(str(post["idempotency_key"]).partition("-")[0])


def deferring(world: World, windows: int, requests: int = 30, window: float = 60.0) -> dict[str, Any]:
    """The operator with ``deferrable=True`` at 30 a minute: how long its own code holds a worker slot.

    Each stretch between two deferrals runs in a process of its own, as a worker would run it; what Airflow and Python
    need to start it is measured apart.
    """
    records = requests * windows
    with Sandbox() as sandbox:
        sandbox.begin(latency=LATENCY, rate_limit=requests, rate_window=window)
        crm = write_crm(world.folder() / "crm.db", records)
        arguments: dict[str, Any] = {
            "url": sandbox.url,
            "token": sandbox.token,
            "crm": str(crm),
            "threads": THREADS,
            "state": str(world.folder()),
        }
        stretches = []
        while True:
            child = world.start("benchmarks.contenders.deferring:run", arguments)
            with crash_safe(child):
                result = child.result()
            stretches.append(result["seconds"])
            if result["said"]["done"]:
                break
            time.sleep(max(0.0, result["said"]["until"] - time.time()))  # what the triggerer does meanwhile
        all_in_all = figures(sandbox.posts(), records)
    took = ideal(records, requests, window)
    return {
        "records": records,
        "customers": all_in_all["customers"],
        "windows": windows,
        "slot_seconds": sum(stretches),
        "per_window": sum(stretches) / windows,
        "longest": max(stretches),
        "deferrals": len(stretches) - 1,
        "seconds": all_in_all["seconds"],
        "ratio": all_in_all["seconds"] / took,
    }


def first_run_memory(world: World, records: int) -> dict[str, Any]:
    """Peak memory of a first run that creates all records; at low priority, because it takes long."""
    with Sandbox(nice=15) as sandbox:
        sandbox.begin()
        crm = write_crm(world.folder() / "crm.db", records)
        arguments = {"crm": str(crm), "threads": THREADS, "limit": None, **SQLITE_LEDGER.fresh(world)}
        child: Child = world.start(
            SQLITE_LEDGER.call, {"url": sandbox.url, "token": sandbox.token, **arguments}, nice=15
        )
        with crash_safe(child):
            result = child.result()
        return {
            "records": records,
            "rss_peak": result["rss_peak"],
            "rss_before": result["rss_before"],
            "seconds": result["seconds"],
            "customers": sandbox.created(),
        }


def all_at_once(jobs: Sequence[tuple[str, Callable[[], dict[str, Any]]]]) -> dict[str, dict[str, Any]]:
    """Run all jobs side by side; name → what each gives."""

    def job(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            done = work()
        except Failed as failure:
            say(f"{name}: FAILED {failure}")
            return {}
        say(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in done.items()))
        return done

    with ThreadPoolExecutor(len(jobs)) as pool:
        waiting = {name: pool.submit(job, name, work) for name, work in jobs}
        return {name: future.result() for name, future in waiting.items()}
