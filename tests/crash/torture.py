"""Runs random cases until a number of processes have been killed. The first violation of the guarantee ends it.

Between the attempts, the records change: most runs create and update customers at the same time.

Run it in the folder ``tests``: ``python -m crash.torture --kills 500``. It prints its seed; ``--seed`` repeats the same
cases, and ``--case`` one of them. The timing differs from run to run, so a failure may take several tries to repeat.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from payarc_provider import __version__

from .attempts import Attempt
from .cases import DATABASES, PARALLEL, POINTS, SEED, UPDATE_POINTS, Lab
from .changing import ChangingWorld, first_generation
from .conftest import database_urls
from .world import MachineTooSlow, Verdict, World, people, twins

MAX_ATTEMPTS = 15


@dataclass
class Figures:
    """The counts of one case, or of all."""

    numbers: Counter[str] = field(default_factory=Counter)
    killed_at: Counter[str] = field(default_factory=Counter)
    killed_on: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """The counts as text."""
        counted = ", ".join(f"{number} {name}" for name, number in self.numbers.items())
        at = ", ".join(f"{name} {number}" for name, number in sorted(self.killed_at.items()))
        on = ", ".join(f"{name} {number}" for name, number in sorted(self.killed_on.items()))
        return [counted, f"killed at: {at}", f"killed with the ledger in: {on}"]


class RandomCase:
    """A case whose settings, faults and kills are random.

    :param databases: the databases that are available here
    """

    def __init__(self, seed: int, number: int, databases: list[str]) -> None:
        self.name = f"case{number}"
        self._numbers = Random(f"{seed}/torture/{number}")
        self._database = self._numbers.choice(databases)
        self._twins = self._numbers.random() < 0.15  # they do not change
        self._suspended: list[Attempt] = []
        self._ordered = True
        self._stopped: list[tuple[str, Attempt]] = []

    def run(self, lab: Lab, figures: Figures) -> None:
        """Run the case, check the result, and add to the figures."""
        numbers = self._numbers
        count = numbers.randint(10, 50)
        records = twins(count) if self._twins else first_generation(count)
        owners = numbers.choice((1, 1, 1, 2, 2, 3))
        plans = [self._plan() for _ in range(owners)]
        settings = {
            "timeout": 0.8,
            "settle": numbers.choice((1.0, 1.0, 2.5)),
            "lease": numbers.choice((1.3, 1.6, 2.0)),
            "concurrency": numbers.randint(1, 6),
            "batch_size": numbers.choice((3, 8, 20, 100)),
            "reference": numbers.random() < 0.8,
            "margin": numbers.choice((3.0, 300.0)),
            "held_patience": 20.0,
            "on_changed": "update",
            "version": None if self._twins else numbers.choice((None, "v")),
        }
        sandbox = {
            "latency": numbers.choice((0.0, 0.02, 0.05)),
            "jitter": numbers.choice((0.0, 0.05)),
            "shuffle_same_second": numbers.random() < 0.5,
            "time_style": numbers.choice(("unix", "guide")),
            "id_style": numbers.choice(("customer_id", "guide")),
            "create_status": numbers.choice((200, 201)),
            "rate_limit": numbers.choice((None, None, 60)),
            "rate_window": 1.0,
        }
        source, seed = numbers.random() < 0.5, numbers.randrange(10**6)
        world: World = lab.world(
            self.name,
            self._database,
            records,
            kind=World if self._twins else ChangingWorld,
            table_source=source,
            seed=seed,
            settings=settings,
            sandbox=sandbox,
        )
        faults = self._faults(0.6 * settings["settle"])
        complete_first = numbers.random() < 0.75
        # Otherwise the run that claims last wins, whichever data it has.
        self._ordered = settings["version"] is not None or owners == 1
        with world:
            self._seed_older(world, sandbox)
            if complete_first:
                self._complete(world)
            world.sandbox.faults(faults)
            with ThreadPoolExecutor(owners) as pool:
                list(pool.map(lambda plan: self._follow(world, plan), plans))
            judging = {"interchangeable": True} if self._twins else {"ordered": self._ordered}
            # If two runs hold some of several equal records each, neither can tell whose customers it finds.
            with ThreadPoolExecutor(1 if self._twins else owners) as pool:
                done = list(pool.map(lambda _: self._complete(world), plans))
            verdict = world.check(*done, **judging)
            self._count(world, verdict, figures)
            figures.numbers["cases"] += 1
            figures.numbers["successful runs"] += len(done)
            figures.numbers["records"] += len(world.records)
            figures.numbers["customers"] += len(world.customers())

    def _plan(self) -> list[dict[str, Any]]:
        """How the attempts of one task are stopped, one after the other, before one may complete."""
        numbers, plan = self._numbers, []
        points = POINTS if self._twins else POINTS + 3 * UPDATE_POINTS
        for _ in range(numbers.randint(1, 5) if self._twins else numbers.randint(2, 7)):
            how = numbers.choices(("at", "any time", "suspended", "terminated"), (7, 2, 2, 1))[0]
            often = numbers.choice((1, 1, 2, 3, numbers.randint(1, 25)))
            after = numbers.choice((0.0, 0.0, numbers.uniform(0, 0.08)))
            step = {"how": how, "stop_at": numbers.choice(points), "stop_nth": often, "stop_after": after}
            step["seconds"] = numbers.uniform(0, 4.0 if how == "suspended" else 1.5)
            change = {"numbers": Random(numbers.random()), "share": numbers.choice((0.1, 0.5, 1.0))}
            plan.append(step | {"change": change | {"new": numbers.choice((0, 2, 8))}})
        return plan

    def _faults(self, late: float) -> list[dict[str, Any]]:
        numbers = self._numbers
        share = numbers.choice((0.0, 0.01, 0.02, 0.04))
        kinds = ("lost_after", "status_after", "html_after", "cut_after", "garbage_after", "hang_after")
        kinds += ("lost_before", "status_before", "html_before", "cut_before", "hang_before", "late_commit")
        rules = [
            {"kind": kind, "method": method, "probability": share, "seconds": late}
            for kind in kinds
            for method in ("POST", "PATCH")
        ]
        reading = ("lost_before", "status_before", "garbage_before", "rate_limited")
        return rules + [{"kind": kind, "method": "GET", "probability": share / 2, "seconds": 1} for kind in reading]

    def _seed_older(self, world: World, sandbox: dict[str, Any]) -> None:
        """Add customers created an hour ago, some equal to records: no look-up may mistake them for new ones."""
        numbers = self._numbers
        others = people(numbers.choice((0, 5, 130)), numbers, tag="old")
        doubles = numbers.sample(world.records, numbers.choice((0, 5)))
        if sandbox["time_style"] == "guide":
            doubles = []  # without a time zone, only a person can tell which of two equal customers is the new one
            if sandbox["shuffle_same_second"]:
                others = others[:5]  # and the order of several pages proves nothing
        older = [*others, *doubles]
        # With times without a zone, more than a page within the newest five seconds would make every look-up fail.
        each_second = 20 if sandbox["time_style"] == "unix" else 5
        hour_ago = time.time() - 3600
        world.sandbox.seed({**one, "created_at": hour_ago + index // each_second} for index, one in enumerate(older))

    def _complete(self, world: World) -> Attempt:
        return world.run_until_done(MAX_ATTEMPTS)

    def _follow(self, world: World, plan: list[dict[str, Any]]) -> None:
        """Run a task as Airflow does: again after a failure, and later with changed records."""
        for step in plan:
            change = step.pop("change")
            if isinstance(world, ChangingWorld):
                world.change(**change)
            attempt = self._stop(world, **step)
            self._stopped.append((step["stop_at"] if step["how"] == "at" else step["how"], attempt))
            if attempt.exit == 0 and isinstance(world, ChangingWorld) and self._ordered:
                world.expect_values_of(attempt)
            if attempt.exit == 0 and self._twins:
                return

    def _stop(self, world: World, how: str, seconds: float, **point: Any) -> Attempt:
        if how == "at":
            return world.run(**point)
        if how == "suspended":
            attempt = world.start(**point, stop_by="SIGSTOP")
            self._suspended.append(attempt)
            if attempt.wait_until_stopped():
                time.sleep(seconds)
                attempt.resume()
            attempt.wait()
            return attempt
        attempt = world.start()
        attempt.wait(seconds)
        attempt.signal(signal.SIGKILL if how == "any time" else signal.SIGTERM)
        attempt.wait()
        return attempt

    def _count(self, world: World, verdict: Verdict, figures: Figures) -> None:
        for where, attempt in self._stopped:
            if attempt.killed:
                figures.killed_at[where] += 1
                figures.killed_on[self._database] += 1
        stats = world.sandbox.stats()
        posts = stats["posts"]
        killed = sum(attempt.killed for attempt in world.attempts)
        figures.numbers["SIGKILLs"] += killed
        figures.numbers["of them with changing records"] += 0 if self._twins else killed
        figures.numbers["suspensions"] += len(self._suspended)
        figures.numbers["attempts"] += len(world.attempts)
        waited = sum("still claimed by other runs" in attempt.error for attempt in world.attempts)
        figures.numbers["runs that waited for others in vain"] += waited
        figures.numbers["POSTs"] += posts["received"]
        figures.numbers["lost responses"] += posts["lost"]
        figures.numbers["PATCHes"] += stats["requests"].get("PATCH /customers/{id}", 0)
        figures.numbers["updates"] += len(world.history.changes)
        figures.numbers["duplicates"] += verdict.duplicates
        figures.numbers["lost"] += verdict.lost
        figures.numbers["customers with old values"] += verdict.old
        figures.numbers["reordered"] += verdict.reordered


def torture(lab: Lab, databases: list[str], seed: int, *, kills: int, minutes: float, only: int | None) -> Figures:
    """Run cases in parallel until enough processes are killed, or the time is over.

    :raises AssertionError: describes the first violation
    """
    figures, until = Figures(), time.monotonic() + 60 * minutes
    cases = (RandomCase(seed, number, databases) for number in ([only] if only is not None else itertools.count()))
    running: dict[Future[None], RandomCase] = {}
    lock = threading.Lock()

    def run(case: RandomCase) -> None:
        own = Figures()
        try:
            case.run(lab, own)
        except MachineTooSlow as error:
            own = Figures(Counter({"cases void because the machine was too slow": 1}))
            print(f"{case.name} proves nothing: {str(error).splitlines()[0]}", flush=True)
        with lock:
            figures.numbers.update(own.numbers)
            figures.killed_at.update(own.killed_at)
            figures.killed_on.update(own.killed_on)

    with ThreadPoolExecutor(PARALLEL) as pool:
        while True:
            more = figures.numbers["SIGKILLs"] < kills and time.monotonic() < until
            while more and len(running) < PARALLEL and (case := next(cases, None)) is not None:
                running[pool.submit(run, case)] = case
            if not running:
                return figures
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                case = running.pop(future)
                if error := future.exception():
                    raise AssertionError(f"--seed {seed} --case {case.name.removeprefix('case')}: {error}") from error
            print(f"{figures.numbers['cases']} cases, {figures.numbers['SIGKILLs']} SIGKILLs", flush=True)


def test_torture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No duplicate, no lost customer, no old value and no change that arrives late."""
    urls = database_urls(request)
    databases = [name for name in DATABASES if "://" in urls[name]]
    print(f"\nseed {SEED}, airflow-provider-payarc {__version__}, Python {platform.python_version()}, "
          f"SQLAlchemy {sa.__version__}, {os.cpu_count()} processors, {PARALLEL} parallel cases")  # fmt: skip
    print("\n".join(f"no {name}: {urls[name]}" for name in DATABASES if name not in databases))
    lab = Lab(tmp_path_factory.mktemp("torture"), urls)
    limits = {name: os.environ.get(f"PAYARC_TORTURE_{name.upper()}") for name in ("kills", "minutes", "case")}
    started = time.monotonic()
    try:
        figures = torture(
            lab,
            databases,
            SEED,
            kills=int(limits["kills"] or sys.maxsize),
            minutes=float(limits["minutes"] or 600),
            only=int(limits["case"]) if limits["case"] else None,
        )
    finally:
        lab.close()
    figures.numbers["seconds"] = round(time.monotonic() - started)
    print("\n".join(figures.lines()))
    # Each case has checked this; here it is checked for the sums.
    violations = ("duplicates", "lost", "customers with old values", "reordered")
    assert not any(figures.numbers[name] for name in violations)
    assert figures.numbers["customers"] == figures.numbers["records"]


def main() -> int:
    """Run pytest on this file, with the options in environment variables."""
    parser = argparse.ArgumentParser(prog="python -m crash.torture", description=__doc__)
    parser.add_argument(
        "--kills", type=int, help="number of SIGKILLs after which to end (default: 500, unless --minutes is given)"
    )
    parser.add_argument("--minutes", type=float, help="minutes after which to end")
    parser.add_argument("--seed", type=int, help="seed of a run to repeat")
    parser.add_argument("--case", type=int, help="number of the only case to run")
    options = parser.parse_args()
    if options.kills is None and options.minutes is None:
        options.kills = 500
    variables = {f"PAYARC_TORTURE_{name.upper()}": getattr(options, name) for name in ("kills", "minutes", "case")}
    variables["PAYARC_SEED"] = options.seed
    environment = os.environ | {name: str(value) for name, value in variables.items() if value is not None}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", __file__]
    return subprocess.call(command, env=environment)


if __name__ == "__main__":
    sys.exit(main())
