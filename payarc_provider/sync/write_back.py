"""Writes ids back: which rows lack the id of their customer, and when they get it. Nothing is kept for the next run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from payarc_provider.exceptions import PayarcError, PayarcSourceError
from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.id_column import IdColumn, MissingId, SourceLocked, Written
from payarc_provider.sync.ledger.database import chunks
from payarc_provider.sync.patience import LONGEST_PAUSE
from payarc_provider.sync.records import Errors, Record, StoredRows
from payarc_provider.sync.results import ResultSink, Status
from payarc_provider.sync.state import RunState

log = logging.getLogger(__name__)

BATCH = 1000  # keys per transaction
GATHER_SECONDS = 1.0

InSourceThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class MissingIds:
    """Passes results on, and collects the rows that lack the id of their customer.

    :param results: what the results are passed on to
    """

    def __init__(self, results: ResultSink) -> None:
        self._results = results
        self._waiting: list[MissingId] = []
        self._repeats: dict[str, list[StoredRows]] = {}

    def accept(self, record: Record, customer_id: str, status: Status, *, changed: bool, stale: bool = False) -> None:
        """The record has a customer."""
        self._results.accept(record, customer_id, status, changed=changed, stale=stale)
        if record.rows is not None:
            self._add(record.key or "", record.rows, customer_id)

    def reject(self, record: Record, errors: Errors, *, new: bool) -> None:
        """The record is rejected, so its rows stay as they are."""
        self._results.reject(record, errors, new=new)

    def note_repeat(self, record: Record) -> None:
        """A record is skipped because it repeats an earlier one. For the database, its rows may have another key."""
        if record.rows is not None and not record.errors:
            self._repeats.setdefault(record.key or "", []).append(record.rows)

    def take(self) -> list[MissingId]:
        """The next batch, empty if nothing is waiting."""
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        return batch

    def repeated_keys(self) -> list[str]:
        """The keys of the repeats."""
        return list(self._repeats)

    def accept_repeats(self, customer_ids: dict[str, str]) -> None:
        """The customers of repeats are known.

        :param customer_ids: key → customer id
        """
        for key, customer_id in customer_ids.items():
            for rows in self._repeats.pop(key, ()):
                self._add(key, rows, customer_id)

    def _add(self, key: str, rows: StoredRows, customer_id: str) -> None:
        if rows.lacking(customer_id):
            self._waiting.append(MissingId(key, rows, customer_id))


class WriteBack:
    """Writes the missing ids, in the thread that reads the source, so that reading waits for writing.

    :param keys_in_source: those of some keys that the source still has; it reads the source once more
    """

    def __init__(
        self,
        state: RunState,
        missing: MissingIds,
        column: IdColumn,
        in_source_thread: InSourceThread,
        keys_in_source: Callable[[Collection[str]], set[str]],
    ) -> None:
        self._state = state
        self._missing = missing
        self._column = column
        self._in_source_thread = in_source_thread
        self._keys_in_source = keys_in_source
        self._not_found: set[str] = set()
        self._failed = False
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Write what is missing every second, until cancelled."""
        while True:
            await self._state.runtime.sleep(GATHER_SECONDS)
            await self._write_waiting()

    async def finish(self) -> None:
        """Write everything that is still missing. An error stops the run."""
        state = self._state
        await self._write_waiting()
        for keys in chunks(self._missing.repeated_keys()):
            if state.stop:
                return
            rows = await state.transact(lambda ledger, keys=keys: ledger.known(state.me, keys))  # type: ignore[misc]
            self._missing.accept_repeats({key: row.customer_id for key, row in rows.items()})
            await self._write_waiting()
        if self._not_found and not state.stop:
            await self._check_not_found()

    async def _write_waiting(self) -> None:
        async with self._writing:
            while not self._failed and (batch := self._missing.take()):
                try:
                    await self._write(batch)
                except PayarcError as error:
                    self._failed = True
                    if self._state.stop and isinstance(error, SourceLocked):  # the next run writes them
                        log.warning("%s", error)
                    else:
                        self._state.halt(error)

    async def _write(self, batch: list[MissingId]) -> None:
        """Write one batch; try again while the table is locked or its database is unavailable."""
        state = self._state
        give_up_at, pause = state.runtime.now() + state.settings.ledger_patience, 0.1
        while True:
            reach("before_write_back")
            try:
                written: Written = await self._in_source_thread(lambda: self._column.write(batch))
            except SourceLocked as error:
                if state.stop or state.runtime.now() > give_up_at:
                    raise
                if pause > 1:
                    log.warning("%s. Trying again", error)
                await state.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
                continue
            reach("after_write_back")
            state.counts["written_back"] += written.rows
            self._not_found.update(written.not_found)
            return

    async def _check_not_found(self) -> None:
        """Stop the run if a row that was not found by its key is still there. It may have been deleted meanwhile."""
        there = await self._in_source_thread(lambda: self._keys_in_source(self._not_found))
        if there:
            rows = "1 row" if len(there) == 1 else f"{len(there)} rows"
            self._state.halt(
                PayarcSourceError(
                    f"write_back: {rows} of the table could not be found by the key that was read, so the id is "
                    "missing there. Use a key of another type, or remove write_back"
                )
            )
