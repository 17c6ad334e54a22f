"""Looks up what became of requests without a usable response, sent by this run or by runs that have died."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger import EPOCH, Resolution, Row
from payarc_provider.sync.matching import Candidates, Findings
from payarc_provider.sync.send import Sender
from payarc_provider.sync.state import RunState

log = logging.getLogger(__name__)

SHOWN_KEYS = 10


class LookUp:
    """Finds out from PayArc's list what became of open rows.

    ``undecided``: key → why the list does not decide about it. ``exhausted``: key → why it is not sent again.
    """

    def __init__(self, state: RunState, sender: Sender) -> None:
        self._state = state
        self._sender = sender
        self.undecided: dict[str, str] = {}
        self.exhausted: dict[str, str] = {}

    async def resolve_open_rows(self) -> None:
        """Resolve the account's open rows, except those that other runs still own.

        Call it only while nothing is in flight. The order makes it safe: take the rows over, then read the list, then
        allow them to be sent again.
        """
        state, sender = self._state, self._sender
        await self._wait_until_final()
        if state.stop:
            return
        claim_id = state.new_claim_id()
        reach("before_takeover")
        taken = await state.transact(lambda ledger: ledger.take_over(state.me, claim_id))
        reach("after_takeover")
        for key in taken.keys() & state.claims.keys():
            state.claims[key].lost = True  # its lease lapsed, and other runs may have owned the row since
        rows = [*taken.values(), *await self._unknown_rows(taken)]
        state.taken_over.update(dict.fromkeys(taken, claim_id))
        if rows:
            await self._look_up(rows)
        unknown, sender.unknown = sender.unknown, {}
        for claim in unknown.values():
            state.postpone(claim)
        sender.resume()

    def raise_if_unresolved(self) -> None:
        """Raise if a person has to decide about a record.

        :raises PayarcRunStopped: names the first of these records
        """
        unresolved = self.undecided | self.exhausted
        if not unresolved:
            return
        first = "; ".join(f"{display_key(key)}: {why}" for key, why in list(unresolved.items())[:SHOWN_KEYS])
        records = "1 record is" if len(unresolved) == 1 else f"{len(unresolved)} records are"
        raise PayarcRunStopped(
            f"{records} left pending: {first}. Check them in PayArc's dashboard, resolve them with "
            "python -m payarc_provider.ledger, and run again; nothing is sent twice"
        )

    async def _wait_until_final(self) -> None:
        """Wait until PayArc can no longer process any request of this run that got no response."""
        state, unknown = self._state, self._sender.unknown
        if not unknown:
            return
        final_at = max(claim.checked_at for claim in unknown.values()) + state.settings.settle
        wait = final_at - state.runtime.now()
        records = "1 record" if len(unknown) == 1 else f"{len(unknown)} records"
        log.info("No usable response for %s: looking up in PayArc's list in %.0f s", records, max(0.0, wait))
        while wait > 0 and not state.stop:
            await state.sleep(wait)
            wait = final_at - state.runtime.now()

    async def _unknown_rows(self, taken: Mapping[str, Row]) -> list[Row]:
        """The rows of this run whose outcome is unknown and that are still under its claims."""
        state = self._state
        unknown = {key: claim.id for key, claim in self._sender.unknown.items()}
        claims = {key: claim_id for key, claim_id in (state.taken_over | unknown).items() if key not in taken}
        if not claims:
            return []
        rows = await state.transact(lambda ledger: ledger.rows(state.me, claims.keys()))
        return [row for key, row in rows.items() if row.claim == claims[key]]

    async def _look_up(self, rows: list[Row]) -> None:
        state = self._state
        reach("in_lookup")
        known_to_alter = await state.transact(lambda ledger: ledger.alters_values(state.me.account))
        since = min(row.sent_after or EPOCH for row in rows).timestamp()
        candidates = await state.payarc.read_list(
            since, lambda: Candidates(rows, state.reader, alters_values=known_to_alter)
        )
        if (
            candidates.alters_values and not known_to_alter
        ):  # before those rows are recorded, since they are not looked up again
            await state.transact(lambda ledger: ledger.note_altered_values(state.me.account))
        ids = candidates.ids()
        taken = await state.transact(lambda ledger: ledger.ids_with_rows(state.me, ids)) if ids else set()
        findings = candidates.decide(taken)
        reach("before_lookup_record")
        claims = {row.key: row.claim or "" for row in rows}
        await self._record(findings, claims)
        reach("after_lookup_record")
        await self._note_undecided(findings, claims)
        log.info(
            "Looked up %d: found %d, absent %d, undecided %d",
            len(rows),
            len(findings.found),
            len(findings.absent),
            len(findings.undecided),
        )

    async def _record(self, findings: Findings, claims: Mapping[str, str]) -> None:
        state = self._state
        resolutions = [
            Resolution(key, claims[key], customer_id=customer_id, matched_by=how)
            for key, (customer_id, how) in findings.found.items()
        ]
        if resolutions:
            recorded = await state.transact(lambda ledger: ledger.record(state.me, resolutions))
            state.counts["recorded_created"] += len(recorded.keys)
            for key in recorded.conflicts:  # another row got this customer after the list was read
                findings.undecided[key] = [findings.found.pop(key)[0]]
        absent = {key: claims[key] for key in findings.absent}
        if absent:
            await state.transact(lambda ledger: ledger.record_absence(state.me, absent))
        self._forget_taken_over(findings.found.keys() | findings.absent)
        state.counts["found"] += len(resolutions)

    async def _note_undecided(self, findings: Findings, claims: Mapping[str, str]) -> None:
        state = self._state
        if findings.undecided:  # release them, since another run may find out more
            given_up, held = {key: claims[key] for key in findings.undecided}, state.held_claims()
            await state.transact(lambda ledger: ledger.give_up(state.me, given_up, held))
            self._forget_taken_over(findings.undecided.keys())
        for key in findings.found.keys() | findings.absent:
            self.undecided.pop(key, None)
        for key, customer_ids in findings.undecided.items():
            self.undecided[key] = f"it may be one of the customers {', '.join(customer_ids[:5])}"
        for key in findings.absent & self._sender.tries.keys():
            tries = self._sender.tries[key]
            if tries >= state.settings.max_tries:
                self.exhausted[key] = f"{tries} requests got no usable response and created nothing"

    def _forget_taken_over(self, keys: Iterable[str]) -> None:
        """These rows are resolved, or no longer owned by this run."""
        for key in keys:
            self._state.taken_over.pop(key, None)
