"""Looks up what became of requests without a usable response, sent by this run or by runs that have died.

A listed customer belongs to a row if it carries the row's reference; if the row has none, all fields have to be equal.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from payarc_provider.api.fields import created_between, read_customer_id
from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.keys import display_key, find_reference, without_reference
from payarc_provider.sync.ledger import EPOCH, Resolution, Row
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.send import Sender
from payarc_provider.sync.state import RunState


@dataclass(frozen=True, slots=True)
class Candidate:
    """A listed customer that may belong to a row.

    :param created_by: the latest possible time of its creation in Unix seconds; None if the list does not show it
    """

    customer_id: str
    created_by: float | None


@dataclass(slots=True)
class Findings:
    """What a look-up has found out about each row's key.

    :param found: key → (customer id, "reference" or "fields")
    :param absent: keys for which no customer exists
    :param undecided: key → ids of several customers, any of which may be the right one
    """

    found: dict[str, tuple[str, str]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    undecided: dict[str, list[str]] = field(default_factory=dict)


class Candidates:
    """Collects the listed customers that may belong to the rows, and decides which ones do.

    ``alters_values``: whether PayArc is known to alter values. If so, the lack of an equal customer proves nothing.

    :param rows: the rows that are looked up
    :param reader: computes the digest of a listed customer
    """

    def __init__(self, rows: Iterable[Row], reader: RecordReader, *, alters_values: bool = False) -> None:
        self.alters_values = alters_values
        self._rows = list(rows)
        self._reader = reader
        self._references = {row.reference for row in self._rows if row.reference}
        self._field_sets = {row.fields for row in self._rows if not row.reference}
        self._digests = {row.digest for row in self._rows if not row.reference}
        self._by_reference: dict[str, dict[str, Candidate]] = defaultdict(dict)
        self._by_digest: dict[str, dict[str, Candidate]] = defaultdict(dict)
        self._same_fields: dict[str, dict[str, Candidate]] = defaultdict(dict)  # with other values in the same fields

    def add(self, customer: dict[str, Any]) -> None:
        """Keep the customer if it may belong to a row."""
        customer_id = read_customer_id(customer)
        if customer_id is None:
            return
        code = find_reference(customer.get("description"))
        between = created_between(customer)
        candidate = Candidate(customer_id, between[1] if between else None)
        if code in self._references:
            self._by_reference[code or ""][customer_id] = candidate
            self.alters_values = self.alters_values or not self._is_as_sent(customer, code or "")
        for names in self._field_sets:
            digest = self._reader.digest_of_customer(customer, names)
            if digest in self._digests:
                self._by_digest[digest][customer_id] = candidate
            elif digest is not None:
                self._same_fields[names][customer_id] = candidate

    def _is_as_sent(self, customer: dict[str, Any], code: str) -> bool:
        """Whether the customer with this reference has the values that were sent."""
        plain = {**customer, "description": without_reference(customer["description"])}
        rows = [row for row in self._rows if row.reference == code]
        return all(self._reader.digest_of_customer(plain, row.fields) == row.digest for row in rows)

    def ids(self) -> set[str]:
        """The ids of all candidates."""
        groups = (self._by_reference, self._by_digest, self._same_fields)
        return {customer_id for group in groups for candidates in group.values() for customer_id in candidates}

    def decide(self, ids_with_rows: set[str]) -> Findings:
        """What the list shows about each row.

        :param ids_with_rows: candidates that already belong to a row, so that no other row can have them
        """
        findings = Findings()
        by_digest: dict[str, list[Row]] = defaultdict(list)
        for row in self._rows:
            if row.reference:
                self._decide_by_reference(row, ids_with_rows, findings)
            else:
                by_digest[row.digest].append(row)
        for digest, rows in by_digest.items():
            free = {
                customer_id: candidate
                for customer_id, candidate in self._by_digest[digest].items()
                if customer_id not in ids_with_rows
            }
            altered = self._same_fields[rows[0].fields].keys() - ids_with_rows if self.alters_values else set()
            self._decide_by_fields(rows, free, sorted(altered), findings)
        return findings

    def _decide_by_reference(self, row: Row, ids_with_rows: set[str], findings: Findings) -> None:
        ids = sorted(self._by_reference[row.reference or ""].keys() - ids_with_rows)
        if len(ids) == 1:
            findings.found[row.key] = (ids[0], "reference")
        elif ids:
            findings.undecided[row.key] = ids
        else:
            findings.absent.add(row.key)

    def _decide_by_fields(
        self, rows: list[Row], equal: dict[str, Candidate], altered: list[str], findings: Findings
    ) -> None:
        """Decide rows without references whose records were equal.

        :param equal: the customers with exactly these values
        :param altered: if PayArc alters values, the customers that may have been created with these values
        """
        free = dict(equal)
        newest_first = sorted(rows, key=lambda row: (_sent_after(row), row.key), reverse=True)
        for position, row in enumerate(newest_first):  # the row with the fewest possible customers first
            since = _sent_after(row)
            ids = sorted(
                candidate.customer_id
                for candidate in free.values()
                if candidate.created_by is None or candidate.created_by >= since
            )
            if not ids and altered:
                findings.undecided[row.key] = sorted(altered)
            elif not ids:
                findings.absent.add(row.key)
            elif len(ids) <= len(rows) - position:  # the records are equal, so any of them may get any of the customers
                findings.found[row.key] = (ids[0], "fields")
                del free[ids[0]]
            else:
                findings.undecided[row.key] = ids


def _sent_after(row: Row) -> float:
    return row.sent_after.timestamp() if row.sent_after else 0.0


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
