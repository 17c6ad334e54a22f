"""The engine: claim, send, record, look up, until every record is done.

Nothing here knows Airflow, HTTP or SQL, so that the same code runs against the real world and in a simulation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from payarc_provider.exceptions import PayarcError, PayarcLedgerError, PayarcRunStopped
from payarc_provider.sync.claim import Claimer, renew_leases
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.existing import ExistingCustomers
from payarc_provider.sync.ledger import LedgerLost, LedgerUnavailable
from payarc_provider.sync.lookup import LookUp
from payarc_provider.sync.patience import task_stopped
from payarc_provider.sync.records import Record
from payarc_provider.sync.results import SILENT, Reporter
from payarc_provider.sync.send import Sender
from payarc_provider.sync.state import RunState
from payarc_provider.sync.update import Updater
from payarc_provider.sync.wording import clock_time, counted
from payarc_provider.sync.write_back import WriteBack

log = logging.getLogger(__name__)

TERMINATION_SECONDS = 3.0  # Airflow kills a task that has not ended 5 s after SIGTERM
LOCKED_PAUSE = 0.5
MAX_ASKED = 500  # records whose owners are named
SHOWN_RUNS = 3
RELEASE_SECONDS = 5.0
RELEASE_SECONDS_WHEN_TERMINATED = 1.0  # after TERMINATION_SECONDS, whatever the ledger does


class Engine:
    """The main loop of a run. Create and use it in the same event loop.

    :param write_back: writes ids into the source; None writes none
    """

    def __init__(self, state: RunState, reporter: Reporter = SILENT, write_back: WriteBack | None = None) -> None:
        self._state = state
        self._reporter = reporter
        self._write_back = write_back
        self._updater = Updater(state)
        self._sender = Sender(state, self._updater)
        self._look_up = LookUp(state, self._sender)
        existing = ExistingCustomers(state) if state.settings.match_existing else None
        self._is_checked = False
        self._claimer = Claimer(state, self._sender, self._updater, existing, self._look_up.resolve_open_rows)

    @property
    def usable_responses(self) -> int:
        """The number of usable responses that PayArc has given."""
        return self._sender.usable_responses

    def terminate(self) -> None:
        """End the run within seconds: send nothing more, record the responses that arrive in time, release all rows."""
        self._state.halt(task_stopped(), within=TERMINATION_SECONDS)

    async def run(self) -> None:
        """Process the whole input. Returns only if every accepted record has its id.

        Whether it returns or raises, results are recorded and rows are released as far as possible.

        :raises Deferral: the rate limit allows no request for ``defer_after`` or longer
        :raises PayarcError: the error that stopped the run
        """
        state = self._state
        background = [
            self._sender.recorder.run(),
            renew_leases(state),
            state.leave_in_time(),
            *(self._sender.run() for _ in range(state.settings.concurrency)),
            *([self._write_back.run()] if self._write_back else []),
        ]
        tasks = [asyncio.ensure_future(part) for part in (self._main(), *background)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # a background task ends only by failing
        except LedgerLost as error:
            state.halt(error)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._release()

    async def _main(self) -> None:
        state = self._state
        try:
            await self._process_input()
        except PayarcError as error:  # requests in flight are still awaited below
            state.halt(error)
        await self._drain()
        await self._check_rows()
        if self._write_back and not state.must_leave:
            await self._write_back.finish()
        if state.stop:
            raise state.stop
        self._look_up.raise_if_unresolved()
        self._updater.raise_if_unresolved()
        if state.allowance is not None:
            state.allowance.check_complete()

    async def _process_input(self) -> None:
        """Read the input, claim what has no customer part by part, then finish the records that are still open."""
        state = self._state
        await state.transact(lambda ledger: ledger.check_losses(state.me.account))
        self._is_checked = True
        size = state.settings.batch_size
        while not state.stop:
            batch = await state.runtime.next_batch()
            if batch is None:
                break
            with self._reporter.span("payarc.batch", {"payarc.batch.size": len(batch)}):
                left = await self._claimer.accept_known(batch)
            for start in range(0, max(1, len(left)), size):  # once even if nothing is left: the sender may be throttled
                if not state.stop:
                    await self._claim_part(left[start : start + size])
        await self._finish_open_records()

    async def _claim_part(self, records: Sequence[Record]) -> None:
        """Claim some records, and wait until most of them are sent."""
        state, sender, size = self._state, self._sender, self._state.settings.batch_size
        if records:
            with self._reporter.span("payarc.claim", {"payarc.claim.size": len(records)}):
                await self._claimer.claim(records)
        await state.wait_until(lambda: sender.queued <= size // 2 or bool(state.stop) or sender.paused)
        if sender.throttled_until is not None:
            await self._drain()
        if sender.unknown_count >= size or sender.paused:
            await self._finish_open_records()

    async def _check_rows(self) -> None:
        """Compare the ledger with what this run has recorded, so that a success does not hide a loss."""
        state = self._state
        if state.must_leave or isinstance(state.stop, PayarcLedgerError):
            return
        try:
            await state.check_rows(state.memory.all(), RELEASE_SECONDS if state.stop else None)
        except LedgerUnavailable:
            if not state.stop:
                raise

    # ---- finishing ------------------------------------------------------------------------------------------------

    async def _finish_open_records(self) -> None:
        """Look up open rows, claim freed records, wait for other runs, until nothing is open or nothing progresses."""
        state, sender = self._state, self._sender
        progress_at = state.runtime.now()
        last_count = 0
        while True:
            await self._drain()
            if state.stop or state.settings.dry_run:
                return
            if sender.unknown or state.postponed or self._claimer.contacted_payarc or await self._has_abandoned_rows():
                await self._look_up.resolve_open_rows()
            await self._updater.send_again(sender)
            sender.resume()  # only now, because both need that nothing is in flight
            given_up = self._look_up.exhausted.keys() | self._updater.unresolved.keys()
            postponed = [record for record in state.postponed if record.key not in given_up]
            state.postponed = []
            await self._claimer.claim(await self._claimer.accept_known(postponed))
            await self._drain()
            unresolved = self._look_up.undecided.keys() | self._look_up.unproved.keys()
            held = [record for record in state.postponed if record.key not in unresolved]
            if state.stop or not (sender.unknown_count or held or self._look_up.has_new_evidence):
                return
            if sender.unknown_count or len(state.postponed) != len(postponed):
                progress_at = state.runtime.now()
            if not (sender.unknown_count or self._look_up.has_new_evidence):
                await self._look_up.give_up_unproved()
                await self._wait_for_other_runs(progress_at, count_changed=len(held) != last_count)
                last_count = len(held)

    async def _has_abandoned_rows(self) -> bool:
        """Whether a run that died has left rows that can be taken over, for records of this input or others."""
        open_rows, free_in = await self._waiting()
        return open_rows > 0 and free_in == 0.0

    async def _waiting(self, updating: Collection[str] = ()) -> tuple[int, float | None]:
        """How many rows of other runs may be open, and in how many seconds the first of them can be taken over.

        :param updating: keys of records whose customers other runs may be changing
        """
        me, held = self._state.me, self._state.held_claims()
        return await self._state.transact(lambda ledger: ledger.waiting(me, held, self._state.clock, updating))

    async def _wait_for_other_runs(self, progress_at: float, *, count_changed: bool) -> None:
        state, settings = self._state, self._state.settings
        records = counted(len(state.postponed), "record")
        keys = {record.key for record in state.postponed if record.key is not None}
        if state.runtime.now() - progress_at > settings.held_patience:
            state.halt(
                PayarcRunStopped(
                    f"{records} still claimed by other runs, no progress for {settings.held_patience / 60:g} min. "
                    f"Run again when those have ended{await self._owners(keys)}"
                )
            )
        _, free_in = await self._waiting(keys)
        if count_changed and not state.stop:
            until = f", until {clock_time(free_in)} unless it renews its lease" if free_in else ""
            log.info("Waiting for %s claimed by another run%s%s", records, await self._owners(keys), until)
        if free_in == 0.0:  # a transaction has locked them, perhaps one whose host has vanished
            free_in = LOCKED_PAUSE
        what = f"for {records} claimed by another run, until {{}} unless it renews its lease"
        with state.waits.during(what, free_in or 0.0):
            await state.sleep(max(0.05, min(free_in or 0.0, settings.lease / 4, 10.0)))

    async def _owners(self, keys: Collection[str]) -> str:
        """In parentheses, the runs that have claimed these records; empty if they are not known."""
        some = sorted(keys)[:MAX_ASKED]
        rows = await self._state.transact(lambda ledger: ledger.rows(self._state.me, some))
        claimed = [row for row in rows.values() if row.lease_until is not None and row.dag_id is not None]
        runs = list(dict.fromkeys(f"{row.dag_id}.{row.task_id}, {row.run_id}" for row in claimed))
        more = "; …" if len(runs) > SHOWN_RUNS else ""
        return f" ({'; '.join(runs[:SHOWN_RUNS])}{more})" if runs else ""

    async def _drain(self) -> None:
        """Wait until everything is sent and recorded, or until the run is stopped and nothing is in flight."""
        await self._state.wait_until(lambda: self._sender.idle)
        while self._sender.throttled_until is not None and not self._state.stop:
            await self._defer_or_wait(self._sender.throttled_until)
            await self._state.wait_until(lambda: self._sender.idle)

    async def _defer_or_wait(self, until: float) -> None:
        """Defer the run, or wait in this process, while the rate limit allows no request. Nothing is in flight."""
        state, sender = self._state, self._sender
        if sender.unknown:
            await self._look_up.resolve_open_rows()  # during the wait
        left = until - state.runtime.now()
        if state.settings.defer_after is not None and left >= state.settings.defer_after:
            state.halt(Deferral(left))
        else:
            sender.wait_out_limit()

    async def _release(self) -> None:
        """Record the known results, then release every row. Nothing is sent after this.

        The ledger's thread may be stuck in a transaction. A task that is being stopped does not wait for it.
        """
        releasing = asyncio.ensure_future(self._record_and_release())
        leaving = asyncio.ensure_future(self._state.wait_until_time_is_up(RELEASE_SECONDS_WHEN_TERMINATED))
        try:
            await asyncio.wait([releasing, leaving], return_when=asyncio.FIRST_COMPLETED)
            if releasing.done():
                releasing.result()
            else:
                log.warning(
                    "The ledger's database does not answer, so rows could not be released. They are free when their "
                    "lease ends, and the next run looks them up"
                )
        finally:
            releasing.cancel()
            leaving.cancel()
            await asyncio.gather(releasing, leaving, return_exceptions=True)

    async def _record_and_release(self) -> None:
        state = self._state
        if not self._sender.recorder.idle:
            try:
                await self._sender.recorder.record_group(RELEASE_SECONDS)
            except PayarcError as error:
                log.warning("Results could not be recorded; the next run will look them up: %s", error)
        if self._is_checked and isinstance(state.stop, LedgerLost):
            try:
                await state.transact(lambda ledger: ledger.note_loss(state.me.account), RELEASE_SECONDS)
            except PayarcError as error:
                log.warning("The loss could not be noted in the ledger, so the next run may not notice it: %s", error)
        closed = {key: claim for key, claim in state.claims.items() if not claim.close_gate()}
        if not (state.claims or state.taken_over or self._updater.unresolved):
            return
        unsent = {key: claim.id for key, claim in closed.items() if claim.update is None}
        unchanged = {key: claim.update.claim for key, claim in closed.items() if claim.update is not None}
        try:
            await state.transact(lambda ledger: ledger.release(state.me, unsent, unchanged), RELEASE_SECONDS)
        except PayarcError as error:
            log.warning("Rows could not be released; they are free when their lease ends: %s", error)
