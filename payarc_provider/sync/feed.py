"""The input as batches of records: read, mapped, checked by the rules, and free of repetition within a batch."""

from __future__ import annotations

from collections.abc import Iterator

from payarc_provider.sync.records import Reader, Record, share_of
from payarc_provider.sync.sources import Source


class BatchReader:
    """Cuts a source into batches.

    :param size: records per batch
    :param partition: (i, n): only share i of n
    """

    def __init__(self, source: Source, reader: Reader, size: int, partition: tuple[int, int] | None = None) -> None:
        self.total = source.total() if partition is None else None
        self.read = 0
        self.repeated = 0
        self._reader = reader
        self._size = size
        self._partition = partition
        self._rows = (row for page in source.pages() for row in page)
        self._batches = self._cut()

    def next_batch(self) -> list[Record] | None:
        """The next batch, None at the end."""
        return next(self._batches, None)

    def _cut(self) -> Iterator[list[Record]]:
        batch: list[Record] = []
        first: dict[str, Record] = {}
        for index, row in enumerate(self._rows):
            if not self._is_ours(row):
                continue
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

    def _is_ours(self, row: object) -> bool:
        if self._partition is None:
            return True
        share, shares = self._partition
        return share_of(self._reader.key_of(row), shares) == share

    def _contradicts(self, record: Record) -> Record:
        columns = ",".join(self._reader.key_columns)
        text = "the same key came earlier in this batch with different data: make the key unique at the source"
        return Record(record.index, record.key, {}, record.digest, {columns: [text]}, unstorable=True)
