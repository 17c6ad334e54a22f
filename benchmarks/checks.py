"""The requirements that the results must meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.roster import OPERATOR, POSTGRESQL_LEDGER, SQLITE_LEDGER

Results = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """A requirement; ``held`` is None if it was not measured."""

    what: str
    wanted: str
    measured: str
    held: bool | None


def checks(results: Results) -> list[Check]:
    """Return all requirements, in the order of the table."""
    return [*_speed(results), *_changes(results), *_limits(results), *_known(results), *_rest(results)]


def _speed(results: Results) -> Iterator[Check]:
    for contender in (SQLITE_LEDGER, POSTGRESQL_LEDGER):
        if found := results["speed"].get(contender.name):
            ratio, posts = found["ratio"]["median"], found["posts_per_customer"]
            yield Check(
                f"speed compared with the bare pool: {contender.name}, {found['records']:,} records",
                "≥ 0.95",
                f"{ratio:.3f}",
                ratio >= 0.95,
            )
            yield Check(f"POSTs per customer: {contender.name}", "1.000", f"{posts:.3f}", posts == 1)


def _changes(results: Results) -> Iterator[Check]:
    found = results.get("changes", {"speed": {}, "killed": {}})
    for name, fast in found["speed"].items():
        ratio, patches = fast["ratio"]["median"], fast["patches"]
        yield Check(
            f"changes compared with a bare pool of PATCHes: {name}, {fast['records']:,} records",
            "≥ 0.95",
            f"{ratio:.3f}",
            ratio >= 0.95,
        )
        yield Check(f"PATCHes per changed record: {name}", "1.000", f"{patches:.3f}", patches == 1)
    for name, done in found["killed"].items():
        if name in (SQLITE_LEDGER.name, POSTGRESQL_LEDGER.name):
            yield Check(
                f"changes, killed halfway and run again with newer data: {name}",
                "0 old values, 0 duplicates",
                f"{done['old']}, {done['duplicates']}",
                done["old"] == done["duplicates"] == 0,
            )


def _limits(results: Results) -> Iterator[Check]:
    for name, counted in ((SQLITE_LEDGER.name, ""), ("per user", ", counted with all other requests")):
        if one := results["limits"].get(name):
            yield Check(
                f"30 per 5 s, one process, {one['records']} records{counted}: time compared with the minimum",
                "≤ 1.03, 429s ≤ 1 %",
                f"{one['ratio']:.3f}, {one['limited']:.1%}",
                one["ratio"] <= 1.03 and one["limited"] <= 0.01,
            )
    for name, counted in (("workers", ""), ("workers, per user", ", counted with all other requests")):
        if four := results["limits"].get(name):
            yield Check(
                f"30 per 5 s, {four['workers']} processes on one token, {four['records']:,} records{counted}",
                "≤ 1.05, 429s ≤ 5 % after the first window",
                f"{four['ratio']:.3f}, {four['limited_later']:.1%}",
                four["ratio"] <= 1.05 and four["limited_later"] <= 0.05,
            )
    if slot := results["limits"].get("deferring"):
        yield Check(
            f"`deferrable=True` at 30 a minute, {slot['windows']} windows: worker slot held by our code, per window",
            "≤ 6 s",
            f"{slot['per_window']:.2f} s",
            slot["per_window"] <= 6 and slot["customers"] == slot["records"],
        )


def _known(results: Results) -> Iterator[Check]:
    if found := results.get("known"):
        rate, ratio = found["rate"]["median"], found["ratio"]["median"]
        yield Check(
            f"{found['records']:,} known records, {found['changed']:,} of them changed",
            "≥ 50,000/s, or ≥ 0.4 of a bare loop",
            f"{rate:,.0f}/s, {ratio:.2f} of {found['bare']['median']:,.0f}/s",
            rate >= 50_000 or ratio >= 0.4,
        )
        yield Check("POSTs for them", "0", str(found["posts"]), found["posts"] == 0)
        update = found["update"]["median"]
        yield Check(
            f'{found["records"]:,} known records with `on_changed="update"`: speed compared with `"report"`',
            "≥ 0.98",
            f"{update:.3f}",
            update >= 0.98,
        )
        more = found["rss_peak"] - found["rss_peak_few"]
        yield Check(f"peak memory above that of {found['few']} records", "≤ 60 MB", f"{more:.0f} MB", more <= 60)
    for name, done in results.get("write_back", {}).items():
        yield Check(
            f"ids written back into {done['rows']:,} rows: {name}",
            "≥ 10,000/s",
            f"{done['rate']:,.0f}/s, {done['ratio']:.2f} of a bare `executemany`",
            done["rate"] >= 10_000,
        )
    few, many = results["limits"].get("first run, few"), results["limits"].get("first run, many")
    if few and many:
        more = many["rss_peak"] - few["rss_peak"]
        yield Check(
            f"peak memory of a first run of {many['records']:,} above one of {few['records']}",
            "≤ 60 MB",
            f"{more:.0f} MB",
            more <= 60 and many["customers"] == many["records"],
        )


def _rest(results: Results) -> Iterator[Check]:
    if found := results.get("imports"):
        seconds = found["median"] * 1000
        yield Check(
            "importing the operator, beyond Airflow's BaseOperator", "≤ 30 ms", f"{seconds:.0f} ms", seconds <= 30
        )
    for name, done in results["killed"].items():
        if name in (SQLITE_LEDGER.name, POSTGRESQL_LEDGER.name):
            yield Check(
                f"killed halfway and run again: {name}",
                "0 duplicates, 0 lost",
                f"{done['duplicates']}, {done['lost']}",
                done["duplicates"] == done["lost"] == 0,
            )
    for name, done in results.get("unknown", {}).items():
        if name in (SQLITE_LEDGER.name, POSTGRESQL_LEDGER.name):
            yield Check(
                f"unknown outcomes: {name}",
                "0 duplicates, 0 lost, 1 run",
                f"{done['duplicates']}, {done['lost']}, {done['runs']}",
                done["duplicates"] == done["lost"] == 0 and done["done"] and done["runs"] == 1,
            )
    if written := results.get("privacy", {}).get(OPERATOR.name):
        places = [written[place] for place in ("output", "files", "airflow")]
        people = max(place["people"] for place in places)
        tokens = sum(place["token"] for place in places)
        yield Check(
            f"people whose data is written, places with the token: {OPERATOR.name}",
            "0, 0",
            f"{people}, {tokens}",
            people == tokens == 0,
        )
