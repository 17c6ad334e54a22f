"""Many histories, on several cores."""

from __future__ import annotations

import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from .mutants import MUTANTS
from .world import Tally, Violation, World, simulate

CHUNK = 2000


def quiet() -> None:
    """Killed processes leave coroutines behind; what those say when they are collected means nothing."""
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None


def run_chunk(first: int, count: int) -> tuple[Tally, str | None]:
    quiet()
    tally = Tally()
    for seed in range(first, first + count):
        try:
            simulate(seed, tally=tally)
        except Violation as violation:
            return tally, str(violation)
    return tally, None


def find(rule: str, first: int, most: int) -> tuple[int, str] | None:
    """In which history a mutant is found: how many histories it took, and what was seen."""
    quiet()
    with MUTANTS[rule]() as world:
        for number in range(most):
            history: World = world(first + number)
            try:
                history.run()
            except AssertionError as violation:
                return number + 1, str(violation)
    return None


def run_all(seed: int, histories: int, jobs: int) -> int:
    started, total = time.monotonic(), Tally()
    with ProcessPoolExecutor(jobs, max_tasks_per_child=50) as pool:
        firsts = range(seed, seed + histories, CHUNK)
        for tally, violation in pool.map(run_chunk, firsts, [min(CHUNK, seed + histories - first) for first in firsts]):
            total.add(tally)
            if violation:
                print(violation)
                pool.shutdown(cancel_futures=True)
                return 1
    minutes = (time.monotonic() - started) / 60
    print(
        f"{total.histories} histories from seed {seed} in {minutes:.1f} min with {jobs} jobs: 0 violations; "
        f"{total.events} events, {total.faults} faults, {total.owners} attempts, {total.customers} customers created; "
        f"{total.full} of them with at least 2 owners, 30 events and a fault"
    )
    return 0


def find_all(seed: int) -> int:
    missed = 0
    for rule in MUTANTS:
        found = find(rule, seed, 10_000)
        missed += found is None
        print(f"{'missed' if found is None else f'found in {found[0]:5d}'}  without: {rule}", flush=True)
    print(f"{len(MUTANTS) - missed} of {len(MUTANTS)} mutants found within 10,000 histories from seed {seed}")
    return missed
