"""Requests that PayArc carries out and whose responses never arrive, or arrive as a proxy's error page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.people import write_crm
from benchmarks.roster import HTTP, Contender
from benchmarks.sandbox import Sandbox
from benchmarks.speed import LATENCY, THREADS
from benchmarks.world import Failed, World, say

EACH, EVERY, RUNS = 5, 8, 12
"""Responses of each kind that fail, one POST in ``EVERY``; and the maximum number of runs."""


def unknown(world: World, sandbox: Sandbox, roster: Sequence[Contender], records: int) -> dict[str, Any]:
    """Return duplicate and lost customers of each tool when it has run until it succeeds."""
    found = {}
    for contender in roster:
        found[contender.name] = _unknown(world, sandbox, contender, min(records, contender.most or records))
        say(f"unknown outcomes: {contender.name}: {found[contender.name]}")
    return found


def _unknown(world: World, sandbox: Sandbox, contender: Contender, records: int) -> dict[str, Any]:
    arguments = contender.fresh(world)
    state = arguments["state"]
    crm = write_crm(Path(state) / "crm.db", records)
    arguments |= {"url": sandbox.url, "token": sandbox.token, "crm": str(crm), "threads": THREADS, "limit": None}
    if contender.ledger:
        arguments |= {"timeout": 5, "settle": 5, "lease": 10}  # how long a look-up waits
    sandbox.begin(latency=LATENCY)
    sandbox.fail(
        {"kind": "lost_after", "every": 2 * EVERY, "times": EACH},
        {"kind": "html_after", "skip": EVERY // 2, "every": 2 * EVERY, "times": EACH},
    )
    runs, done = 0, False
    while runs < RUNS and not done:
        runs += 1
        try:
            world.run(contender.call, arguments)
            done = True
        except Failed:
            if contender is HTTP:
                world.run("benchmarks.contenders.in_airflow:finished", {"state": state})
    sandbox.fail()
    emails = [customer["email"] for customer in sandbox.customers()]
    return {
        "records": records,
        "runs": runs,
        "done": done,
        "duplicates": len(emails) - len(set(emails)),
        "lost": records - len(set(emails)),
    }
