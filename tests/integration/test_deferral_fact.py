"""What a deferred run carries over to its next slice, in a fact of the ledger."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
from engine_bench import QUICK

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.deferral import KEPT_SECONDS, MAX_FRUITLESS, CarryOver, CarryOverStore, Deferral
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


def test_what_runs_that_were_never_resumed_have_left_is_deleted_after_a_week(ledger):
    stores = [CarryOverStore(ledger, dataclasses.replace(TASK, run_id=run_id)) for run_id in ("old", "late", "broken")]
    for store, age in zip(stores, (KEPT_SECONDS + 60, KEPT_SECONDS - 60, 0), strict=True):
        store.save(CarryOver(2, STARTED, 0.0, saved_at=time.time() - age))
    broken = CarryOverStore(ledger, dataclasses.replace(TASK, run_id="another format"))
    broken.save(CarryOver(2, STARTED, 0.0))
    CarryOverStore(ledger, TASK).delete_abandoned()
    assert [store.load() is None for store in stores] == [True, False, False]
    assert broken.load() is None


def test_what_is_carried_over_has_no_key_of_a_record(bench, payarc_sandbox):
    payarc_sandbox.settings(rate_limit=2, rate_window=60.0)
    people = [{"id": f"key-of-{number}", "name": "John Smith"} for number in range(6)]
    outcome = bench.run(people, dataclasses.replace(QUICK, defer_after=1.0))
    assert isinstance(outcome.error, Deferral)
    [text] = bench.ledger.facts("deferred:").values()
    assert "key-of" in str(bench.database.rows(bench.table))
    assert json.loads(text)["deferrals"] == 1
    assert "key-of" not in text
    assert "John" not in text


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
