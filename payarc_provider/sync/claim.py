"""Claiming: what the ledger knows of each record, and which rows this run may claim and send. Renewing the leases."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeGuard

from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.existing import Existing, Matches
from payarc_provider.sync.ledger import EPOCH, Known, LedgerUnavailable, Row, State, is_free
from payarc_provider.sync.records import Errors, Record
from payarc_provider.sync.reference import with_reference
from payarc_provider.sync.results import Status
from payarc_provider.sync.send import Sender
from payarc_provider.sync.state import Claim, RunState

log = logging.getLogger(__name__)


class Claimer:
    """Reports the records whose result is known already, claims what is free, and queues what is to be sent.

    :param existing: the customers that PayArc has, where ``match_existing`` asks for them
    :param look_up: settles the account's open rows; comes before customers are adopted by email
    """

    def __init__(
        self, state: RunState, sender: Sender, existing: Existing | None, look_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._state = state
        self._sender = sender
        self._existing = existing
        self._look_up = look_up
        self._payarc_clock: tuple[float, float] | None = None  # PayArc's clock, at least, when ours showed the second
        self.has_prepared = False

    async def take(self, records: Iterable[Record]) -> None:
        """Claim and queue the records that need a customer; report or postpone the others."""
        state = self._state
        batch = self._by_key(records)
        if batch:
            known = await state.transact(lambda ledger: ledger.known(state.me, batch.keys()))
            batch = self._accept_known(batch, known)
        if not batch:
            return
        before = await state.transact(lambda ledger: ledger.rows(state.me, batch.keys()))
        free = {key: record for key, record in batch.items() if self._is_free(key, record, before.get(key))}
        if state.settings.dry_run:
            self._plan(batch, before, free)
            return
        matches = Matches()
        if any(not record.errors for record in free.values()):
            await self._prepare()
            if self._existing is not None:
                matches = await self._existing.match(free)
        for key in matches.wait:
            state.postponed.append(free.pop(key))
            del batch[key]
        requested = state.runtime.now()
        after = before | await self._claim(free) if free else before
        for key, record in batch.items():
            row = after.get(key)
            if key in matches.adopt and self._is_ours(row):
                customer_id, matched_by = matches.adopt[key]
                self._sender.adopt(self._claim_of(record, row, requested), customer_id, matched_by)
            else:
                self._sort(record, before.get(key), row, requested if key in free else None)

    def _by_key(self, records: Iterable[Record]) -> dict[str, Record]:
        """Key → record; of records that share a key, the later ones are postponed."""
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

    def _accept_known(self, batch: dict[str, Record], known: dict[str, Known]) -> dict[str, Record]:
        """Accept the records that have a customer already; returns the others."""
        left = {}
        for key, record in batch.items():
            row = known.get(key)
            changed = row is not None and row.digest != record.digest
            if row is None or record.errors or (changed and not row.ours):
                left[key] = record
            else:
                status = _status(row.matched_by) if row.this_run else Status.KNOWN
                self._state.accept(record, row.customer_id, status, changed=changed)
        return left

    def _is_free(self, key: str, record: Record, row: Row | None) -> bool:
        return key not in self._state.claims and is_free(record, row, self._state.settings.retry_rejected)

    def _is_ours(self, row: Row | None) -> TypeGuard[Row]:
        return row is not None and row.state == State.PENDING and row.owner == self._state.me.owner

    async def _claim(self, free: dict[str, Record]) -> dict[str, Row]:
        state = self._state
        references = {key: self._reference_for(record) for key, record in free.items() if not record.errors}
        sent_after = self._sent_after()
        retry = state.settings.retry_rejected
        reach("before_claim")
        rows = await state.transact(
            lambda ledger: ledger.claim(state.me, list(free.values()), references, sent_after, retry_rejected=retry)
        )
        reach("after_claim")
        return rows

    def _claim_of(self, record: Record, row: Row, requested: float) -> Claim:
        return Claim(record, row.attempt, row.reference, requested + self._state.settings.lease)

    def _sort(self, record: Record, before: Row | None, row: Row | None, requested: float | None) -> None:
        """Decide by its row what becomes of a record.

        :param requested: this machine's clock when its claim was requested; None where none was. A row that this run
            owns for another reason (it took it over, or its outcome is unknown) is never sent from here.
        """
        state = self._state
        if record.errors:
            known = _has_rejected(before, record)
            self._count_rejection(record, before, row)
            state.reject(record, record.errors, new=not known or self._is_this_runs(before))
        elif row is None:
            state.postponed.append(record)
        elif row.state == State.CREATED:
            self._accept_created(record, row)
        elif row.state == State.REJECTED and row.digest == record.digest:
            self._count_rejection(record, row, row)
            state.reject(record, row.errors, new=self._is_this_runs(row))
        elif self._is_ours(row) and requested is not None:
            self._sender.send(self._claim_of(record, row, requested))
        else:
            state.postponed.append(record)

    def _accept_created(self, record: Record, row: Row) -> None:
        changed = row.digest != record.digest
        if changed and row.source != self._state.me.source:
            self._state.counts["known_rejected"] += 1
            self._state.reject(record, _other_source(row), new=True)
            return
        status = _status(row.matched_by) if self._is_this_runs(row) else Status.KNOWN
        self._state.accept(record, row.customer_id or "", status, changed=changed)

    def _count_rejection(self, record: Record, before: Row | None, row: Row | None) -> None:
        """Count a rejection as recorded just now, or as read; one of this DAG run was counted when it was recorded."""
        counts = self._state.counts
        if _has_rejected(before, record):
            counts["known_rejected"] += not self._is_this_runs(before)
        else:
            counts["recorded_rejected" if _has_rejected(row, record) else "known_rejected"] += 1

    def _is_this_runs(self, row: Row | None) -> bool:
        """Whether this DAG run, in whichever try, wrote the row."""
        me = self._state.me
        return row is not None and me.run_id is not None and (row.dag_id, row.run_id) == (me.dag_id, me.run_id)

    def _plan(self, batch: dict[str, Record], rows: dict[str, Row], free: dict[str, Record]) -> None:
        """Count what a run would do."""
        for key, record in batch.items():
            row = rows.get(key)
            if key in free and not record.errors:
                self._state.counts["would_create"] += 1
            elif not record.errors and row is not None and row.state == State.PENDING:
                self._state.counts["pending"] += 1
            else:
                self._sort(record, row, row, None)

    # ---- before the first claim -----------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """One cheap authenticated request, which also shows PayArc's clock; then what ``match_existing`` needs."""
        if self.has_prepared:
            return
        state = self._state
        time = await state.payarc.read(state.runtime.ping)
        if time is not None:
            self._payarc_clock = (time, state.runtime.now())
        self.has_prepared = True
        if self._existing is not None:
            await self._look_up()
            await self._existing.read()

    def _sent_after(self) -> datetime.datetime:
        """PayArc's time before which nothing that is claimed now can have been sent."""
        if self._payarc_clock is None:
            return EPOCH  # PayArc shows no time: a look-up will read the whole list
        then, at = self._payarc_clock
        now = then + self._state.runtime.now() - at
        return datetime.datetime.fromtimestamp(now - self._state.settings.margin, datetime.UTC)

    def _reference_for(self, record: Record) -> str | None:
        """The code that the record's description will carry, None where it has no room for it."""
        code = self._state.reference_of(record.key or "")
        fits = with_reference(record.fields.get("description"), code) is not None
        return code if self._state.settings.reference and fits else None


async def renew_leases(state: RunState) -> None:
    """Renew the leases of all rows that the run owns, for ever.

    Every request checks its lease, so nothing is sent for a row whose lease could not be renewed.

    :raises LedgerUnavailable: the ledger could not be reached for the setting ``ledger_patience``
    """
    settings, runtime = state.settings, state.runtime
    wait = settings.renew_every
    while True:
        await runtime.sleep(wait)
        wait = settings.renew_every
        claims = dict(state.claims)
        if not claims and not state.taken_over:
            continue
        reach("before_renewal")
        requested = runtime.now()  # before the transaction begins: a lease must never be taken for longer than it is
        try:
            renewed = await runtime.transact(lambda ledger: ledger.renew(state.me))
        except LedgerUnavailable as error:
            state.ledger_waits.check(renew_leases, requested, settings.ledger_patience, error)
            wait = min(1.0, settings.renew_every / 4)
            continue
        state.ledger_waits.succeed(renew_leases)
        reach("after_renewal")
        for key, claim in claims.items():
            if key in renewed:
                claim.lease_end = max(claim.lease_end, requested + settings.lease)
            elif state.claims.get(key) is claim:
                claim.lost = True


def _has_rejected(row: Row | None, record: Record) -> bool:
    return row is not None and row.state == State.REJECTED and row.digest == record.digest


def _status(matched_by: str | None) -> Status:
    return Status.ADOPTED if matched_by == "email" else Status.CREATED


def _other_source(row: Row) -> Errors:
    return {
        "key": [
            f"already belongs to customer {row.customer_id}, created from another source ({row.source}) with other "
            "data. If they are different people, give this source a ledger_table or a key of its own, such as "
            'key=["source", "id"]'
        ]
    }
