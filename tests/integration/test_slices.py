"""The note that one slice of a deferred run leaves for the next."""

from __future__ import annotations

import pytest

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.deferral import MAX_FRUITLESS, Note, Notes
from payarc_provider.sync.ledger import Ledger


@pytest.fixture
def ledger(database):
    made = Ledger(database.engine(), database.name())
    made.open()
    return made


def test_only_the_same_try_of_the_same_task_over_the_same_source_reads_a_note(ledger):
    mine = Notes(ledger, ("dag", "run", "task", -1))
    note = Note(2, "table people", "2026-01-01T00:00:00+00:00", 1.5, counts={"posts": 3})
    mine.write(note)
    assert mine.read(2, "table people") == note
    assert mine.read(3, "table people") is None
    assert mine.read(2, "table others") is None
    for other in (("dag", "run", "task", 0), ("dag", "run 2", "task", -1), ("dag", "run", "task2", -1)):
        assert Notes(ledger, other).read(2, "table people") is None
    note.deferrals = 1
    mine.write(note)
    assert mine.read(2, "table people") == note
    mine.remove()
    assert mine.read(2, "table people") is None


def test_a_note_of_another_version_is_ignored(ledger):
    notes = Notes(ledger, ("dag", "run", "task", -1))
    notes.write(Note(1, "s", "then", 0.0))
    for text in ('{"try_number": 1, "source": "s", "later": true}', "[]", "nonsense"):
        ledger.replace_fact(next(iter(ledger.facts("deferred:"))), text)
        assert notes.read(1, "s") is None


def test_a_run_stops_when_slice_after_slice_gets_no_usable_answer():
    note = Note(1, "s", "then", 0.0)
    for _ in range(MAX_FRUITLESS):
        note.leave(answers=0, unknown=5)
    note.leave(answers=1, unknown=5)
    for _ in range(MAX_FRUITLESS):
        note.leave(answers=0, unknown=5)
    note.leave(answers=0, unknown=0)
    for _ in range(MAX_FRUITLESS):
        note.leave(answers=0, unknown=1)
    with pytest.raises(PayarcRunStopped, match="4 windows of its rate limit in a row"):
        note.leave(answers=0, unknown=1)
