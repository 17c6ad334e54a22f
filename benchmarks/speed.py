"""Speed, CPU, memory and requests with a latency of 50 ms, the cost of a rerun, and a SIGKILL halfway."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.people import write_crm
from benchmarks.roster import POOL, Contender
from benchmarks.sandbox import Sandbox
from benchmarks.world import Failed, World, crash_safe, say

LATENCY = 0.05
THREADS = 16


def median_spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the minimum and the maximum."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "runs": len(values)}


def speed(world: World, sandbox: Sandbox, roster: Sequence[Contender], records: int, rounds: int) -> dict[str, Any]:
    """Return the figures of each tool. All tools take turns in each round, so ratios compare neighbors."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for turn in range(rounds):
        for contender in roster:
            count = min(records, contender.most or records)
            if turn >= 1 and contender.in_airflow and not contender.ours:
                continue  # slow, and far from every target
            try:
                runs[contender.name].append(_once(world, sandbox, contender, count, rerun=turn == 0))
            except Failed as failure:
                say(f"{contender.name}: FAILED {failure}")
                continue
            done = runs[contender.name][-1]
            say(
                f"speed {turn + 1}/{rounds}: {contender.name}: {count} in {done['seconds']:.1f} s "
                f"({done['rate']:.0f}/s), {done['cpu']:.1f} CPU s, {done['posts']} POSTs"
            )
    bare = [run["rate"] for run in runs[POOL.name]]
    return {name: _figures(found, bare) for name, found in runs.items()}


def _once(world: World, sandbox: Sandbox, contender: Contender, count: int, *, rerun: bool) -> dict[str, Any]:
    crm = write_crm(world.home / f"crm-{count}.db", count)
    arguments = {
        "url": sandbox.url,
        "token": sandbox.token,
        "crm": str(crm),
        "threads": THREADS,
        "limit": None,
        **contender.fresh(world),
    }
    sandbox.begin(latency=LATENCY)
    first = world.run(contender.call, arguments)
    stats = sandbox.stats()
    posts, customers = stats["posts"]["received"], sum(stats["customers"].values())
    if customers < count:
        raise Failed(f"{customers} of {count} customers")
    done = {
        "count": count,
        "seconds": first["seconds"],
        "rate": count / first["seconds"],
        "cpu": first["cpu"],
        "cpu_per_1000": first["cpu"] / count * 1000,
        "rss_before": first["rss_before"],
        "rss_peak": first["rss_peak"],
        "posts": posts,
        "requests": sum(stats["requests"].values()),
        "sandbox_cpu": stats["cpu"],
        "slot_per_record": first["said"].get("slot_seconds", 0) / count,
    }
    if rerun:
        again, later = world.run(contender.call, arguments), sandbox.stats()
        done["rerun_requests"] = sum(later["requests"].values()) - done["requests"]
        done["rerun_seconds"] = again["seconds"]
    return done


def _figures(runs: list[dict[str, Any]], bare: list[float]) -> dict[str, Any]:
    last = runs[-1]
    return {
        "records": last["count"],
        "rate": median_spread([run["rate"] for run in runs]),
        "ratio": median_spread([run["rate"] / other for run, other in zip(runs, bare, strict=False)]),
        "cpu_per_1000": median_spread([run["cpu_per_1000"] for run in runs]),
        "rss_peak": statistics.median(run["rss_peak"] for run in runs),
        "rss_before": statistics.median(run["rss_before"] for run in runs),
        "posts_per_customer": max(run["posts"] / run["count"] for run in runs),
        "requests_per_customer": max(run["requests"] / run["count"] for run in runs),
        "sandbox_cpu_per_1000": statistics.median(run["sandbox_cpu"] / run["count"] * 1000 for run in runs),
        "slot_per_record": last["slot_per_record"],
        "rerun_requests": runs[0]["rerun_requests"],
        "rerun_seconds": runs[0]["rerun_seconds"],
    }


def killed(world: World, sandbox: Sandbox, roster: Sequence[Contender], records: int) -> dict[str, Any]:
    """Return duplicate and lost customers of each tool, after a SIGKILL halfway and a rerun to the end."""
    found = {}
    for contender in roster:
        count = min(records, contender.most or records)
        try:
            found[contender.name] = _killed(world, sandbox, contender, count)
        except Failed as failure:
            say(f"{contender.name}: FAILED {failure}")
            continue
        say(f"killed at half: {contender.name}: {found[contender.name]}")
    return found


def _killed(world: World, sandbox: Sandbox, contender: Contender, count: int) -> dict[str, Any]:
    crm = write_crm(world.home / f"crm-{count}.db", count)
    fresh = contender.fresh(world)
    arguments = {
        "url": sandbox.url,
        "token": sandbox.token,
        "crm": str(crm),
        "threads": THREADS,
        "limit": None,
        **fresh,
    }
    if contender.ledger:
        arguments |= {"timeout": 5, "settle": 5, "lease": 10}  # how long a rerun waits; the defaults are 30, 60 and 120
    sandbox.begin(latency=LATENCY)
    child = world.start(contender.call, arguments)
    with crash_safe(child):
        sandbox.wait_for(count // 2, child.process)
        if child.process.poll() is not None:
            raise Failed(f"{contender.call} ended before it could be killed: {child.result()}")
        child.kill()
    if contender.call.endswith(":http"):
        world.run("benchmarks.contenders.in_airflow:finished", {"state": fresh["state"]})
    at_kill = sandbox.created()
    again = world.run(contender.call, arguments)
    emails = [customer["email"] for customer in sandbox.customers()]
    return {
        "records": count,
        "at_kill": at_kill,
        "duplicates": len(emails) - len(set(emails)),
        "lost": count - len(set(emails)),
        "rerun_seconds": again["seconds"],
    }
