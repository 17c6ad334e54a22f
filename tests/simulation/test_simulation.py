"""4,000 simulated histories of the protocol, and a test of the simulation: it must notice each rule that is removed."""

from __future__ import annotations

import pytest

from .mutants import MUTANTS
from .runs import find, run_chunk
from .world import World

SEED = 8500


def test_no_history_violates_an_invariant():
    tally, violation = run_chunk(SEED, 4_000)
    print(f"seeds {SEED} to {SEED + 3_999}: {tally}")
    assert violation is None, violation
    assert tally.full > 3_900
    assert tally.customers > 4_000


@pytest.mark.parametrize("rule", MUTANTS)
def test_the_removal_of_a_rule_is_noticed(rule):
    found = find(rule, SEED, 10_000)
    assert found is not None, f"no violation in 10,000 histories from seed {SEED}"


def test_a_seed_always_gives_the_same_history():
    traces = []
    for _ in range(2):
        history = World(42, traced=True)
        history.run()
        traces.append(history.trace)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20
