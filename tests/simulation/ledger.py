"""The ledger's rules in memory; `tests/integration/test_ledger_model.py` compares them with the SQL ledger's."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

from payarc_provider.sync.ledger import Claimant, KnownRow, Recorded, Resolution, Row, State, is_free
from payarc_provider.sync.ledger.rows import CLOSED

UTC = datetime.UTC


def moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, UTC)


@dataclass
class LedgerModel:
    """Each method is one transaction at the database's time ``now``."""

    table: dict[str, Row]
    altering: bool = False
    now: float = 0.0

    def rows(self, me: Claimant, keys: Any) -> dict[str, Row]:
        return {key: self.table[key] for key in keys if key in self.table}

    def known(self, me: Claimant, keys: Any) -> dict[str, KnownRow]:
        return {
            key: KnownRow(row.customer_id, row.digest, row.source == me.source, row.run_id == me.run_id, row.matched_by)
            for key, row in self.rows(me, keys).items()
            if row.customer_id
        }

    def free(self, record: Any, row: Row | None, retry_rejected: bool) -> bool:
        return is_free(record, row, retry_rejected)

    def claim(
        self,
        me: Claimant,
        claim: str,
        records: Any,
        references: Any,
        sent_after: datetime.datetime,
        *,
        retry_rejected: bool = False,
    ) -> dict[str, Row]:
        for record in records:
            row = self.table.get(record.key)
            if not self.free(record, row, retry_rejected):
                continue
            rejected = bool(record.errors)
            attempt = 1 if row is None else row.attempt + (row.state == State.REJECTED)
            self.table[record.key] = Row(
                key=record.key,
                state=State.REJECTED if rejected else State.PENDING,
                customer_id=None,
                reference=None if rejected else references.get(record.key),
                digest=record.digest,
                fields=record.names,
                source=me.source,
                owner=None if rejected else me.owner,
                claim=None if rejected else claim,
                lease_until=None if rejected else moment(self.now + me.lease),
                settle=None if rejected else me.settle,
                sent_after=None if rejected else sent_after,
                attempt=attempt,
                error='{"record": ["rejected"]}' if rejected else None,
                matched_by=None,
                dag_id=me.dag_id,
                run_id=me.run_id,
            )
        return self.rows(me, [record.key for record in records])

    def under(self, row: Row | None, claims: Any) -> bool:
        return row is not None and row.state == State.PENDING and row.claim is not None and row.claim in claims

    def elsewhere(self, row: Row, held: Any) -> bool:
        return row.state == State.PENDING and row.lease_until is not None and not self.under(row, held)

    def record(self, me: Claimant, answers: Any) -> Recorded:
        done: set[str] = set()
        taken: set[str] = set()
        for answer in answers:
            row = self.table.get(answer.key)
            if row is None or not self.under(row, {answer.claim}):
                continue
            if answer.customer_id and self.id_taken(answer):
                taken.add(answer.key)
                continue
            self.table[answer.key] = replace(
                row,
                state=State.CREATED if answer.customer_id else State.REJECTED,
                customer_id=answer.customer_id,
                error=None if answer.customer_id else '{"record": ["rejected"]}',
                matched_by=answer.matched_by,
                **CLOSED,
            )
            done.add(answer.key)
        return Recorded(done, taken)

    def id_taken(self, answer: Resolution) -> bool:
        return any(row.customer_id == answer.customer_id and row.key != answer.key for row in self.table.values())

    def live(self, row: Row) -> bool:
        return row.lease_until is not None and row.lease_until.timestamp() >= self.now

    def renew(self, me: Claimant, claims: Any) -> dict[str, str]:
        mine = {key: row for key, row in self.table.items() if self.under(row, claims) and self.live(row)}
        for key, row in mine.items():
            self.table[key] = replace(row, lease_until=moment(self.now + me.lease))
        return {key: row.claim or "" for key, row in mine.items()}

    def release(self, me: Claimant, unsent: Any) -> None:
        for key, row in list(self.table.items()):
            if row.state != State.PENDING or row.owner != me.owner:
                continue
            if not self.under(row, {unsent.get(key)}):
                self.table[key] = replace(row, owner=None, claim=None, lease_until=moment(self.now))
            elif row.attempt == 1:
                del self.table[key]
            else:
                self.table[key] = replace(row, **CLOSED)

    def give_up(self, me: Claimant, claims: Any, held: Any) -> None:
        others = [row for row in self.table.values() if self.elsewhere(row, held) and row.reference is None]
        last = max(
            (row.lease_until.timestamp() + (row.settle or 0) for row in others if row.lease_until), default=self.now
        )
        until = moment(last - me.settle if last > self.now else self.now)
        for key, claim in claims.items():
            if self.under(self.table.get(key), {claim}):
                self.table[key] = replace(self.table[key], owner=None, claim=None, lease_until=until)

    def ripe(self, me: Claimant, row: Row) -> bool:
        return row.lease_until is not None and row.lease_until.timestamp() + (row.settle or 0) < self.now

    def take_over(self, me: Claimant, claim: str) -> dict[str, Row]:
        for key, row in self.table.items():
            if self.elsewhere(row, {claim}) and self.ripe(me, row):
                until = moment(self.now + me.lease)
                self.table[key] = replace(row, owner=me.owner, claim=claim, lease_until=until, settle=me.settle)
        return {key: row for key, row in self.table.items() if self.under(row, {claim})}

    def waiting(self, me: Claimant, held: Any) -> tuple[int, float | None]:
        others = [row for row in self.table.values() if self.elsewhere(row, held)]
        ripe = [row.lease_until.timestamp() + (row.settle or 0) - self.now for row in others if row.lease_until]
        return len(others), max(0.0, min(ripe)) if ripe else None

    def record_absence(self, me: Claimant, claims: Any) -> set[str]:
        done = {key for key, claim in claims.items() if self.under(self.table.get(key), {claim})}
        for key in done:
            row = self.table[key]
            self.table[key] = replace(row, **CLOSED, attempt=row.attempt + 1)
        return done

    def ids_with_rows(self, me: Claimant, ids: Any) -> set[str]:
        return {row.customer_id for row in self.table.values() if row.customer_id in ids}  # type: ignore[misc]

    def references_with_rows(self, me: Claimant, references: Any) -> set[str]:
        return {row.reference for row in self.table.values() if row.reference in references}  # type: ignore[misc]

    def open_without_reference(self, me: Claimant, held: Any) -> bool:
        return any(self.elsewhere(row, held) and row.reference is None for row in self.table.values())

    def alters_values(self, account: str) -> bool:
        return self.altering

    def note_altered_values(self, account: str) -> None:
        self.altering = True
