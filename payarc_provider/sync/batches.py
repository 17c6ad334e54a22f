"""Reads a source in batches of checked records, without repeated records."""

from __future__ import annotations

from collections.abc import Iterator

from payarc_provider.sync.keys import partition_of
from payarc_provider.sync.records import Record, RecordReader
from payarc_provider.sync.sources import Source

_FIRST_BATCH = 64  # records


class Batches:
    """Cuts a source into batches. The first ones are small, so that sending begins while later records are claimed.

    A record with the same key and the same data as an earlier one is skipped and counted. A record with the same key
    and different data is rejected. Each record is compared with at least the ``size`` records before it.

    :param size: records per batch
    :param partition: (i, n) takes partition i of n only; None takes all records
    """

    def __init__(
        self, source: Source, reader: RecordReader, size: int, partition: tuple[int, int] | None = None
    ) -> None:
        self.total = source.total() if partition is None else None
        """Number of records in the source; None if unknown."""
        self.records_read = 0
        """Number of records read so far, repeated ones included."""
        self.repeated = 0
        """Number of records skipped because the same record had been read before."""
        self._reader = reader
        self._size = size
        self._partition = partition
        self._rows = (row for page in source.pages() for row in page)
        self._batches = self._cut()

    def next_batch(self) -> list[Record] | None:
        """The next batch, or None after the last one."""
        return next(self._batches, None)

    def _cut(self) -> Iterator[list[Record]]:
        batch: list[Record] = []
        first_by_key: dict[str, Record] = {}
        size = min(_FIRST_BATCH, self._size)
        for index, row in enumerate(self._rows):
            if self._partition is not None and not self._is_in_partition(row, *self._partition):
                continue
            record = self._reader.read(index, row)
            self.records_read += 1
            earlier = first_by_key.setdefault(record.key, record) if record.key is not None else record
            if earlier is not record:
                if earlier.digest == record.digest:
                    self.repeated += 1
                    continue
                record = self._with_key_conflict(record)
            batch.append(record)
            if len(batch) >= size:
                yield batch
                batch = []
                if len(first_by_key) >= self._size:
                    first_by_key = {}
                size = min(2 * size, self._size)
        if batch:
            yield batch

    def _is_in_partition(self, row: object, partition: int, partitions: int) -> bool:
        return partition_of(self._reader.key_of(row), partitions) == partition

    def _with_key_conflict(self, record: Record) -> Record:
        columns = ",".join(self._reader.key_columns)
        text = "the same key came earlier in this batch with different data: make the key unique at the source"
        return Record(record.index, record.key, {}, record.digest, {columns: [text]}, unstorable=True)
