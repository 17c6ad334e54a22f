"""What one slice of a deferred run leaves to the next: a place in the source, and a note in the ledger."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal

import pytest
import sqlalchemy as sa

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.batches import Batches
from payarc_provider.sync.deferral import MAX_FRUITLESS, Note, Notes, as_text
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.sources import DatabaseSource, ListSource

ROWS = [{"id": number, "email": f"j{number}@example.com"} for number in range(25)]
KEYLESS = {"id": None, "email": "nobody@example.com"}


def read_all(source, *, size=4, partition=None, after=None):
    reader = Batches(source, RecordReader("id", None, "secret"), size, partition, after)
    records = []
    while (batch := reader.next_batch()) is not None:
        records.append((batch, reader.place_before(batch[0].index), reader.place_before(None)))
    return records


@pytest.fixture(params=["list", "table", "query"])
def source(request, tmp_path):
    """25 rows and one without a key, as a list, a table and a query."""
    if request.param == "list":
        return ListSource([KEYLESS, *ROWS], "list")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/source.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE people (id INTEGER, email TEXT)")
        connection.execute(sa.text("INSERT INTO people VALUES (:id, :email)"), [*ROWS, KEYLESS])
    given = {"table_name": "people"} if request.param == "table" else {"sql": "SELECT id, email FROM people"}
    return DatabaseSource(engine, ["id"], None, name="source", page_size=7, **given)


@pytest.mark.parametrize("partition", [None, (1, 2)])
def test_reading_on_from_a_batchs_place_gives_that_batch_and_all_behind_it(source, partition):
    batches = read_all(source, partition=partition)
    keys = [record.key for batch, _, _ in batches for record in batch]
    assert len(keys) == len(set(keys)) == 26 if partition is None else 0 < len(keys) < 26
    begun = 0
    for batch, place, _ in batches:
        read = [record.key for again, _, _ in read_all(source, partition=partition, after=place) for record in again]
        assert read == (keys if place is None else keys[begun:])
        begun += len(batch)


def test_reading_on_behind_all_that_was_read_gives_the_rest(source):
    batches = read_all(source)
    for number, (_, _, place) in enumerate(batches[:-1]):
        if place is not None:
            again = read_all(source, after=place)
            assert [record.key for batch, _, _ in again for record in batch] == [
                record.key for batch, _, _ in batches[number + 1 :] for record in batch
            ]


def test_a_record_of_long_ago_is_left_to_the_last_reading():
    source = ListSource([{"id": number, "name": "John"} for number in range(100)], "list")
    reader = Batches(source, RecordReader("id", None, "secret"), 4)
    for _ in range(20):
        reader.next_batch()
    assert reader.place_before(0) == [48], "the first of the batches that are remembered"
    assert reader.place_before(70) == [68]


VALUES = [
    42,
    "42",
    "",
    Decimal("4.50"),
    uuid.UUID("2f5b6c1e-9d3a-4d5f-8a51-0f6d8f6f2b11"),
    datetime.date(2026, 1, 2),
    datetime.datetime(2026, 1, 2, 3, 4, 5, 678901),
    datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_place_comes_out_of_its_text_as_it_was(value):
    note = Note(1, "source", "then", 0.0, place=as_text([value, "x"]))
    assert note.values == [value, "x"]
    assert [type(one) for one in note.values] == [type(value), str]


@pytest.mark.parametrize("value", [1.5, b"42", True, None])
def test_a_place_that_text_cannot_tell_exactly_is_none(value):
    assert as_text([value]) is None


@pytest.fixture
def ledger(database):
    made = Ledger(database.engine(), database.name())
    made.open()
    return made


def test_a_note_is_read_by_the_same_try_of_the_same_task_over_the_same_source_only(ledger):
    mine = Notes(ledger, ("dag", "run", "task", -1))
    note = Note(2, "table people", "2026-01-01T00:00:00+00:00", 1.5, place=as_text([7]), counts={"posts": 3})
    mine.write(note)
    assert mine.read(2, "table people") == note
    assert mine.read(3, "table people") is None
    assert mine.read(2, "table others") is None
    for other in (("dag", "run", "task", 0), ("dag", "run 2", "task", -1), ("dag", "run", "task2", -1)):
        assert Notes(ledger, other).read(2, "table people") is None
    note.place = None
    mine.write(note)
    assert mine.read(2, "table people") == note
    mine.remove()
    assert mine.read(2, "table people") is None


def test_a_note_of_another_version_is_as_good_as_none(ledger):
    notes = Notes(ledger, ("dag", "run", "task", -1))
    notes.write(Note(1, "s", "then", 0.0))
    for text in ('{"try_number": 1, "source": "s", "later": true}', "[]", "nonsense"):
        ledger.replace_fact(next(iter(ledger.facts("deferred:"))), text)
        assert notes.read(1, "s") is None


def test_slices_that_get_nothing_but_unusable_answers_come_to_an_end():
    note = Note(1, "s", "then", 0.0)
    for _ in range(MAX_FRUITLESS):
        note.leave([1], answers=0, unknown=5)
    note.leave([1], answers=1, unknown=5)
    for _ in range(MAX_FRUITLESS):
        note.leave([1], answers=0, unknown=5)
    note.leave([1], answers=0, unknown=0)
    for _ in range(MAX_FRUITLESS):
        note.leave([1], answers=0, unknown=1)
    with pytest.raises(PayarcRunStopped, match="4 windows of its rate limit in a row"):
        note.leave([1], answers=0, unknown=1)
