"""A run leaves the garbage collector as it was."""

from __future__ import annotations

import gc

import pytest

from payarc_provider.sync.runtime import collecting_less_garbage


@pytest.fixture(autouse=True)
def collector():
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def run_that_fails():
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold() == (20_000, 10, 10)
    raise ZeroDivisionError


def test_what_is_there_already_is_passed_over_until_the_run_ends_or_fails():
    gc.set_threshold(700, 10, 10)
    with pytest.raises(ZeroDivisionError), collecting_less_garbage():
        run_that_fails()
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == (700, 10, 10)


def test_what_somebody_else_has_frozen_stays_so():
    gc.freeze()
    frozen = gc.get_freeze_count()
    with collecting_less_garbage():
        assert gc.get_freeze_count() <= frozen
    assert gc.get_freeze_count() > 0


def test_a_collector_that_is_switched_off_stays_so():
    gc.set_threshold(0)
    with collecting_less_garbage():
        assert gc.get_threshold()[0] == 0
