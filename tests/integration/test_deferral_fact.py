"""What a deferred run carries over to its next slice, in a fact of the ledger."""

from __future__ import annotations

import dataclasses

import pytest

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.deferral import MAX_FRUITLESS, CarryOver, CarryOverStore
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.settings import TaskIdentity

TASK = TaskIdentity("dag", "run", "task", -1, 2)
STARTED = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def ledger(database):
    made = Ledger(database.engine(), database.name())
    made.open()
    return made


def test_only_the_same_try_of_the_same_task_instance_reads_it(ledger):
    mine = CarryOverStore(ledger, TASK)
    carry_over = CarryOver(2, STARTED, 1.5, counts={"posts": 3})
    mine.save(carry_over)
    assert mine.load() == carry_over
    for changes in ({"try_number": 3}, {"map_index": 0}, {"run_id": "run 2"}, {"task_id": "task2"}, {"dag_id": "d2"}):
        assert CarryOverStore(ledger, dataclasses.replace(TASK, **changes)).load() is None
    carry_over.deferrals = 1
    mine.save(carry_over)
    assert mine.load() == carry_over
    mine.delete()
    assert mine.load() is None


def test_what_another_version_has_written_is_ignored(ledger):
    store = CarryOverStore(ledger, TASK)
    store.save(CarryOver(2, STARTED, 0.0))
    for text in ('{"try_number": 2, "later": true}', "[]", "nonsense"):
        ledger.replace_fact(next(iter(ledger.facts("deferred:"))), text)
        assert store.load() is None


def test_a_run_stops_when_slice_after_slice_gets_no_usable_response():
    carry_over = CarryOver(1, STARTED, 0.0)
    for _ in range(MAX_FRUITLESS):
        carry_over.note_deferral({}, responses=0, unknown=5)
    carry_over.note_deferral({}, responses=1, unknown=5)
    for _ in range(MAX_FRUITLESS):
        carry_over.note_deferral({}, responses=0, unknown=5)
    carry_over.note_deferral({}, responses=0, unknown=0)
    for _ in range(MAX_FRUITLESS):
        carry_over.note_deferral({}, responses=0, unknown=1)
    with pytest.raises(PayarcRunStopped, match="4 windows of its rate limit in a row"):
        carry_over.note_deferral({}, responses=0, unknown=1)
