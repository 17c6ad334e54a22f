"""A source is cut into batches, without repeated records and for one partition only if asked."""

from __future__ import annotations

import pytest

from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.sources import Batches, ListSource


def person(number):
    return {"id": number, "email": f"j{number}@example.com"}


def batches_of(rows, size=4, partition=None):
    return Batches(ListSource(rows, "list"), RecordReader("id", None, "secret"), size, partition)


def read_all(batches):
    found = []
    while (batch := batches.next_batch()) is not None:
        found.append(batch)
    return found


def keys(batches):
    return [record.key for batch in read_all(batches) for record in batch]


def test_the_first_batches_are_small():
    batches = batches_of([person(number) for number in range(1000)], size=300)
    assert [len(batch) for batch in read_all(batches)] == [62, 124, 248, 300, 266]
    assert (batches.total, batches.records_read, batches.repeated) == (1000, 1000, 0)


def test_an_empty_source_has_no_batches():
    assert read_all(batches_of([])) == []


def test_a_repeated_record_is_skipped_and_counted():
    batches = batches_of([person(1), person(2), person(1), {"id": "2", "email": "j2@example.com"}])
    assert keys(batches) == ["1", "2"]
    assert (batches.records_read, batches.repeated) == (4, 2)


def test_another_record_with_the_same_key_is_rejected_and_not_stored():
    first, contradicting = read_all(batches_of([person(1), {"id": 1, "email": "other@example.com"}]))[0]
    assert (first.errors, first.unstorable) == ({}, False)
    assert (contradicting.key, contradicting.fields, contradicting.unstorable) == ("1", {}, True)
    assert "make the key unique" in contradicting.errors["id"][0]


def test_a_repeated_record_is_skipped_wherever_the_first_one_stands():
    batches = batches_of([person(number % 1000) for number in range(2500)], size=50)
    assert keys(batches) == [str(number) for number in range(1000)]
    assert (batches.records_read, batches.repeated) == (2500, 1500)


@pytest.mark.parametrize("size", [1, 7, 500])
def test_a_record_that_contradicts_an_earlier_one_is_rejected_wherever_that_stands(size):
    rows = [{"id": number % 1000, "email": f"p{number}@example.com"} for number in range(2000)]
    records = [record for batch in read_all(batches_of(rows, size=size)) for record in batch]
    assert [record.index for record in records] == list(range(2000)), "none is lost"
    assert [record.index for record in records if not record.errors] == list(range(1000))
    assert all(record.unstorable for record in records[1000:])


def test_a_record_is_compared_with_the_first_one_of_its_key():
    one, other = person(1), {"id": 1, "email": "other@example.com"}
    for size in (1, 2, 3, 5):
        batches = batches_of([one, other, one, other, one], size=size)
        records = [record for batch in read_all(batches) for record in batch]
        assert [(record.index, bool(record.errors)) for record in records] == [(0, False), (1, True), (3, True)]


def test_keys_are_the_same_whether_they_are_numbers_or_text():
    rows = [{"id": 42, "email": "a@example.com"}, *map(person, range(100, 300)), {"id": "42", "email": "b@example.com"}]
    records = [record for batch in read_all(batches_of(rows)) for record in batch]
    assert [record.key for record in records if record.errors] == ["42"]


def test_records_without_a_key_are_never_repeated():
    batches = batches_of([person(None), person(None)])
    assert keys(batches) == [None, None]
    assert batches.repeated == 0


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_the_partitions_share_the_records_between_them(partitions):
    rows = [person(number) for number in [None, *range(100)]]
    parts = [batches_of(rows, partition=(number, partitions)) for number in range(partitions)]
    found = [keys(part) for part in parts]
    assert sorted(map(str, (key for part in found for key in part))) == sorted(str(row["id"]) for row in rows)
    assert all(found)
    assert [part.total for part in parts] == [None] * partitions
