"""Runs many histories, on several cores, and sums up what happened in them."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .invariants import Violation
from .mutants import MUTANTS
from .world import World

CHUNK = 2000
REPORT_EVERY = 50_000


@dataclass
class Tally:
    """Sums over many histories. ``full`` counts those with at least two owners, 30 events and a fault."""

    histories: int = 0
    events: int = 0
    faults: int = 0
    owners: int = 0
    customers: int = 0
    full: int = 0
    deferrals: int = 0
    combined: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, history: World) -> None:
        self.histories += 1
        self.events += history.scheduler.events
        self.faults += history.faults
        self.owners += history.owners
        self.deferrals += history.deferrals
        self.combined.update(history.combined)
        self.customers += sum(not customer.noise for customer in history.payarc.customers)
        self.full += history.scheduler.events >= 30 and history.faults >= 1 and history.owners >= 2

    def add(self, other: Tally) -> None:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def simulate(seed: int, world: type[World] = World, tally: Tally | None = None) -> None:
    """Run the history of a seed.

    :raises Violation: with the seed and the history's trace
    """
    history = world(seed)
    try:
        history.run()
    except AssertionError:
        traced = world(seed, traced=True)
        try:
            traced.run()
        except AssertionError as again:
            problem = again
        raise Violation(f"seed {seed}: {problem}\n" + "\n".join(traced.trace or [])) from None
    if tally is not None:
        tally.count(history)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Disable the engine's log lines, and collect garbage less often, since reference counts free most of it."""
    threshold = gc.get_threshold()
    gc.set_threshold(20 * threshold[0], *threshold[1:])
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        gc.set_threshold(*threshold)


def run_chunk(first: int, count: int) -> tuple[Tally, str | None]:
    tally = Tally()
    with quiet():
        for seed in range(first, first + count):
            try:
                simulate(seed, tally=tally)
            except Violation as violation:
                return tally, str(violation)
    return tally, None


def find(rule: str, first: int, most: int) -> tuple[int, str] | None:
    """Number of histories until the removal of a rule is noticed, and the violation; None if it is not noticed."""
    with quiet(), MUTANTS[rule]() as world:
        for number in range(most):
            history: World = world(first + number)
            try:
                history.run()
            except AssertionError as violation:
                return number + 1, str(violation)
    return None


def run_all(seed: int, histories: int, jobs: int) -> int:
    started, total = time.monotonic(), Tally()
    chunks = [(first, min(CHUNK, seed + histories - first)) for first in range(seed, seed + histories, CHUNK)]
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=20) as pool:
        for tally, violation in pool.imap(_run_chunk, chunks):
            total.add(tally)
            if violation:
                print(violation)
                return 1
            if total.histories % REPORT_EVERY == 0 or total.histories == histories:
                minutes = (time.monotonic() - started) / 60
                print(f"{total.histories} histories from seed {seed} in {minutes:.1f} min: 0 violations", flush=True)
    print(
        f"{total.events} events, {total.faults} faults, {total.owners} attempts, {total.deferrals} deferrals, "
        f"{total.customers} customers created; {total.full} histories with at least 2 owners, 30 events and a fault"
    )
    for (call, trouble), count in sorted(total.combined.items()):
        print(f"{count:8d}  {trouble}: {call}")
    return 0


def _run_chunk(chunk: tuple[int, int]) -> tuple[Tally, str | None]:
    return run_chunk(*chunk)


def find_all(seed: int) -> int:
    missed = 0
    for rule in MUTANTS:
        found = find(rule, seed, 10_000)
        missed += found is None
        print(f"{'missed' if found is None else f'found in {found[0]:5d}'}  without: {rule}", flush=True)
    print(f"{len(MUTANTS) - missed} of {len(MUTANTS)} mutants found within 10,000 histories from seed {seed}")
    return missed
