"""Recording answers in groups, one transaction for each group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.ledger import Resolution
from payarc_provider.sync.results import Status
from payarc_provider.sync.state import Claim, RunState

GATHER_SECONDS = 0.02  # a transaction costs about the same for one answer as for ten


class Recorder:
    """Records a group of answers while the next ones gather.

    :param on_id_taken: called with a claim whose customer already belongs to another row
    """

    def __init__(self, state: RunState, on_id_taken: Callable[[Claim], None]) -> None:
        self._state = state
        self._on_id_taken = on_id_taken
        self._answers: list[tuple[Claim, Resolution]] = []
        self._has_answers = asyncio.Event()
        self._recording = False

    @property
    def idle(self) -> bool:
        """Whether every answer has been recorded."""
        return not self._answers and not self._recording

    def add(self, claim: Claim, resolution: Resolution) -> None:
        """Record this with the next group."""
        self._answers.append((claim, resolution))
        self._has_answers.set()

    async def run(self) -> None:
        """Record forever."""
        while True:
            await self._has_answers.wait()
            self._has_answers.clear()
            while self._answers:
                await self._state.runtime.sleep(GATHER_SECONDS)
                await self.record_group()

    async def record_group(self, patience: float | None = None) -> None:
        """Record all answers that have arrived, then report the results.

        :param patience: seconds for which an unavailable ledger is waited for; see `RunState.transact`
        """
        state = self._state
        group, self._answers = self._answers, []
        resolutions = [resolution for _, resolution in group]
        self._recording = True
        try:
            reach("before_record")
            recorded = await state.transact(lambda ledger: ledger.record(state.me, resolutions), patience)
            reach("after_record")
        except BaseException:
            self._answers = group + self._answers
            raise
        finally:
            self._recording = False
        for claim, resolution in group:
            if claim.key in recorded.keys:
                self._report(claim, resolution)
            elif claim.key in recorded.taken_ids:
                self._on_id_taken(claim)
            else:
                state.postpone(claim)  # another run owns the row now, and finds the customer in PayArc's list
        state.notify()

    def _report(self, claim: Claim, resolution: Resolution) -> None:
        state = self._state
        state.claims.pop(claim.key, None)
        if resolution.customer_id:
            status = Status.ADOPTED if resolution.matched_by == "email" else Status.CREATED
            state.counts[f"recorded_{status}"] += 1
            state.accept(claim.record, resolution.customer_id, status, changed=False)
        else:
            state.counts["recorded_rejected"] += 1
            state.reject(claim.record, resolution.errors or {}, new=True)
