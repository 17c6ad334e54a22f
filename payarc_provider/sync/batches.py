"""The input as batches of records: read, mapped, checked by the rules, and free of repetition within a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from payarc_provider.sync.records import Record, RecordReader, share_of
from payarc_provider.sync.sources import Place, Source

_FIRST = 64  # records
_REMEMBERED = 8  # batches; no more than two or three hold records that are still to be sent


class Batches:
    """Cuts a source into batches, the first ones small, so that sending begins while others are still claimed.

    :param size: records per batch; repetition is looked for among at least so many
    :param partition: (i, n): only share i of n
    :param after: the place behind which to begin, as ``place_before`` gave it; None for the source's beginning
    """

    def __init__(
        self,
        source: Source,
        reader: RecordReader,
        size: int,
        partition: tuple[int, int] | None = None,
        after: Place | None = None,
    ) -> None:
        self.total = source.total() if partition is None and after is None else None
        self.read = 0
        self.repeated = 0
        self._source = source
        self._after = after
        self._reader = reader
        self._size = size
        self._partition = partition
        self._begun: deque[tuple[int, Place | None]] = deque(maxlen=_REMEMBERED)
        self._place = after
        self._rows = (row for page in source.pages(after) for row in page)
        self._batches = self._cut()

    def next_batch(self) -> list[Record] | None:
        """The next batch, None at the end."""
        return next(self._batches, None)

    def place_before(self, index: int | None) -> Place | None:
        """Where to go on so that the record with this index is read again, if it is one of the latest.

        :param index: None to go on behind all that have been read
        :return: None for the source's beginning
        """
        if index is None:
            return self._place
        earlier = [place for first, place in self._begun if first <= index]
        return earlier[-1] if earlier else (self._begun[0][1] if self._begun else self._place)

    def _cut(self) -> Iterator[list[Record]]:
        batch: list[Record] = []
        first: dict[str, Record] = {}
        part = min(_FIRST, self._size)
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
            if len(batch) >= part:
                yield self._begin(batch, self._source.place(row, index + 1, self._after))
                batch = []
                if len(first) >= self._size:
                    first = {}
                part = min(2 * part, self._size)
        if batch:
            yield self._begin(batch, self._place)

    def _begin(self, batch: list[Record], its_end: Place | None) -> list[Record]:
        self._begun.append((batch[0].index, self._place))
        self._place = its_end
        return batch

    def _is_ours(self, row: object) -> bool:
        if self._partition is None:
            return True
        share, shares = self._partition
        return share_of(self._reader.key_of(row), shares) == share

    def _contradicts(self, record: Record) -> Record:
        columns = ",".join(self._reader.key_columns)
        text = "the same key came earlier in this batch with different data: make the key unique at the source"
        return Record(record.index, record.key, {}, record.digest, {columns: [text]}, unstorable=True)
