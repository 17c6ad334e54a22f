"""Running many histories, on several cores."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import time
from collections.abc import Iterator

from .mutants import MUTANTS
from .world import Tally, Violation, World, simulate

CHUNK = 2000
REPORT_EVERY = 50_000


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
