"""``make bench``: run all phases and write the tables."""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import known, limits, load, privacy, report, speed, unknown, updates, write_back
from benchmarks.imports import import_time
from benchmarks.roster import DLT, DRT, DRT_LEDGER, HTTP, OPERATOR, POOL, POSTGRESQL_LEDGER, ROSTER, SDK, SQLITE_LEDGER
from benchmarks.sandbox import Sandbox
from benchmarks.world import World, say

CHECKOUT = Path(__file__).resolve().parent.parent
PHASES = ("sandbox", "imports", "speed", "killed", "unknown", "privacy", "changes", "write_back", "known", "limits")


@dataclass(frozen=True)
class Size:
    """The size of a run."""

    command: str
    rounds: int
    records: int
    killed: int
    written_back: int
    known: int
    known_rounds: int
    limited: int
    shared: int
    windows: int
    first_run: int


FULL = Size("make bench", 3, 4000, 400, 50_000, 1_000_000, 2, 300, 1500, 4, 200_000)
QUICK = Size("make bench QUICK=1", 1, 200, 100, 5_000, 20_000, 1, 90, 180, 2, 2_000)


def main() -> None:
    """Measure, write the page and print the tables."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the database server stops, too
    size = QUICK if options.quick else FULL
    kept = CHECKOUT / ".bench" / ("quick.json" if options.quick else "results.json")
    kept.parent.mkdir(exist_ok=True)
    results: dict[str, Any] = {"speed": {}, "killed": {}, "limits": {}}
    if kept.exists() and options.only:
        results = json.loads(kept.read_text())
    with World() as world, Sandbox() as sandbox:
        for phase, work in _phases(world, sandbox, size).items():
            if phase not in (options.only or PHASES):
                continue
            say(f"--- {phase}")
            results[phase] = work()
            results["when"] = f"{datetime.date.today():%d %B %Y}"
            kept.write_text(json.dumps(results, indent=1))
    _write(results, size, options.docs or (kept.parent / "quick" if options.quick else CHECKOUT / "docs"))


def _phases(world: World, sandbox: Sandbox, size: Size) -> dict[str, Callable[[], dict[str, Any]]]:
    limited = (POOL, SQLITE_LEDGER, POSTGRESQL_LEDGER, SDK, DLT, DRT)
    jobs: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        (contender.name, lambda contender=contender: limits.one_process(world, contender, size.limited))  # type: ignore[misc]
        for contender in limited
    ]
    jobs.append(("workers", lambda: limits.workers(world, size.shared)))
    jobs.append(("per user", lambda: limits.one_process(world, SQLITE_LEDGER, size.limited, "user")))
    jobs.append(("workers, per user", lambda: limits.workers(world, size.shared, "user")))
    jobs.append(("deferring", lambda: limits.deferring(world, size.windows)))
    jobs.append(("first run, few", lambda: limits.first_run_memory(world, 200)))
    jobs.append(("first run, many", lambda: limits.first_run_memory(world, size.first_run)))
    return {
        "sandbox": lambda: load.most(world, sandbox, 3),
        "imports": lambda: import_time(world, 7),
        "speed": lambda: speed.speed(world, sandbox, ROSTER, size.records, size.rounds),
        "killed": lambda: speed.killed(world, sandbox, ROSTER, size.killed),
        "unknown": lambda: unknown.unknown(world, sandbox, (*limited, DRT_LEDGER, HTTP), size.killed),
        "privacy": lambda: privacy.privacy(world, sandbox, (POOL, OPERATOR, SDK, DLT, DRT, HTTP)),
        "changes": lambda: updates.changes(world, sandbox, size.records, size.rounds, size.killed),
        "write_back": lambda: write_back.both(world, size.written_back, size.rounds),
        "known": lambda: known.reruns(world, sandbox, size.known, 200, size.known_rounds),
        "limits": lambda: limits.all_at_once(jobs),
    }


def _write(results: dict[str, Any], size: Size, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.md").write_text(report.page(results, size.command))
    report.plot(results, folder / "images" / "benchmarks.svg")
    print(report.table(results), report.checks_table(results), sep="\n\n")
    say(f"written: {folder / 'benchmarks.md'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a small run to see that everything works; its figures mean little"
    )
    parser.add_argument("--only", nargs="+", choices=PHASES, help="measure only these phases again")
    parser.add_argument("--docs", type=Path, help="the folder to write to (docs; with --quick .bench/quick)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
