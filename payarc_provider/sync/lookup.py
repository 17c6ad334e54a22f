"""Looks up what became of requests without a usable response, sent by this run or by runs that have died."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from payarc_provider.exceptions import PayarcNotFound, PayarcRunStopped
from payarc_provider.sync.candidates import Candidates, Findings
from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger import EPOCH, Alterations, Resolution, Row
from payarc_provider.sync.listing import is_before
from payarc_provider.sync.proof import ListProof
from payarc_provider.sync.records import Errors
from payarc_provider.sync.rejections import Group
from payarc_provider.sync.send import Sender
from payarc_provider.sync.state import RunState
from payarc_provider.sync.wording import clock_time, counted, tally

log = logging.getLogger(__name__)

SHOWN_REASONS = 10
MAX_CHECKED = 20  # customers that a look-up reads by id because the list does not show them
NO_CONTROL = "no other customer has been created since, by which to check PayArc's list"
OTHERS_OPEN = "the customer with its values may belong to a record of another run"
OLD_COPY_SECONDS = 2.0  # PayArc's times are whole seconds


class LookUp:
    """Finds out from PayArc's list what became of open rows.

    ``undecided``: key → why the list does not decide about it. ``exhausted``: key → why it is not sent again.
    ``unproved``: key → why it is not certain that PayArc has no customer for it. These rows stay claimed and are looked
    up again when another customer has been created.
    """

    def __init__(self, state: RunState, sender: Sender) -> None:
        self._state = state
        self._sender = sender
        self.undecided: dict[str, str] = {}
        self.exhausted: dict[str, str] = {}
        self.unproved: dict[str, str] = {}
        self._responses = 0
        self._shown = self._damaged = False  # whether references have been seen intact, and damaged, in this run

    async def resolve_open_rows(self) -> None:
        """Resolve the account's open rows, except those that other runs still own.

        Call it only while nothing is in flight. The order makes it safe: take the rows over, then read the list, then
        allow them to be sent again.
        """
        state, sender = self._state, self._sender
        await self._wait_until_final()
        if state.stop:
            return
        claim_id, self._responses = state.new_claim_id(), sender.usable_responses
        reach("before_takeover")
        taken = await state.transact(lambda ledger: ledger.take_over(state.me, claim_id, state.clock))
        if state.clock.must_compare and await state.contact_payarc():
            taken = await state.transact(lambda ledger: ledger.take_over(state.me, claim_id, state.clock))
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

    @property
    def has_new_evidence(self) -> bool:
        """Whether another look-up may prove more, because PayArc has responded since the last one."""
        return bool(self.unproved) and self._sender.usable_responses > self._responses

    def raise_if_unresolved(self) -> None:
        """Raise if records are still open. A person has to decide the undecided ones, and another run the others.

        :raises PayarcRunStopped: names the first of these records; the log names more
        """
        mine = {record.key for record in self._state.postponed}
        unproved = {key: why for key, why in self.unproved.items() if key in mine}
        unresolved = self.undecided | self.exhausted | unproved
        if not unresolved:
            return
        groups = {why: Group(why) for why in unresolved.values()}
        for key, why in unresolved.items():
            groups[why].add(key)
        for group in list(groups.values())[:SHOWN_REASONS]:
            log.error("Left pending: %s", group)
        first, why = next(iter(unresolved.items()))
        more = f" (and {len(unresolved) - 1} more)" if len(unresolved) > 1 else ""
        if self._state.problems:
            more += f"; instead of responses: {tally(self._state.problems)}"
        records = counted(len(unresolved), "record is", "records are")
        remedy = "Run again later; nothing is sent twice"
        if self.undecided:
            which = "" if len(self.undecided) == len(unresolved) else f" for {len(self.undecided)} of them"
            remedy = f"Record the right customer{which}: python -m payarc_provider.ledger resolve. Then run again"
        raise PayarcRunStopped(f"{records} left pending: {display_key(first)}: {why}{more}. {remedy}")

    async def _wait_until_final(self) -> None:
        """Wait until PayArc can no longer process any request of this run that got no response."""
        state, unknown = self._state, self._sender.unknown
        if not unknown:
            return
        final_at = max(claim.checked_at for claim in unknown.values()) + state.settings.settle
        wait = final_at - state.runtime.now()
        records = counted(len(unknown), "record")
        if wait > 0:
            log.info(
                "No usable response for %s: looking up in PayArc's list at %s, when PayArc can no longer create them "
                "(settle)",
                records,
                clock_time(wait),
            )
        else:
            log.info("No usable response for %s: looking up in PayArc's list", records)
        while wait > 0 and not state.stop:
            with state.waits.during(f"to look up {records} at {{}}", wait):
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
        since = min(row.sent_after or EPOCH for row in rows).timestamp()
        proof = await self._begin_proof(rows, since)
        candidates = await state.payarc.read_list(since, lambda: Candidates(rows, state.ledger_id), proof.see)
        ids = candidates.ids()
        taken = await state.transact(lambda ledger: ledger.ids_with_rows(state.me, ids)) if ids else set()
        # Read after the list: what a run learns from a response is noted before the customer can check the list.
        known = await state.transact(lambda ledger: ledger.alterations(state.me.account))
        # Remembered, since a later reading may have no customer to tell by: after the database's clock was set back,
        # the times of the claims do not show which customers are newer.
        self._damaged = self._damaged or proof.damages_references
        seen = (self._sender.shows_references, proof.shows_references, candidates.shows_references)
        self._shown = self._shown or any(seen)
        known = known._replace(descriptions=known.descriptions or self._damaged)
        findings = candidates.decide(taken, known, trusts_references=self._shown and not known.descriptions)
        if findings.altered and not known.values:
            await state.transact(lambda ledger: ledger.note_alterations(state.me.account, Alterations(values=True)))
        unproved = await self._unproved(rows, findings, proof, since)
        reach("before_lookup_record")
        claims = {row.key: row.claim or "" for row in rows}
        for key in claims:
            self.unproved.pop(key, None)
        self._leave_unproved(findings, claims, unproved)
        merged = await self._merged(rows, findings)
        mine = {row.key for row in rows if state.is_from_this_task(row)}
        await self._record(findings, claims, merged, mine)
        reach("after_lookup_record")
        await self._note_undecided(findings, claims)
        log.info(
            "Looked up %s in PayArc's list: %d found, %d absent, %d still open",
            counted(len(rows), "record"),
            len(findings.found),
            len(findings.absent),
            len(rows) - len(findings.found) - len(findings.absent),
        )

    async def _begin_proof(self, rows: list[Row], since: float) -> ListProof:
        state = self._state
        claimed = min(row.claimed_at or EPOCH for row in rows)
        controls = await state.transact(lambda ledger: ledger.created_since(state.me, claimed))
        newest = await state.transact(lambda ledger: ledger.known_ids(state.me.account))
        payarc_now = state.payarc_clock.earliest() if state.payarc_clock is not None else None
        not_before = None if payarc_now is None else payarc_now - max(OLD_COPY_SECONDS, state.settings.settle / 2)
        return ListProof(since, controls, newest, not_before)

    async def _unproved(self, rows: list[Row], findings: Findings, proof: ListProof, since: float) -> dict[str, str]:
        """Key → why the reading proves neither that PayArc has no customer for it nor that the found one is its own.

        Only a customer that shows a row's reference is certainly the row's, whatever else the list shows or does not.
        """
        state, uncertain = self._state, findings.absent | findings.without_reference
        if not uncertain:
            return {}
        problem = proof.problem or await self._what_is_missing(proof, since)
        if problem is not None:
            return dict.fromkeys(uncertain, problem)
        claimed = {row.key: row.claimed_at or EPOCH for row in rows}
        found = [claimed[key] for key in findings.found.keys() - findings.without_reference]
        mine = {record.key for record in state.postponed} | self._sender.unknown.keys()
        unproved = [key for key in findings.absent if not proof.reaches(claimed[key], found)]
        unproved.sort(key=lambda key: (key not in mine, key))
        # One record is sent all the same, or a run that was killed before its first customer could never be continued.
        # Its customer then serves to check the list for the others. It has to be a record that this run has.
        reasons = dict.fromkeys(unproved[1:], NO_CONTROL)
        if findings.without_reference:
            held = state.held_claims() | {row.claim for row in rows if row.claim}
            if await state.transact(lambda ledger: ledger.may_be_open_unrecognized(state.me, held)):
                reasons |= dict.fromkeys(findings.without_reference, OTHERS_OPEN)
        return reasons

    async def _what_is_missing(self, proof: ListProof, since: float) -> str | None:
        """Which customer the list ought to have shown and has not; None if there is none."""
        for number, customer_id in enumerate(proof.missing()):
            if number == MAX_CHECKED or not await self._is_excused(customer_id, since):
                return f"PayArc's list does not show customer {customer_id}, which the ledger has"
            proof.excuse(customer_id)
        return None

    async def _is_excused(self, customer_id: str, since: float) -> bool:
        """Whether there is a reason why the list does not show this customer."""
        runtime = self._state.runtime
        try:
            customer = await self._state.payarc.read(lambda: runtime.get_customer(customer_id))
        except PayarcNotFound:
            return True  # it was deleted
        return is_before(customer, since)

    async def give_up_unproved(self) -> None:
        """Release the unproved rows: another run may wait for them, while this run waits for that run."""
        state = self._state
        claims = {key: state.taken_over[key] for key in self.unproved if key in state.taken_over}
        if claims:
            await state.transact(lambda ledger: ledger.give_up(state.me, claims, state.held_claims()))
            self._forget_taken_over(claims)

    def _leave_unproved(self, findings: Findings, claims: Mapping[str, str], unproved: Mapping[str, str]) -> None:
        """Keep these rows under their claims, to look them up again."""
        for key, why in unproved.items():
            self.unproved[key] = why
            self._state.taken_over[key] = claims[key]
            findings.found.pop(key, None)
        for why, count in Counter(unproved.values()).items():
            log.warning("%s left open: %s", counted(count, "record"), why)
        findings.absent -= unproved.keys()

    async def _merged(self, rows: list[Row], findings: Findings) -> dict[str, Errors]:
        """Key → why it is rejected, for rows that PayArc gave another row's customer instead of one of their own."""
        state, merged = self._state, self._sender.merged
        ids = {row.key: merged[row.key] for row in rows if row.key in findings.absent & merged.keys()}
        if not ids:
            return {}
        keys = await state.transact(lambda ledger: ledger.keys_of(state.me, set(ids.values())))
        findings.absent -= ids.keys()
        return {
            key: {
                "email": [
                    "PayArc keeps one customer per email and returned that of another record (it is "
                    f"{customer_id} of {display_key(keys.get(customer_id))}). Give the records "
                    "different emails, or make them one record"
                ]
            }
            for key, customer_id in ids.items()
        }

    async def _record(
        self, findings: Findings, claims: Mapping[str, str], merged: Mapping[str, Errors], mine: Collection[str]
    ) -> None:
        """Record what was found; ``mine``: the keys of this task's rows."""
        state = self._state
        if merged:
            rejections = [Resolution(key, claims[key], errors=errors) for key, errors in merged.items()]
            rejected = await state.transact(lambda ledger: ledger.record(state.me, rejections))
            state.counts["recorded_rejected"] += len(rejected.keys)
            for key in rejected.keys & self._sender.unknown.keys():
                self._sender.unknown[key].rejected = True
            self._forget_taken_over(merged)
        resolutions = [
            Resolution(key, claims[key], customer_id=customer_id, matched_by=how)
            for key, (customer_id, how) in findings.found.items()
        ]
        if resolutions:
            recorded = await state.transact(lambda ledger: ledger.record(state.me, resolutions))
            state.counts["recorded_created"] += len(recorded.keys)
            state.counts["recorded_for_others"] += len(recorded.keys.difference(mine))
            for resolution in resolutions:
                if resolution.key in recorded.keys and resolution.customer_id:
                    state.memory.note_recorded(resolution.key, 1, resolution.customer_id)
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
            await state.transact(lambda ledger: ledger.give_up(state.me, given_up, held, state.clock))
            self._forget_taken_over(findings.undecided.keys())
        for key in findings.found.keys() | findings.absent:
            self.undecided.pop(key, None)
        for key, customer_ids in findings.undecided.items():
            which = "the customer" if len(customer_ids) == 1 else "one of the customers"
            self.undecided[key] = f"it may be {which} {', '.join(customer_ids[:5])}"
        for key in findings.absent & self._sender.tries.keys():
            tries = self._sender.tries[key]
            if tries >= state.settings.max_tries:
                self.exhausted[key] = f"{counted(tries, 'request')} got no usable response and created nothing"

    def _forget_taken_over(self, keys: Iterable[str]) -> None:
        """These rows are resolved, or no longer owned by this run."""
        for key in keys:
            self._state.taken_over.pop(key, None)
