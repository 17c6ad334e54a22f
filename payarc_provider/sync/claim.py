"""Taking records in: what the ledger knows of them, what can be claimed, what is to be sent."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Iterable

from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.existing import Existing, Matches
from payarc_provider.sync.intent import Claim
from payarc_provider.sync.ledger import EPOCH, Known, Row, State, is_free
from payarc_provider.sync.reads import read
from payarc_provider.sync.records import Errors, Record
from payarc_provider.sync.reference import reference, with_reference
from payarc_provider.sync.send import Sender
from payarc_provider.sync.state import RunState
from payarc_provider.sync.states import Status


class Claimer:
    """Finds out what is known of records, claims what is free, and queues what is to be sent.

    :param existing: what PayArc has already, where ``match_existing`` asks for it
    :param settle_first: settles the account's open rows, before customers are adopted by email
    """

    def __init__(
        self, work: RunState, sender: Sender, existing: Existing | None, settle_first: Callable[[], Awaitable[None]]
    ) -> None:
        self._work = work
        self._sender = sender
        self._existing = existing
        self._settle_first = settle_first
        self._payarc_time: tuple[float, float] | None = None  # PayArc's clock, at least this, when ours showed that
        self.prepared = False

    async def take(self, records: Iterable[Record]) -> None:
        """Find out, claim, queue."""
        work = self._work
        fit = self._fit(records)
        if fit:
            fit = self._accept_known(fit, await work.in_ledger(lambda: work.ledger.known(fit.keys())))
        if not fit:
            return
        before = await work.in_ledger(lambda: work.ledger.rows(fit.keys()))
        free = {key: record for key, record in fit.items() if self._is_free(key, record, before.get(key))}
        if work.settings.dry_run:
            self._report_dry_run(fit, before, free)
            return
        matches = Matches()
        if any(not record.errors for record in free.values()):
            await self._prepare()
            if self._existing is not None:
                matches = await self._existing.match(free)
        for key in matches.wait:
            work.aside.append(free.pop(key))
            del fit[key]
        asked = work.clock.now()
        after = before | await self._claim(free) if free else before
        for key, record in fit.items():
            if key in matches.adopt and _owned(after.get(key), work.me.owner):
                self._sender.adopt(self._intent(record, after[key], asked), *matches.adopt[key])
            else:
                self._sort(record, before.get(key), after.get(key), asked if key in free else None)

    def _fit(self, records: Iterable[Record]) -> dict[str, Record]:
        """Key → record; of a key that comes twice, the later one waits."""
        fit: dict[str, Record] = {}
        for record in records:
            if record.key is None or record.unstorable:
                self._work.met["rejected"] += 1
                self._work.refuse(record, record.errors, new=True)
            elif record.key in fit:
                self._work.aside.append(record)
            else:
                fit[record.key] = record
        return fit

    def _is_free(self, key: str, record: Record, row: Row | None) -> bool:
        return key not in self._work.mine and is_free(record, row, self._work.settings.retry_rejected)

    async def _claim(self, free: dict[str, Record]) -> dict[str, Row]:
        codes = {key: self._carried_reference(record) for key, record in free.items() if not record.errors}
        reach("before_claim")
        rows = await self._work.in_ledger(
            lambda: self._work.ledger.claim(list(free.values()), codes, self._sent_after())
        )
        reach("after_claim")
        return rows

    def _sort(self, record: Record, before: Row | None, row: Row | None, asked: float | None) -> None:
        """Decide by its row what becomes of a record.

        :param asked: this process's clock when its claim was asked for; None where it was not. A row that this attempt
            owns for another reason (it took it over, or its outcome is unknown) is never sent from here.
        """
        work = self._work
        if record.errors:
            known = _has_refused(before, record)
            self._tally_refusal(record, before, row)
            work.refuse(record, record.errors, new=not known or work.same_run(before))
        elif row is None:
            work.aside.append(record)
        elif row.state == State.CREATED:
            self._accept(record, row)
        elif row.state == State.REJECTED and row.digest == record.digest:
            self._tally_refusal(record, row, row)
            work.refuse(record, row.errors, new=work.same_run(row))
        elif _owned(row, work.me.owner) and asked is not None:
            self._sender.queue(self._intent(record, row, asked))
        else:
            work.aside.append(record)

    def _tally_refusal(self, record: Record, before: Row | None, row: Row | None) -> None:
        """Count a refusal that the ledger has: now, since just before, or from this DAG run, which counted it then."""
        work = self._work
        if _has_refused(before, record):
            work.met["rejected"] += not work.same_run(before)
        else:
            (work.done if _has_refused(row, record) else work.met)["rejected"] += 1

    def _accept_known(self, fit: dict[str, Record], known: dict[str, Known]) -> dict[str, Record]:
        """Give those records that have a customer its id; returns the others."""
        left = {}
        for key, record in fit.items():
            row = known.get(key)
            changed = row is not None and row.digest != record.digest
            if row is None or record.errors or (changed and not row.ours):
                left[key] = record
            else:
                status = _status(row.matched_by) if row.this_run else Status.KNOWN
                self._work.accept(record, row.customer_id, status, changed=changed)
        return left

    def _accept(self, record: Record, row: Row) -> None:
        changed = row.digest != record.digest
        if changed and row.source != self._work.me.source:
            self._work.met["rejected"] += 1
            self._work.refuse(record, _other_source(row), new=True)
            return
        status = _status(row.matched_by) if self._work.same_run(row) else Status.KNOWN
        self._work.accept(record, row.customer_id or "", status, changed=changed)

    def _intent(self, record: Record, row: Row, asked: float) -> Claim:
        return Claim(record, row.attempt, row.reference, asked + self._work.settings.lease)

    def _report_dry_run(self, fit: dict[str, Record], rows: dict[str, Row], free: dict[str, Record]) -> None:
        work = self._work
        for key, record in fit.items():
            row = rows.get(key)
            if key in free and not record.errors:
                work.counts["would_create"] += 1
                work.sink.would_create(record)
            elif not record.errors and row is not None and row.state == State.PENDING:
                work.counts["pending"] += 1
            else:
                self._sort(record, row, row, None)

    # ---- before the first claim ---------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """One cheap authenticated call, which also tells PayArc's time; then what ``match_existing`` needs."""
        if self.prepared:
            return
        time = await read(self._work, self._work.payarc.ping)
        if time is not None:
            self._payarc_time = (time, self._work.clock.now())
        self.prepared = True
        if self._existing is not None:
            await self._settle_first()
            await self._existing.read()

    def _sent_after(self) -> datetime.datetime:
        if self._payarc_time is None:
            return EPOCH  # PayArc tells no time: a look-up will read the whole list
        then, at = self._payarc_time
        return datetime.datetime.fromtimestamp(
            then + self._work.clock.now() - at - self._work.settings.margin, datetime.UTC
        )

    def _carried_reference(self, record: Record) -> str | None:
        code = reference(self._work.ledger_id, self._work.me.account, record.key or "")
        fits = with_reference(record.fields.get("description"), code) is not None
        return code if self._work.settings.reference and fits else None


def _owned(row: Row | None, owner: str) -> bool:
    return row is not None and row.state == State.PENDING and row.owner == owner


def _has_refused(row: Row | None, record: Record) -> bool:
    return row is not None and row.state == State.REJECTED and row.digest == record.digest


def _status(matched_by: str | None) -> Status:
    return Status.ADOPTED if matched_by == "email" else Status.CREATED


def _other_source(row: Row) -> Errors:
    return {
        "key": [
            f"is already customer {row.customer_id}'s, created from another source ({row.source}) with other "
            "data: if the "
            "two are different people, give this source a ledger_table of its own, or a key that tells them "
            "apart, such "
            'as key=["source", "id"]'
        ]
    }
