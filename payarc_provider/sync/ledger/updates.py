"""The part of the ledger that changes customers: one request per customer, and never an older one after a newer one."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, and_, bindparam, func, select, update
from sqlalchemy.engine import Connection

from payarc_provider.sync.clock import ClockWatch
from payarc_provider.sync.ledger.customers import CustomerTable
from payarc_provider.sync.ledger.database import among, chunks, database_now
from payarc_provider.sync.ledger.losses import Evidence
from payarc_provider.sync.ledger.rows import (
    CLOSED,
    Claimant,
    Row,
    State,
    at_key,
    claimed,
    errors_as_json,
    lease_values,
    read_rows,
)
from payarc_provider.sync.records import Errors


@dataclass(frozen=True, slots=True)
class UpdateClaim:
    """A claim on a customer that a run is going to change.

    :param claim: the id of the claim
    :param before: the row as the run has read it; if it has changed since, it is not claimed
    :param fingerprints: the row's fingerprints while the request may be applied
    :param version: of the new data
    :param plan: the row's mark, as `Claimant.mark` writes it
    """

    claim: str
    before: Row
    fingerprints: str
    version: str | None
    plan: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """How an update ends: the row is created again.

    :param claim: the id of the row's claim; a row under another claim is not changed
    :param digest: of the record's data, which was applied or rejected
    :param fingerprints: of what PayArc has now
    :param version: of what PayArc has now
    :param wanted_version: of newer data that PayArc may have instead; None if it certainly has not
    :param reference: in the customer's description now
    :param errors: why PayArc rejected the change; None if it was applied
    :param sent: whether a request has changed the customer
    """

    key: str
    claim: str
    digest: str
    fingerprints: str
    version: str | None
    wanted_version: str | None
    reference: str | None
    errors: Errors | None = None
    sent: bool = True


@dataclass(frozen=True, slots=True)
class Note:
    """What a run notes in the row of a customer that it does not change.

    :param before: the row as the run has read it
    :param digest: of the record's data
    :param fingerprints: of what PayArc has
    :param version: of the record's data
    :param errors: why the change is rejected; None if there is nothing to change
    """

    before: Row
    digest: str
    fingerprints: str
    version: str | None
    errors: Errors | None = None


class UpdateTable(CustomerTable):
    """A ledger whose rows' customers can be changed."""

    @property
    def _rows(self) -> Table:
        return self.schema.rows

    def read(self, connection: Connection, me: Claimant, keys: Collection[str]) -> dict[str, Row]:
        """The rows of these keys, in a transaction."""
        rows = self._rows
        found: dict[str, Row] = {}
        for part in chunks(keys, 5000):
            found |= read_rows(connection, rows, rows.c.account == me.account, among(connection, rows.c.key, part))
        return found

    def claim_updates(
        self,
        me: Claimant,
        claims: Sequence[UpdateClaim],
        *,
        clock: ClockWatch | None = None,
        evidence: Mapping[str, Evidence] | None = None,
    ) -> dict[str, Row]:
        """Claim these customers, if their rows are still as they were read and nobody may be changing them.

        :return: key → row after the claim; those under the claim's id were claimed
        :raises LedgerLost: a row does not show what is known about it
        """
        wanted = {claim.before.key: claim for claim in sorted(claims, key=lambda claim: claim.before.key)}
        with self.database.write() as connection:
            now = measured_now(connection, clock)
            self.check_evidence(connection, me.account, evidence or {}, self.read(connection, me, wanted))
            run = {"dag_id": me.dag_id, "run_id": me.run_id, "task_id": me.task_id, "state": State.UPDATING}
            changes = [
                (
                    claim.before,
                    lease_values(me, claim.claim, now)
                    | {"fingerprints": claim.fingerprints, "wanted_version": claim.version, "plan": claim.plan}
                    | {"attempt": claim.before.attempt + 1, **run},
                )
                for claim in wanted.values()
                if claim.before.state != State.UPDATING or self._is_over(claim.before, now, clock)
            ]
            self._change(connection, me, changes)
            return self.read(connection, me, wanted)

    @staticmethod
    def _is_over(row: Row, now: datetime.datetime, clock: ClockWatch | None) -> bool:
        """Whether no request of the row's owner can be applied any more."""
        return row.takeover_at < now and (clock is None or clock.proves_end(row))

    def _change(self, connection: Connection, me: Claimant, changes: Sequence[tuple[Row, Mapping[str, Any]]]) -> None:
        """Change these rows if they are still as they were read; one statement for all of them.

        Each claim raises the number of the attempt, and a renewal changes the lease. A row that was lost and inserted
        again may have another customer.

        :param changes: the row as it was read, and column → value; the same columns for all rows
        """
        if not changes:
            return
        columns = self._rows.c
        was = ("state", "attempt", "claim", "lease_until", "digest", "fingerprints", "version", "inserted_at")
        same = [columns[name].is_not_distinct_from(bindparam(f"was_{name}", type_=columns[name].type)) for name in was]
        new: dict[str, Any] = {name: bindparam(f"new_{name}") for name in changes[0][1]}
        this = and_(columns.account == me.account, columns.key == bindparam("this_key"))
        connection.execute(
            update(self._rows).where(this, *same).values(**new),
            [
                {"this_key": row.key}
                | {f"was_{name}": getattr(row, name) for name in was}
                | {f"new_{name}": one for name, one in values.items()}
                for row, values in changes
            ],
        )

    def record_updates(self, me: Claimant, results: Sequence[UpdateResult]) -> set[str]:
        """Record the results for those rows that are still under their claims; returns their keys."""
        rows = self._rows
        with self.database.write() as connection:
            now = database_now(connection)
            these = and_(
                claimed(rows, me, {result.claim for result in results}, State.UPDATING),
                rows.c.key.in_(sorted(result.key for result in results)),
            )
            query = select(rows.c.key, rows.c.claim).where(these).order_by(rows.c.key).with_for_update()
            claims = {row[0]: row[1] for row in connection.execute(query)}
            mine = [result for result in results if claims.get(result.key) == result.claim]
            if mine:
                self._record_updates(connection, me, mine, now)
        return {result.key for result in mine}

    def _record_updates(
        self, connection: Connection, me: Claimant, results: Sequence[UpdateResult], now: datetime.datetime
    ) -> None:
        rows, names = self._rows, ("digest", "fingerprints", "version", "wanted_version", "reference")
        values = [
            {f"b_{name}": getattr(result, name) for name in ("key", "claim", *names)}
            | {
                "b_error": errors_as_json(result.errors) if result.errors is not None else None,
                "b_resolved_at": now if result.errors is not None else None,
                "b_updated_at": now if result.sent else None,
            }
            for result in sorted(results, key=lambda result: result.key)
        ]
        columns: dict[str, Any] = {name: bindparam(f"b_{name}") for name in (*names, "error")}
        for name in ("resolved_at", "updated_at"):
            columns[name] = func.coalesce(bindparam(f"b_{name}", type_=rows.c[name].type), rows.c[name])
        this = and_(rows.c.account == me.account, rows.c.key == bindparam("b_key"))
        change = update(rows).where(this, rows.c.claim == bindparam("b_claim"), rows.c.state == State.UPDATING)
        connection.execute(change.values(state=State.CREATED, **columns, **CLOSED), values)

    def note_unchanged(self, me: Claimant, notes: Sequence[Note]) -> set[str]:
        """Note these about created rows that are still as they were read; returns the keys of these rows."""
        wanted = {note.before.key: note for note in sorted(notes, key=lambda note: note.before.key)}
        with self.database.write() as connection:
            changes = [
                (
                    note.before,
                    {"digest": note.digest, "fingerprints": note.fingerprints, "version": note.version}
                    | {"error": errors_as_json(note.errors) if note.errors is not None else None},
                )
                for note in wanted.values()
                if note.before.state == State.CREATED
            ]
            self._change(connection, me, changes)
            # Whoever has written it: a commit whose answer was lost is repeated.
            return {key for key, row in self.read(connection, me, wanted).items() if _shows(row, wanted[key])}

    def reopen(self, connection: Connection, me: Claimant, claims: Mapping[str, UpdateClaim]) -> None:
        """Give up these claims, whose requests were not sent, so that the rows are as they were before."""
        rows = self._rows
        for key, claim in sorted(claims.items()):
            this = and_(at_key(rows, me.account, key), claimed(rows, me, {claim.claim}, State.UPDATING))
            before = claim.before
            values = {
                "state": State.CREATED,
                "fingerprints": before.fingerprints,
                "wanted_version": before.wanted_version,
                "plan": before.plan,
            }
            connection.execute(update(rows).where(this).values(**values, **CLOSED))


def _shows(row: Row, note: Note) -> bool:
    return (
        row.state == State.CREATED
        and (row.digest, row.fingerprints, row.version) == (note.digest, note.fingerprints, note.version)
        and row.errors == (note.errors or {})
    )


def measured_now(connection: Connection, clock: ClockWatch | None) -> datetime.datetime:
    """The database's time, compared with this machine's."""
    return clock.measure(lambda: database_now(connection)) if clock else database_now(connection)
