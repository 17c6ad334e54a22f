"""Changed records: speed with a latency of 50 ms, and old values after a SIGKILL halfway."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.people import email_of, write_crm, write_generation
from benchmarks.roster import DLT_CHANGES, DRT_CHANGES, POOL_CHANGES, POSTGRESQL_LEDGER, SQLITE_LEDGER, Contender
from benchmarks.sandbox import Sandbox
from benchmarks.speed import LATENCY, THREADS, median_spread
from benchmarks.world import Failed, World, crash_safe, say

PATCH = "PATCH /customers/{id}"
LATE, LATE_EVERY = 3.0, 10
UPDATE = {"on_changed": "update", "version": "updated_at"}


def changes(world: World, sandbox: Sandbox, records: int, rounds: int, killed: int) -> dict[str, Any]:
    """Return the figures of each tool."""
    ours = (SQLITE_LEDGER, POSTGRESQL_LEDGER)
    speed = {contender.name: _speed(world, sandbox, contender, records, rounds) for contender in ours}
    return {
        "speed": speed,
        "pool": median_spread([rate for done in speed.values() for rate in done.pop("bare")]),
        "killed": _all_killed(world, sandbox, (POOL_CHANGES, *ours, DLT_CHANGES, DRT_CHANGES), killed),
    }


def _speed(world: World, sandbox: Sandbox, contender: Contender, records: int, rounds: int) -> dict[str, Any]:
    """Change every customer in each round, first with the bare pool and then with this provider."""
    crm, ids, mine = _created(world, sandbox, contender, records)
    pool = _arguments(sandbox, crm) | POOL_CHANGES.fresh(world)
    rates, bare_rates, patches, cpu = [], [], [], []
    for turn in range(rounds):
        write_generation(crm, 2 * turn + 1, ids)
        bare_rates.append(records / world.run(POOL_CHANGES.call, pool)["seconds"])
        write_generation(crm, 2 * turn + 2, ids)
        before = sandbox.stats()["requests"][PATCH]
        done = world.run(contender.call, mine | UPDATE | {"run_id": f"change-{turn}"})
        assert done["said"]["updated"] == records, done["said"]
        assert _old(sandbox, ids, 2 * turn + 2) == 0
        patches.append((sandbox.stats()["requests"][PATCH] - before) / records)
        rates.append(records / done["seconds"])
        cpu.append(done["cpu"] / records * 1000)
        say(f"changes {turn + 1}/{rounds}: {contender.name}: {rates[-1]:.0f}/s, the bare pool {bare_rates[-1]:.0f}/s")
    return {
        "records": records,
        "rate": median_spread(rates),
        "ratio": median_spread([rate / bare for rate, bare in zip(rates, bare_rates, strict=True)]),
        "bare": bare_rates,
        "cpu_per_1000": median_spread(cpu),
        "patches": max(patches),
    }


def _all_killed(world: World, sandbox: Sandbox, roster: Sequence[Contender], records: int) -> dict[str, Any]:
    found = {}
    for contender in roster:
        try:
            found[contender.name] = _killed(world, sandbox, contender, records)
        except Failed as failure:
            say(f"{contender.name}: FAILED {failure}")
            continue
        say(f"changes, killed at half: {contender.name}: {found[contender.name]}")
    return found


def _killed(world: World, sandbox: Sandbox, contender: Contender, records: int) -> dict[str, Any]:
    """Kill a run halfway while some requests take long, change the people again, and run again to the end."""
    crm, ids, mine = _created(world, sandbox, contender if contender.ours else SQLITE_LEDGER, records)
    arguments = _arguments(sandbox, crm)
    if contender.ours:
        arguments = mine | UPDATE | {"timeout": 5, "settle": 5, "lease": 10}
    else:
        arguments |= contender.fresh(world)
    write_generation(crm, 1, ids)
    sandbox.fail({"kind": "hang_before", "method": "*", "every": LATE_EVERY, "seconds": LATE})
    before = _sent(sandbox)
    child = world.start(contender.call, arguments)
    with crash_safe(child):
        while _sent(sandbox) - before < records // 2 and child.process.poll() is None:
            time.sleep(0.02)
        if child.process.poll() is not None:
            raise Failed(f"{contender.call} ended before it could be killed: {child.result()}")
        child.kill()
    write_generation(crm, 2, ids)
    sandbox.fail()
    again = world.run(contender.call, arguments)
    time.sleep(LATE)  # requests of the killed process may still be carried out
    return {
        "records": records,
        "old": _old(sandbox, ids, 2),
        "duplicates": sandbox.created() - records,
        "rerun_seconds": again["seconds"],
    }


def _created(
    world: World, sandbox: Sandbox, contender: Contender, records: int
) -> tuple[Path, dict[int, str], dict[str, Any]]:
    """Create the customers with a ledger; returns the CRM, the customers' ids, and the arguments of later runs."""
    sandbox.begin()
    mine = contender.fresh(world)
    crm = write_crm(Path(mine["state"]) / "crm.db", records)
    mine = _arguments(sandbox, crm) | mine
    world.run(contender.call, mine)
    sandbox.set(latency=LATENCY)
    return crm, {_number(customer): customer["customer_id"] for customer in sandbox.customers()}, mine


def _arguments(sandbox: Sandbox, crm: Path) -> dict[str, Any]:
    return {"url": sandbox.url, "token": sandbox.token, "crm": str(crm), "threads": THREADS, "limit": None}


def _number(customer: Mapping[str, Any]) -> int:
    return int(customer["email"].split(".")[1].partition("@")[0])


def _sent(sandbox: Sandbox) -> int:
    return int(sum(sandbox.stats()["requests"].values()))


def _old(sandbox: Sandbox, ids: Mapping[int, str], generation: int) -> int:
    """How many of these customers do not have the values of this generation."""
    has = {customer["customer_id"]: customer["email"] for customer in sandbox.customers()}
    return sum(has[customer_id] != email_of(number, generation) for number, customer_id in ids.items())
