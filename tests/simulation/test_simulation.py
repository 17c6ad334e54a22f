"""The protocol in 4,000 simulated histories, and the simulation itself: every rule taken out must be noticed."""

from __future__ import annotations

import pytest

from .mutants import MUTANTS
from .runs import find, run_chunk
from .world import World

SEED = 8500


def test_no_history_breaks_an_invariant():
    tally, violation = run_chunk(SEED, 4_000)
    print(f"seeds {SEED} to {SEED + 3_999}: {tally}")
    assert violation is None, violation
    assert tally.full > 3_900
    assert tally.customers > 4_000


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_rule_taken_out_is_noticed(rule):
    found = find(rule, SEED, 10_000)
    assert found is not None, f"10,000 histories from seed {SEED} do not show it"


def test_a_seed_always_gives_the_same_history():
    told = []
    for _ in range(2):
        history = World(42, tell=True)
        history.run()
        told.append(history.told)
    assert told[0] == told[1]
    assert len(told[0]) > 20
