"""Reruns over a million known records, compared with a bare loop, and their peak memory."""

from __future__ import annotations

import datetime
import itertools
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.people import change_some, people, write_crm
from benchmarks.roster import SQLITE_LEDGER
from benchmarks.sandbox import Sandbox
from benchmarks.speed import median_spread
from benchmarks.world import World, say
from payarc_provider.api.token import Identity
from payarc_provider.sync.account import find_account
from payarc_provider.sync.fingerprints import as_column, fingerprints
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.records import RecordReader

PAGE = 2000


def bare_loop(count: int) -> dict[str, Any]:
    """Only normalize, validate and hash this many records. The time to create their rows is not counted."""
    reader, rows, spent, index = RecordReader("id", None, "bench"), people(count, as_written=True), 0.0, 0
    while chunk := list(itertools.islice(rows, PAGE)):
        start = time.monotonic()
        for row in chunk:
            reader.read(index, row)
            index += 1
        spent += time.monotonic() - start
    return {"seconds": spent}


def fill(file: str, count: int, account: str, source: str) -> None:
    """Create a SQLite ledger as a run that created ``count`` customers would leave it."""
    ledger = Ledger(sa.create_engine(f"sqlite:///{file}"))
    ledger.open()
    reader, now = RecordReader("id", None, ledger.ledger_id), datetime.datetime.now(datetime.UTC)
    table = ledger.schema.rows.name
    ledger.database.engine.dispose()
    columns = (
        "account, key, state, customer_id, digest, fingerprints, source, attempt, run_id, inserted_at, claimed_at, "
        "resolved_at"
    )
    moment = now.replace(tzinfo=None).isoformat(sep=" ")
    rows = (
        (
            account,
            record.key,
            "created",
            f"known{index:011}",
            record.digest,
            as_column(fingerprints(ledger.ledger_id, record.fields)),
            source,
            1,
            "earlier",
            moment,
            moment,
            moment,
        )
        for index, record in enumerate(
            reader.read(index, row) for index, row in enumerate(people(count, as_written=True))
        )
    )
    database = sqlite3.connect(file)
    with database:
        database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * 12)})", rows)
    database.close()


def _remember_merchant(file: str, sandbox: Sandbox) -> str:
    environment = sandbox.origin.partition("//")[2]
    me = Identity.of(environment, None, sandbox.token)
    ledger = Ledger(sa.create_engine(f"sqlite:///{file}"))
    ledger.open()
    account = find_account(ledger, me, lambda customer_id: {})
    ledger.database.engine.dispose()
    return account


def reruns(world: World, sandbox: Sandbox, records: int, few: int, rounds: int) -> dict[str, Any]:
    """Run over many known records, 2 % of them changed, and over few."""
    found = {count: _known(world, sandbox, count, rounds) for count in (few, records)}
    many = found[records]
    return {
        "records": records,
        "few": few,
        "changed": many["changed"],
        "posts": many["posts"],
        "requests": many["requests"],
        "rate": median_spread(many["rates"]),
        "bare": median_spread(many["bare"]),
        "ratio": median_spread([rate / bare for rate, bare in zip(many["rates"], many["bare"], strict=True)]),
        "rss_peak": max(many["rss_peak"]),
        "rss_peak_few": min(found[few]["rss_peak"]),
        "cpu_per_1000": statistics.median(many["cpu"]) / records * 1000,
        "update": median_spread(many["update"]),
    }


def _known(world: World, sandbox: Sandbox, count: int, rounds: int) -> dict[str, Any]:
    sandbox.begin(latency=0.0)
    fresh = SQLITE_LEDGER.fresh(world)
    file = str(Path(fresh["state"]) / "ledger.db")
    crm = write_crm(Path(fresh["state"]) / "crm.db", count, as_written=True)
    account = _remember_merchant(file, sandbox)
    fill(file, count, account, "table people of crm")
    arguments = {
        "url": sandbox.url,
        "token": sandbox.token,
        "crm": str(crm),
        "threads": 16,
        "limit": None,
        **fresh,
    }
    update = _update_beside_report(world, arguments, count, rounds)
    changed = change_some(crm, 50)
    say(f"known: {count} rows are in the ledger, {changed} of them have changed since")
    figures: dict[str, Any] = {"rates": [], "bare": [], "rss_peak": [], "cpu": [], "changed": changed, "update": update}
    for turn in range(rounds):
        bare = world.run("benchmarks.known:bare_loop", {"count": count})
        mine = world.run(SQLITE_LEDGER.call, {**arguments, "run_id": f"run-{turn}"})
        summary = mine["said"]
        assert (summary["known"], summary["changed"]) == (count, changed), summary
        figures["bare"].append(count / bare["said"]["seconds"])
        figures["rates"].append(count / mine["seconds"])
        figures["rss_peak"].append(mine["rss_peak"])
        figures["cpu"].append(mine["cpu"])
        say(
            f"known: {count} in {mine['seconds']:.1f} s ({figures['rates'][-1]:.0f}/s), "
            f"bare loop {figures['bare'][-1]:.0f}/s, {mine['rss_peak']:.0f} MB"
        )
    stats = sandbox.stats()
    return figures | {"posts": stats["posts"]["received"], "requests": sum(stats["requests"].values())}


def _update_beside_report(world: World, arguments: dict[str, Any], count: int, rounds: int) -> list[float]:
    """The speed with ``on_changed="update"``, divided by that with ``"report"``, if nothing has changed."""
    ratios = []
    for turn in range(rounds):
        seconds = {}
        for on_changed in ("report", "update"):
            done = world.run(
                SQLITE_LEDGER.call, {**arguments, "on_changed": on_changed, "run_id": f"{on_changed}-{turn}"}
            )
            assert done["said"]["known"] == count, done["said"]
            seconds[on_changed] = done["seconds"]
        ratios.append(seconds["report"] / seconds["update"])
        say(f"known: on_changed=update at {ratios[-1]:.3f} of the speed with report")
    return ratios
