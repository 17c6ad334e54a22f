"""The input as batches of records: read, mapped, checked by the rules, and free of repetition within a batch."""

from __future__ import annotations

from collections.abc import Iterator

from payarc_provider.sync.records import Reader, Record
from payarc_provider.sync.sources import Source


class BatchReader:
    """Cuts a source into batches.

    :param size: records per batch
    """

    def __init__(self, source: Source, reader: Reader, size: int) -> None:
        self.total = source.total()
        self.read = 0
        self.repeated = 0
        self._reader = reader
        self._size = size
        self._rows = (row for page in source.pages() for row in page)
        self._batches = self._cut()

    def next_batch(self) -> list[Record] | None:
        """The next batch, None at the end."""
        return next(self._batches, None)

    def _cut(self) -> Iterator[list[Record]]:
        batch: list[Record] = []
        first: dict[str, Record] = {}
        for index, row in enumerate(self._rows):
            record = self._reader.read(index, row)
            self.read += 1
            earlier = first.setdefault(record.key, record) if record.key is not None else record
            if earlier is not record:
                if earlier.digest == record.digest:
                    self.repeated += 1
                    continue
                record = self._contradicts(record)
            batch.append(record)
            if len(batch) >= self._size:
                yield batch
                batch, first = [], {}
        if batch:
            yield batch

    def _contradicts(self, record: Record) -> Record:
        columns = ",".join(self._reader.key_columns)
        text = "the same key came earlier in this batch with different data: make the key unique at the source"
        return Record(record.index, record.key, {}, record.digest, {columns: [text]}, unstorable=True)
