"""Claims records in the ledger and queues them for sending; renews the leases of the claims."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.existing import ExistingCustomers, Matches
from payarc_provider.sync.ledger import EPOCH, ERASED, Evidence, KnownRow, LedgerUnavailable, Row, State, is_free
from payarc_provider.sync.plan import Action, Step
from payarc_provider.sync.records import Record
from payarc_provider.sync.reference import with_reference
from payarc_provider.sync.results import Status, status_of_this_task
from payarc_provider.sync.send import Sender
from payarc_provider.sync.state import Claim, RunState
from payarc_provider.sync.update import Updater, other_source_error

log = logging.getLogger(__name__)


class Claimer:
    """Reports records whose result is known, claims records that are free, and queues the claims for sending.

    :param existing: the customers that PayArc already has; None without ``match_existing``
    :param look_up: resolves the account's open rows, which has to happen before customers are adopted by email
    """

    def __init__(
        self,
        state: RunState,
        sender: Sender,
        updater: Updater,
        existing: ExistingCustomers | None,
        look_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._state = state
        self._sender = sender
        self._updater = updater
        self._existing = existing
        self._look_up = look_up
        self.contacted_payarc = False
        """Whether PayArc was contacted, which happens before the first record is claimed."""

    async def accept_known(self, records: Iterable[Record]) -> list[Record]:
        """Report the records whose result is known, postpone those with a repeated key, and return the others."""
        state = self._state
        batch = self._by_key(records)
        if not batch:
            return []
        if state.allowance is not None:
            state.allowance.meet(batch.values())
        known = await state.transact(lambda ledger: ledger.known(state.me, batch.keys()))
        state.note_begun(batch, known)
        return self._without_known(batch, known)

    async def claim(self, records: Sequence[Record]) -> None:
        """Claim and queue the records that need a customer; report or postpone the others. No two have the same key."""
        state = self._state
        batch = {record.key: record for record in records if record.key is not None}
        if not batch:
            return
        before = await state.transact(lambda ledger: ledger.rows(state.me, batch.keys()))
        state.note_begun(batch, before)
        if state.settings.on_changed == "update":
            batch = await self._update(batch, before)
        free = {key: record for key, record in batch.items() if self._is_free(key, record, before.get(key))}
        if state.settings.dry_run:
            self._count_dry_run(batch, before, free)
            return
        state.admit(Step(record, Action.CREATE, record.fields) for record in free.values() if not record.errors)
        matches = Matches()
        if any(not record.errors for record in free.values()):
            await self._contact_payarc()
            if self._existing is not None:
                matches = await self._existing.match(free)
        for key in matches.wait:
            state.postponed.append(free.pop(key))
            del batch[key]
        requested, claim_id = state.runtime.now(), state.new_claim_id()
        after = before | await self._claim_rows(claim_id, free) if free else before
        for key, record in batch.items():
            row = after.get(key)
            if row is None or row.claim != claim_id:
                self._handle_unclaimed(record, before.get(key), row)
                continue
            sent_after, lease_end = (row.sent_after or EPOCH).timestamp(), requested + state.settings.lease
            claim = Claim(record, claim_id, row.attempt, row.inserted_at, row.reference, sent_after, lease_end)
            if key in matches.adopt:
                self._sender.adopt(claim, *matches.adopt[key])
            else:
                self._sender.send(claim)

    async def _update(self, batch: dict[str, Record], rows: dict[str, Row]) -> dict[str, Record]:
        """Bring changed records to PayArc; returns the records that have no customer."""
        changed = {
            key: record
            for key, record in batch.items()
            if key in rows and rows[key].customer_id is not None and not record.errors
        }
        if changed:
            await self._updater.take(changed, rows, self._sender, self._reference_for, self._contact_payarc)
        return {key: record for key, record in batch.items() if key not in changed}

    def _by_key(self, records: Iterable[Record]) -> dict[str, Record]:
        """Key → record. Of several records with the same key, all but the first are postponed."""
        batch: dict[str, Record] = {}
        for record in records:
            if record.key is None or record.unstorable:
                self._state.counts["known_rejected"] += 1
                self._state.reject(record, record.errors, new=True)
            elif record.key in batch:
                self._state.postponed.append(record)
            else:
                batch[record.key] = record
        return batch

    def _without_known(self, batch: dict[str, Record], known: dict[str, KnownRow]) -> list[Record]:
        """Accept the records that already have a customer; returns the others."""
        state, accept = self._state, self._state.results.accept
        updates = state.settings.on_changed == "update"
        remaining: list[Record] = []
        accepted: Counter[Status] = Counter()
        changes = elsewhere = 0
        for key, record in batch.items():
            row = known.get(key)
            if row is None or record.errors:
                remaining.append(record)
                continue
            changed = row.digest != record.digest
            if (changed and (updates or not row.same_source)) or (updates and record.version != row.version):
                remaining.append(record)
                continue
            changes += changed
            elsewhere += not row.same_source
            status = Status.KNOWN
            if row.this_task:
                status = status_of_this_task(row.matched_by, was_updated=row.was_updated)
            if status is not Status.KNOWN:
                accepted[status] += 1
            accept(record, row.customer_id, status, changed=changed)
        # Counted together, since most runs read mostly known records.
        accepted[Status.KNOWN] = len(batch) - len(remaining) - accepted.total()
        state.counts.update(accepted)
        state.counts["changed"] += changes
        state.counts["other_source"] += elsewhere
        return remaining

    def _is_free(self, key: str, record: Record, row: Row | None) -> bool:
        return key not in self._state.claims and is_free(record, row, self._state.settings.retry_rejected)

    async def _claim_rows(self, claim_id: str, free: dict[str, Record]) -> dict[str, Row]:
        state = self._state
        references = {key: self._reference_for(record) for key, record in free.items() if not record.errors}
        sent_after = self._sent_after()
        retry = state.settings.retry_rejected
        evidence = state.memory.of(free.keys())
        reach("before_claim")
        rows = await state.transact(
            lambda ledger: ledger.claim(
                state.me,
                claim_id,
                list(free.values()),
                references,
                sent_after,
                retry_rejected=retry,
                clock=state.clock,
                evidence=evidence,
            )
        )
        reach("after_claim")
        return rows

    def _handle_unclaimed(self, record: Record, before: Row | None, row: Row | None) -> None:
        """Accept, reject or postpone a record that this call did not claim.

        :param before: its row before the claim
        :param row: its row now
        """
        state = self._state
        if row is not None and row.state == ERASED:
            state.counts.update(known_rejected=1, erased=1)
            reasons = [text for texts in row.errors.values() for text in texts]
            state.reject(record, {",".join(state.reader.key_columns): reasons}, new=False)
        elif record.errors:
            known = _is_rejected(before, record)
            self._count_rejection(record, before, row)
            state.reject(record, record.errors, new=not known or self._state.is_from_this_task(before))
        elif row is None:
            state.postponed.append(record)
        elif row.customer_id is not None and state.settings.on_changed == "report":
            self._accept_created(record, row)
        elif row.state == State.REJECTED and row.digest == record.digest:
            self._count_rejection(record, row, row)
            state.reject(record, row.errors, new=self._state.is_from_this_task(row))
        else:
            state.postponed.append(record)

    def _accept_created(self, record: Record, row: Row) -> None:
        state, changed, me = self._state, row.digest != record.digest, self._state.me
        if changed and row.source != me.source:
            state.counts["known_rejected"] += 1
            state.reject(record, other_source_error(row, me.source), new=True)
            return
        state.counts["other_source"] += row.source != me.source
        changed = changed or row.state == State.UPDATING or row.error is not None
        state.accept(record, row.customer_id or "", state.status_of(row), changed=changed)

    def _count_rejection(self, record: Record, before: Row | None, row: Row | None) -> None:
        """Count a rejection as recorded now or as known; an earlier try of this task has counted its own."""
        counts = self._state.counts
        if _is_rejected(before, record):
            counts["known_rejected"] += not self._state.is_from_this_task(before)
        else:
            counts["recorded_rejected" if _is_rejected(row, record) else "known_rejected"] += 1

    def _count_dry_run(self, batch: dict[str, Record], rows: dict[str, Row], free: dict[str, Record]) -> None:
        """Count what a real run would do with these records."""
        for key, record in batch.items():
            row = rows.get(key)
            if key in free and not record.errors:
                self._state.counts["would_create"] += 1
                self._state.counts["without_email"] += "email" not in record.fields
                self._state.add_to_plan(Step(record, Action.CREATE, record.fields))
            elif not record.errors and row is not None and row.state == State.PENDING:
                self._state.counts["pending"] += 1
                self._state.add_to_plan(Step(record, Action.CREATE, record.fields))
            else:
                self._handle_unclaimed(record, row, row)

    # ---- before the first claim -----------------------------------------------------------------------------------

    async def _contact_payarc(self) -> None:
        """Check the token and read PayArc's clock with one request; then read what ``match_existing`` needs."""
        if self.contacted_payarc:
            return
        await self._state.contact_payarc()
        self.contacted_payarc = True
        if self._existing is not None:
            await self._look_up()
            await self._existing.read()

    def _sent_after(self) -> datetime.datetime:
        """A time of PayArc's clock; no request of a claim made now can have been sent earlier."""
        clock = self._state.payarc_clock
        payarc_now = clock.earliest() if clock else None
        if payarc_now is None:
            return EPOCH  # without PayArc's time, a look-up reads the whole list
        return datetime.datetime.fromtimestamp(payarc_now - self._state.settings.margin, datetime.UTC)

    def _reference_for(self, record: Record) -> str | None:
        """The code that the record's description will carry; None if it does not fit or references are turned off."""
        code = self._state.reference_of(record.key or "")
        fits = with_reference(record.fields.get("description"), code) is not None
        return code if self._state.settings.reference and fits else None


async def renew_leases(state: RunState) -> None:
    """Renew the leases of all rows that the run owns, until cancelled.

    Every request checks its lease, so nothing is sent for a row whose lease could not be renewed.

    :raises LedgerUnavailable: the ledger could not be reached for the setting ``ledger_patience``
    """
    settings, runtime = state.settings, state.runtime
    wait = settings.renew_every
    while True:
        await runtime.sleep(wait)
        wait = settings.renew_every
        claims, taken_over, held = dict(state.claims), dict(state.taken_over), state.held_claims()
        if not held:
            await _check_rows(state, {})
            continue
        reach("before_renewal")
        requested = runtime.now()  # before the transaction begins: a lease must never be taken for longer than it is
        try:
            renewed, steps = await _renew(state, held)
        except LedgerUnavailable as error:
            state.ledger_waits.check(renew_leases, requested, settings.ledger_patience, error)
            wait = min(1.0, settings.renew_every / 4)
            continue
        state.ledger_waits.succeed(renew_leases)
        reach("after_renewal")
        for key, claim in claims.items():
            if renewed.get(key) == claim.id:
                if steps != state.clock.steps:
                    continue  # the clock has stepped since
                claim.lease_end = max(claim.lease_end, requested + settings.lease)
            elif state.claims.get(key) is claim:
                claim.lost = True
        for key, claim_id in taken_over.items():
            if renewed.get(key) != claim_id and state.taken_over.get(key) == claim_id:
                del state.taken_over[key]
        gone = {claim.key: claim.evidence() for claim in claims.values() if claim.lost and claim.may_have_customer}
        await _check_rows(state, gone)


async def _check_rows(state: RunState, lost: dict[str, Evidence]) -> None:
    """Compare the ledger with what this run has sent and recorded; the next renewal follows if that fails now.

    :param lost: claims that could not be renewed, although their requests were sent
    """
    with contextlib.suppress(LedgerUnavailable):
        await state.check_rows(lost | state.memory.all(), 0.0)


async def _renew(state: RunState, held: set[str]) -> tuple[dict[str, str], int]:
    """The renewed rows, and how many steps of the database's clock had been noticed by then."""
    return await state.runtime.transact(lambda ledger: (ledger.renew(state.me, held, state.clock), state.clock.steps))


def _is_rejected(row: Row | None, record: Record) -> bool:
    return row is not None and row.state == State.REJECTED and row.digest == record.digest
