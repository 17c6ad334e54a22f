"""The ledger's rules in memory; `tests/integration/test_ledger_model.py` compares them with the SQL ledger's."""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass, field, replace
from typing import Any

from payarc_provider.sync.clock import ClockWatch, Offset
from payarc_provider.sync.fingerprints import as_column, fingerprints, from_column
from payarc_provider.sync.ledger import (
    Alterations,
    Carrier,
    Claimant,
    Control,
    Evidence,
    KnownRow,
    LedgerLost,
    Recorded,
    Resolution,
    Row,
    State,
    is_free,
)
from payarc_provider.sync.ledger.erasure import check_erasable
from payarc_provider.sync.ledger.repair import LedgerUnchanged
from payarc_provider.sync.ledger.rows import CLOSED, OPEN_STATES, lease_values
from payarc_provider.sync.ledger.tombstones import Tombstone

UTC = datetime.UTC
LEDGER_ID = "0123456789abcdef"


def moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, UTC)


@dataclass
class LedgerModel:
    """Each method is one transaction at the database's time ``now``."""

    table: dict[str, Row]
    seen_alterations: Alterations = field(default_factory=Alterations)
    now: float = 0.0
    clock_fact: str | None = None
    has_customers: bool = False
    rows_lost: bool = False
    erased: dict[str, str | None] = field(default_factory=dict)  # key → the customer that it had

    def rows(self, me: Claimant, keys: Any) -> dict[str, Row]:
        stones = {key: Tombstone(moment(self.now)).as_row(key) for key in keys if self.is_erased(key)}
        return stones | {key: self.table[key] for key in keys if key in self.table}

    def is_erased(self, key: str) -> bool:
        return key in self.erased

    def erase(self, key: str) -> bool:
        """Erase a key; False if that has to wait."""
        row = self.table.get(key)
        if row is not None:
            try:
                check_erasable(row, moment(self.now))
            except LedgerUnchanged:
                return False
            del self.table[key]
        self.erased[key] = row.customer_id if row is not None else None
        self.has_customers = self.has_customers and self.has_created()
        return True

    def known(self, me: Claimant, keys: Any) -> dict[str, KnownRow]:
        return {
            key: KnownRow(
                row.customer_id,
                row.digest,
                row.source == me.source,
                (row.run_id, row.task_id) == (me.run_id, me.task_id),
                row.matched_by,
                row.version,
                row.updated_at is not None,
                row.plan,
            )
            for key, row in self.rows(me, keys).items()
            if row.customer_id and self.needs_nothing(row)
        }

    def needs_nothing(self, row: Row) -> bool:
        return row.state == State.CREATED and row.error is None

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
        clock: ClockWatch | None = None,
        evidence: dict[str, Evidence] | None = None,
    ) -> dict[str, Row]:
        self.measure(clock)
        self.check_evidence(evidence or {})
        for record in records:
            row = self.table.get(record.key)
            if self.is_erased(record.key) or not self.free(record, row, retry_rejected):
                continue
            rejected = bool(record.errors)
            attempt = 1 if row is None else row.attempt + (row.state == State.REJECTED)
            self.table[record.key] = Row(
                key=record.key,
                state=State.REJECTED if rejected else State.PENDING,
                customer_id=None,
                reference=None if rejected else references.get(record.key),
                digest=record.digest,
                fingerprints=fingerprints_of(*record.fields.items()),
                source=me.source,
                owner=None if rejected else me.owner,
                claim=None if rejected else claim,
                lease_until=None if rejected else moment(self.now + me.lease),
                lease=None if rejected else me.lease,
                settle=None if rejected else me.settle,
                sent_after=None if rejected else sent_after,
                attempt=attempt,
                error='{"record": ["rejected"]}' if rejected else None,
                matched_by=None,
                dag_id=me.dag_id,
                run_id=me.run_id,
                task_id=me.task_id,
                claimed_at=moment(self.now),
                version=record.version,
                plan=me.mark(record.begun or "create"),
                inserted_at=moment(self.now) if row is None else row.inserted_at,
            )
        return self.rows(me, [record.key for record in records])

    def under(self, row: Row | None, claims: Any, *states: State) -> bool:
        states = states or (State.PENDING,)
        return row is not None and row.state in states and row.claim is not None and row.claim in claims

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
                digest=answer.digest or row.digest,
                fingerprints=answer.fingerprints or row.fingerprints,
                **CLOSED,
            )
            done.add(answer.key)
            self.has_customers = self.has_customers or answer.customer_id is not None
        return Recorded(done, taken)

    def id_taken(self, answer: Resolution) -> bool:
        return any(row.customer_id == answer.customer_id and row.key != answer.key for row in self.table.values())

    def live(self, row: Row) -> bool:
        return row.lease_until is not None and row.lease_until.timestamp() >= self.now

    def renew(self, me: Claimant, claims: Any, clock: ClockWatch | None = None) -> dict[str, str]:
        self.measure(clock)
        mine = {key: row for key, row in self.table.items() if self.under(row, claims, *OPEN_STATES) and self.live(row)}
        for key, row in mine.items():
            self.table[key] = replace(row, lease_until=moment(self.now + me.lease))
        return {key: row.claim or "" for key, row in mine.items()}

    def release(self, me: Claimant, unsent: Any, unchanged: Any = None) -> None:
        for key, update in (unchanged or {}).items():
            row = self.table.get(key)
            if row is not None and self.under(row, {update.claim}, State.UPDATING):
                before = update.before
                names = {"fingerprints": before.fingerprints, "wanted_version": before.wanted_version}
                names["plan"] = before.plan
                self.table[key] = replace(row, state=State.CREATED, **names, **CLOSED)
        for key, row in list(self.table.items()):
            if row.state not in OPEN_STATES or row.owner != me.owner:
                continue
            if not self.under(row, {unsent.get(key)}):
                self.table[key] = replace(row, owner=None, claim=None, lease_until=moment(self.now), lease=0.0)
            elif row.attempt == 1:
                del self.table[key]
            else:
                self.table[key] = replace(row, **CLOSED)

    def give_up(self, me: Claimant, claims: Any, held: Any, clock: ClockWatch | None = None) -> None:
        self.measure(clock)
        others = self.unrecognizable(held)
        last = max((self.free_at(row, clock) for row in others), default=self.now)
        until = moment(last - me.settle if last > self.now else self.now)
        for key, claim in claims.items():
            if self.under(self.table.get(key), {claim}):
                self.table[key] = replace(self.table[key], owner=None, claim=None, lease_until=until, lease=None)

    def ripe(self, me: Claimant, row: Row) -> bool:
        return row.lease_until is not None and row.lease_until.timestamp() + (row.settle or 0) < self.now

    def take_over(self, me: Claimant, claim: str, clock: ClockWatch | None = None) -> dict[str, Row]:
        self.measure(clock)
        for key, row in self.table.items():
            if self.elsewhere(row, {claim}) and self.ripe(me, row) and (clock is None or clock.proves_end(row)):
                mark = me.mark(me.begun(row.plan) or "create") or row.plan
                self.table[key] = replace(row, **lease_values(me, claim, moment(self.now)), plan=mark)
        return {key: row for key, row in self.table.items() if self.under(row, {claim})}

    def waiting(
        self, me: Claimant, held: Any, clock: ClockWatch | None = None, updating: Any = ()
    ) -> tuple[int, float | None]:
        others = [row for row in self.table.values() if self.elsewhere(row, held)]
        others += [row for row in self.rows(me, updating).values() if row.state == State.UPDATING]
        waits = [max(0.0, self.free_at(row, clock) - self.now) for row in others]
        return len(waits), min(waits, default=None)

    def free_at(self, row: Row, clock: ClockWatch | None) -> float:
        return max(row.takeover_at.timestamp(), self.now + clock.remaining(row) if clock else self.now)

    def measure(self, clock: ClockWatch | None) -> None:
        if clock is not None:
            clock.measure(lambda: moment(self.now))

    def compare_clock(self, me: Claimant, clock: ClockWatch, payarc: Offset | None) -> None:
        self.measure(clock)
        waits = [(row.lease or 0) + (row.settle or 0) for row in self.table.values() if row.lease_until]
        self.clock_fact = clock.compare(self.clock_fact, payarc, max(waits, default=0.0), me.lease + me.settle) or (
            self.clock_fact
        )

    # ---- updates ------------------------------------------------------------------------------------------------

    def claim_updates(
        self,
        me: Claimant,
        claims: Any,
        *,
        clock: ClockWatch | None = None,
        evidence: dict[str, Evidence] | None = None,
    ) -> dict[str, Row]:
        self.measure(clock)
        self.check_evidence(evidence or {})
        for claim in claims:
            key, row = claim.before.key, self.table.get(claim.before.key)
            if row is None or not self.is_as(row, claim.before):
                continue
            if row.state == State.UPDATING and not self.is_over(me, row, clock):
                continue
            self.table[key] = replace(
                row,
                **lease_values(me, claim.claim, moment(self.now)),
                state=State.UPDATING,
                fingerprints=claim.fingerprints,
                wanted_version=claim.version,
                plan=claim.plan,
                attempt=row.attempt + 1,
                dag_id=me.dag_id,
                run_id=me.run_id,
                task_id=me.task_id,
            )
        return {key: self.table[key] for claim in claims if (key := claim.before.key) in self.table}

    def is_as(self, row: Row, before: Row) -> bool:
        names = ("state", "attempt", "claim", "lease_until", "digest", "fingerprints", "version", "inserted_at")
        return all(getattr(row, name) == getattr(before, name) for name in names)

    def is_over(self, me: Claimant, row: Row, clock: ClockWatch | None) -> bool:
        return self.ripe(me, row) and (clock is None or clock.proves_end(row))

    def record_updates(self, me: Claimant, results: Any) -> set[str]:
        done = set()
        for result in results:
            row = self.table.get(result.key)
            if row is None or row.state != State.UPDATING or not self.is_mine(row, result):
                continue
            self.table[result.key] = replace(
                row,
                state=State.CREATED,
                digest=result.digest,
                fingerprints=result.fingerprints,
                version=result.version,
                wanted_version=result.wanted_version,
                reference=result.reference,
                error='{"name": ["rejected"]}' if result.errors is not None else None,
                updated_at=moment(self.now) if result.sent else row.updated_at,
                **CLOSED,
            )
            done.add(result.key)
        return done

    def is_mine(self, row: Row, result: Any) -> bool:
        return self.under(row, {result.claim}, State.UPDATING)

    def note_unchanged(self, me: Claimant, notes: Any) -> set[str]:
        done = set()
        for note in notes:
            key, row = note.before.key, self.table.get(note.before.key)
            new = replace(
                note.before, digest=note.digest, fingerprints=note.fingerprints, version=note.version, error=None
            )
            if row is not None and row.state == State.CREATED and (self.is_as(row, note.before) or row == new):
                self.table[key] = replace(
                    row, digest=note.digest, fingerprints=note.fingerprints, version=note.version, error=None
                )
                done.add(key)
        return done

    def record_absence(self, me: Claimant, claims: Any) -> set[str]:
        done = {key for key, claim in claims.items() if self.under(self.table.get(key), {claim})}
        for key in done:
            row = self.table[key]
            self.table[key] = replace(row, **CLOSED, attempt=row.attempt + 1)
        return done

    def created_since(self, me: Claimant, claimed: datetime.datetime) -> dict[str, Control]:
        return {
            row.customer_id: Control(row.claimed_at, row.reference if row.state == State.CREATED else None)
            for row in self.table.values()
            if row.customer_id and row.matched_by != "email" and row.claimed_at and row.claimed_at >= claimed
        }

    def known_ids(self, account: str) -> list[str]:
        return [row.customer_id for row in self.table.values() if row.customer_id][-3:]

    def ids_with_rows(self, me: Claimant, ids: Any) -> set[str]:
        return {row.customer_id for row in self.table.values() if row.customer_id in ids}  # type: ignore[misc]

    def keys_of(self, me: Claimant, ids: Any) -> dict[str, str]:
        return {row.customer_id: row.key for row in self.table.values() if row.customer_id in ids}  # type: ignore[misc]

    def references_with_rows(self, me: Claimant, references: Any) -> set[str]:
        return {row.reference for row in self.table.values() if row.reference in references}  # type: ignore[misc]

    def may_be_open_unrecognized(self, me: Claimant, held: Any) -> bool:
        return bool(self.unrecognizable(held))

    def unrecognizable(self, held: Any) -> list[Row]:
        rows = [row for row in self.table.values() if self.elsewhere(row, held)]
        return rows if self.seen_alterations.descriptions else [row for row in rows if row.reference is None]

    def check_customers(self, account: str, carriers: dict[str, Carrier]) -> None:
        rows = [row for row in self.table.values() if row.customer_id or row.lease_until is not None]
        ids, known = {row.customer_id for row in self.table.values()}, {row.reference for row in rows}
        ids |= set(self.erased.values())
        sent = [from_column(row.fingerprints) for row in rows if row.lease_until and not row.reference]
        for customer_id, carrier in carriers.items():
            explained = carrier.reference in known or any(carrier.equals(prints) for prints in sent)
            if customer_id not in ids and not explained:
                raise LedgerLost("ledger", "has lost rows")

    def check_losses(self, account: str) -> None:
        if self.rows_lost or (self.has_customers and not self.has_created()):
            raise LedgerLost("ledger", "has lost rows")

    def has_created(self) -> bool:
        return any(row.customer_id for row in self.table.values())

    def check_rows(self, me: Claimant, evidence: dict[str, Evidence]) -> None:
        if self.rows_lost:
            raise LedgerLost("ledger", "has lost rows")
        self.check_evidence(evidence)

    def check_evidence(self, evidence: dict[str, Evidence]) -> None:
        missing = {key for key, known in evidence.items() if known.is_missing_from(self.table.get(key))}
        ids = {row.customer_id for row in self.table.values() if row.customer_id}
        missing -= {key for key in missing if evidence[key].returned_id in ids and key in self.table}
        if missing - self.erased.keys():
            raise LedgerLost("ledger", f"has lost {sorted(missing)}")

    def note_loss(self, account: str) -> None:
        self.rows_lost = True

    def alterations(self, account: str) -> Alterations:
        return self.seen_alterations

    def note_alterations(self, account: str, seen: Alterations) -> None:
        known = self.seen_alterations
        self.seen_alterations = Alterations(known.values or seen.values, known.descriptions or seen.descriptions)


@functools.lru_cache(1000)
def fingerprints_of(*fields: tuple[str, str]) -> str:
    """The fingerprints of these fields as the ledger stores them."""
    return as_column(fingerprints(LEDGER_ID, dict(fields)))
