"""Records resolutions in the ledger in groups, one transaction per group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.ledger import Evidence, Recorded, Resolution, UpdateResult
from payarc_provider.sync.results import Status
from payarc_provider.sync.state import Claim, RunState

GATHER_SECONDS = 0.02  # a transaction costs about the same for one resolution as for ten


class Recorder:
    """Records one group of resolutions while the next group gathers.

    :param on_id_taken: called with each claim whose customer already belongs to another row, and the customer's id
    """

    def __init__(self, state: RunState, on_id_taken: Callable[[Claim, str], None]) -> None:
        self._state = state
        self._on_id_taken = on_id_taken
        self._waiting: list[tuple[Claim, Resolution | UpdateResult]] = []
        self._has_waiting = asyncio.Event()
        self._recording = False

    @property
    def idle(self) -> bool:
        """Whether every resolution has been recorded."""
        return not self._waiting and not self._recording

    def add(self, claim: Claim, resolution: Resolution | UpdateResult) -> None:
        """Record this resolution, or this result of an update, with the next group."""
        self._waiting.append((claim, resolution))
        self._has_waiting.set()

    async def run(self) -> None:
        """Record whatever is added, until cancelled."""
        while True:
            await self._has_waiting.wait()
            self._has_waiting.clear()
            while self._waiting:
                await self._state.runtime.sleep(GATHER_SECONDS)
                await self.record_group()

    async def record_group(self, patience: float | None = None) -> None:
        """Record all waiting resolutions, then report the results.

        :param patience: how many seconds to wait for an unavailable ledger; see `RunState.transact`
        """
        state = self._state
        group, self._waiting = self._waiting, []
        resolutions = [resolution for _, resolution in group if isinstance(resolution, Resolution)]
        updates = [result for _, result in group if isinstance(result, UpdateResult)]
        recorded, updated = Recorded(set(), set()), set[str]()
        self._recording = True
        try:
            reach("before_record")
            if resolutions:
                recorded = await state.transact(lambda ledger: ledger.record(state.me, resolutions), patience)
            if updates:
                updated = await state.transact(lambda ledger: ledger.record_updates(state.me, updates), patience)
            reach("after_record")
        except BaseException:
            self._waiting = group + self._waiting
            raise
        finally:
            self._recording = False
        elsewhere: dict[str, Evidence] = {}
        for claim, resolution in group:
            if isinstance(resolution, UpdateResult) and claim.key in updated:
                self._report_update(claim, resolution)
            elif isinstance(resolution, Resolution) and claim.key in recorded.keys:
                self._report(claim, resolution)
            elif isinstance(resolution, Resolution) and claim.key in recorded.conflicts:
                self._on_id_taken(claim, resolution.customer_id or "")
            else:
                returned_id = resolution.customer_id if isinstance(resolution, Resolution) else None
                if claim.may_have_customer:
                    elsewhere[claim.key] = claim.evidence(returned_id)
                state.postpone(claim, returned_id)  # another run owns the row now, and finds the customer in the list
        await state.check_rows(elsewhere, patience)
        state.notify()

    def _report(self, claim: Claim, resolution: Resolution) -> None:
        state = self._state
        state.claims.pop(claim.key, None)
        if resolution.customer_id:
            status = Status.ADOPTED if resolution.matched_by == "email" else Status.CREATED
            state.counts[f"recorded_{status}"] += 1
            state.memory.note_recorded(claim.key, claim.attempt, resolution.customer_id)
            changed = resolution.digest is not None  # PayArc had the customer, with other values
            if changed and state.settings.on_changed == "update":
                state.postponed.append(claim.record)
            else:
                state.accept(claim.record, resolution.customer_id, status, changed=changed)
        else:
            state.counts["recorded_rejected"] += 1
            state.reject(claim.record, resolution.errors or {}, new=True)

    def _report_update(self, claim: Claim, result: UpdateResult) -> None:
        state, customer_id = self._state, claim.update.customer_id if claim.update else ""
        state.claims.pop(claim.key, None)
        state.memory.note_recorded(claim.key, claim.attempt, customer_id)
        if result.errors is not None:
            state.counts["recorded_rejected"] += 1
            state.reject(claim.record, result.errors, new=True)
            return
        state.counts["recorded_updated"] += result.sent
        status = Status.UPDATED if result.sent else Status.KNOWN
        state.accept(claim.record, customer_id, status, changed=False)
