"""Sources of records: what every source has, and a list; and the batches that are cut from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.keys import partition_of
from payarc_provider.sync.records import Record, RecordReader
from payarc_provider.sync.seen_keys import SeenKeys, short_hash

PAGE = 2000  # rows
MAX_SOURCE = 500  # characters

SourceRow = dict[str, Any]


class Source(Protocol):
    """Yields rows in pages. ``name`` says where they come from, for messages and, by default, for the ledger."""

    name: str

    def total(self) -> int | None:
        """The number of rows, or None if it would cost too much to find out."""

    def columns(self) -> Sequence[str]:
        """All columns, even those that the rows leave out; empty if every row has its own."""

    def pages(self) -> Iterator[Sequence[object]]:
        """All rows, page by page."""


class ListSource:
    """Records in memory, in the order of the list.

    :param rows: the records, usually dicts
    :param name: where they come from
    """

    def __init__(self, rows: Sequence[object], name: str) -> None:
        self.name = name
        self._rows = rows

    def total(self) -> int | None:
        """The number of records."""
        return len(self._rows)

    def columns(self) -> Sequence[str]:
        """None: every record has its own."""
        return ()

    def pages(self) -> Iterator[Sequence[object]]:
        """All records, page by page."""
        for start in range(0, len(self._rows), PAGE):
            yield self._rows[start : start + PAGE]


_FIRST_BATCH = PAGE // 32  # records


def check_source(name: object, argument: str = "source") -> str:
    """Return the name of a source, if it can be one.

    :raises PayarcConfigError: if it is no text, is empty or too long, or has blanks or line breaks that nobody sees
    """
    problem = ""
    if not isinstance(name, str):
        problem = f"is a {type(name).__name__}, not text"
    elif name.strip() in ("", "None"):
        problem = f'is "{name.strip()}"'
    elif name != name.strip() or not name.isprintable():
        problem = "has spaces around it or control characters"
    elif len(name) > MAX_SOURCE:
        problem = f"has {len(name)} characters, but at most {MAX_SOURCE} are allowed"
    if problem:
        raise PayarcConfigError(f'{argument}: {problem}; give a name that never changes, such as "crm people"')
    return str(name)


class Batches:
    """Cuts a source into batches. The first ones are small, so that sending begins while later records are claimed.

    A record with the same key and the same data as an earlier one of the run is skipped and counted. A record with the
    same key and different data is rejected, wherever the first one stands.

    :param size: records per batch
    :param partition: (i, n) takes partition i of n only; None takes all records
    :param on_repeat: called with each record that is skipped because it repeats an earlier one
    """

    def __init__(
        self,
        source: Source,
        reader: RecordReader,
        size: int,
        partition: tuple[int, int] | None = None,
        on_repeat: Callable[[Record], None] = lambda record: None,
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
        self._on_repeat = on_repeat
        self._source = source
        self._seen = SeenKeys()
        self._batches = self._cut()

    def next_batch(self) -> list[Record] | None:
        """The next batch, or None after the last one."""
        return next(self._batches, None)

    def _cut(self) -> Iterator[list[Record]]:
        batch: list[Record] = []
        size = min(_FIRST_BATCH, self._size)
        self._reader.find_lookalikes(self._source.columns())
        for index, row in enumerate(row for page in self._source.pages() for row in page):
            if self._partition is not None and not self._is_in_partition(row, *self._partition):
                continue
            batch.append(self._reader.read(index, row))
            self.records_read += 1
            if len(batch) >= size:
                yield from self._without_repeats(batch)
                batch = []
                size = min(2 * size, self._size)
        yield from self._without_repeats(batch)

    def _without_repeats(self, batch: list[Record]) -> Iterator[list[Record]]:
        """The batch without records that have been read before, if any are left; contradictions are rejected."""
        # Of records with one key, the first stays.
        first = {record.key: record for record in reversed(batch) if record.key is not None}
        repeats = self._seen.note({key: record.digest for key, record in first.items()})
        if batch and not repeats and len(first) == len(batch):  # as nearly always
            yield batch
            return
        left: list[Record] = []
        for record in batch:
            original, earlier = first.get(record.key or ""), repeats.get(record.key or "")
            if original is None or (original is record and earlier is None):
                left.append(record)
            elif short_hash(record.digest) == (short_hash(original.digest) if earlier is None else earlier):
                self.repeated += 1
                self._on_repeat(record)
            else:
                left.append(self._with_key_conflict(record))
        if left:
            yield left

    def _is_in_partition(self, row: object, partition: int, partitions: int) -> bool:
        return partition_of(self._reader.key_of(row), partitions) == partition

    def _with_key_conflict(self, record: Record) -> Record:
        columns = ",".join(self._reader.key_columns)
        text = "an earlier record of this run has the same key and different data: make the key unique at the source"
        return Record(record.index, record.key, {}, record.digest, {columns: [text]}, unstorable=True)
