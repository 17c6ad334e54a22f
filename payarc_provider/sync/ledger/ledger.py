"""The ledger: which records have been claimed, created or rejected, with the rules enforced by its database.

Every method is one transaction and may be repeated when it is not known whether it took effect.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, case, delete, func, or_, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.sync.clock import ClockWatch
from payarc_provider.sync.fingerprints import as_column, fingerprints
from payarc_provider.sync.ledger.database import among, can_skip_locked, chunks, database_now, insert_absent
from payarc_provider.sync.ledger.errors import LedgerConflict
from payarc_provider.sync.ledger.facts import barred_ids, first_attempt
from payarc_provider.sync.ledger.losses import Evidence
from payarc_provider.sync.ledger.rows import (
    CLOSED,
    OPEN_STATES,
    Claimant,
    KnownRow,
    Lock,
    Recorded,
    Resolution,
    RetryRejected,
    Row,
    State,
    at_key,
    claim_values,
    claimed,
    errors_as_json,
    free_at,
    in_state,
    is_free,
    lease_values,
    open_elsewhere,
    read_rows,
    unsent,
)
from payarc_provider.sync.ledger.tombstones import find_tombstones, with_tombstones
from payarc_provider.sync.ledger.updates import UpdateClaim, UpdateTable, measured_now
from payarc_provider.sync.records import Record


class Ledger(UpdateTable):
    """The ledger's rows, and the facts about it. It must be opened before anything else.

    :param engine: an engine of its own on SQLite, PostgreSQL, MySQL or MariaDB
    :param table: ``payarc_customers`` or ``schema.payarc_customers``
    """

    # ---- reading ------------------------------------------------------------------------------------------------

    def now(self) -> datetime.datetime:
        """The database's time, in UTC."""
        with self.database.read() as connection:
            return database_now(connection)

    def rows(self, me: Claimant, keys: Collection[str]) -> dict[str, Row]:
        """The rows of these keys; for an erased key, one in the state `ERASED`."""
        with self.database.read() as connection:
            return self._read_all(connection, me, keys)

    def _read_all(self, connection: Connection, me: Claimant, keys: Collection[str]) -> dict[str, Row]:
        rows = self.read(connection, me, keys)  # first, since a key may be erased in between
        return with_tombstones(connection, self.schema.facts, self.ledger_id, me.account, keys, rows)

    def known(self, me: Claimant, keys: Collection[str]) -> dict[str, KnownRow]:
        """The rows of those of these keys that are created, with the few columns that a run needs.

        Rows with a rejected change are left out, like those that are being updated.
        """
        rows = self._rows
        columns = [
            rows.c.key,
            case((and_(rows.c.state == State.CREATED, rows.c.error.is_(None)), rows.c.customer_id)),
            rows.c.digest,
            (rows.c.source == me.source).label("same_source"),
            and_(rows.c.run_id == me.run_id, rows.c.dag_id == me.dag_id, rows.c.task_id == me.task_id).label(
                "this_task"
            ),
            rows.c.matched_by,
            rows.c.version,
            rows.c.updated_at.is_not(None).label("was_updated"),
            rows.c.plan,
        ]
        with self.database.read() as connection:
            # Other rows are skipped below: a condition could lead the database away from its primary key.
            query = select(*columns).where(rows.c.account == me.account, among(connection, rows.c.key, keys))
            found = connection.execute(query).all()
        return {row[0]: KnownRow._make(row[1:]) for row in found if row[1] is not None}

    # ---- claiming -----------------------------------------------------------------------------------------------

    def claim(
        self,
        me: Claimant,
        claim: str,
        records: Sequence[Record],
        references: Mapping[str, str | None],
        sent_after: datetime.datetime,
        *,
        retry_rejected: RetryRejected = False,
        clock: ClockWatch | None = None,
        evidence: Mapping[str, Evidence] | None = None,
    ) -> dict[str, Row]:
        """Claim the records that are free, and read the rows of all of them.

        `is_free` says which are free. Records with errors are stored as rejected; they never change a row that is
        created or may be open. Erased keys are not claimed.

        :param claim: the id of this claim: new for each claim, the same if the claim is repeated
        :param records: at most one per key, each with a key
        :param references: key → the reference in the record's description, None where there is none
        :param sent_after: PayArc's time before which no request of this claim can have been sent
        :param clock: compares the database's clock with others
        :param evidence: key → what this run knows about its row
        :return: key → row after the claim; those whose ``claim`` is this id were claimed
        :raises LedgerLost: a row does not show what is known about it
        """
        # In key order, or two runs deadlock.
        in_order = sorted(records, key=lambda record: record.key or "")
        wanted = {record.key: record for record in in_order if record.key is not None}
        with self.database.write() as connection:
            now = measured_now(connection, clock)
            before = self._read_all(connection, me, wanted)
            self.check_evidence(connection, me.account, evidence or {}, before)
            changes = {
                key: claim_values(me, claim, record, self._fingerprints(record), references.get(key), sent_after, now)
                for key, record in wanted.items()
                if is_free(record, before.get(key), retry_rejected)
            }
            new = [key for key in changes if key not in before]
            if new:
                attempt = first_attempt(connection, self.schema.facts)
                identity = {"account": me.account, "attempt": attempt, "inserted_at": now}
                insert_absent(connection, self._rows, [identity | {"key": key} | changes[key] for key in new])
                self._withdraw_erased(connection, me, new)
            for key, values in changes.items():
                if key in before:
                    self._claim_again(connection, me, before[key], values)
            return self._read_all(connection, me, wanted)

    def _withdraw_erased(self, connection: Connection, me: Claimant, keys: Collection[str]) -> None:
        """Delete the new rows of keys that were erased since this transaction has read their rows.

        An erasure writes its tombstone before or while it holds the key's row, and a claim inserts the row before it
        looks for the tombstone. So one of them sees the other.
        """
        rows = self._rows
        erased = find_tombstones(connection, self.schema.facts, self.ledger_id, me.account, keys)
        for part in chunks(sorted(erased)):
            connection.execute(delete(rows).where(rows.c.account == me.account, rows.c.key.in_(part)))

    def _fingerprints(self, record: Record) -> str:
        return as_column(fingerprints(self.ledger_id, record.fields))

    def _claim_again(self, connection: Connection, me: Claimant, before: Row, values: dict[str, Any]) -> None:
        rows = self._rows
        attempt = before.attempt + (before.state == State.REJECTED)
        still_free = or_(rows.c.state == State.REJECTED, unsent(rows))
        this = at_key(rows, me.account, before.key)
        connection.execute(update(rows).where(this, still_free).values(**values, attempt=attempt))

    # ---- owning -------------------------------------------------------------------------------------------------

    def renew(self, me: Claimant, claims: Collection[str], clock: ClockWatch | None = None) -> dict[str, str]:
        """Extend the leases of these claim ids, except lapsed ones; returns key → claim id of the rows."""
        rows = self._rows
        with self.database.write() as connection:
            now = measured_now(connection, clock)
            live = and_(claimed(rows, me, claims, *OPEN_STATES), rows.c.lease_until >= now)
            connection.execute(update(rows).where(live).values(lease_until=me.lease_until(now)))
            found = connection.execute(select(rows.c.key, rows.c.claim).where(live))
            return {row[0]: row[1] for row in found}

    def release(
        self, me: Claimant, unsent: Mapping[str, str], unchanged: Mapping[str, UpdateClaim] | None = None
    ) -> None:
        """Release every row that this attempt owns.

        :param unsent: key → claim id of the rows for which nothing was handed to the HTTP library. The other rows may
            be open and stay so until another run takes them over, ``settle`` seconds from now or later.
        :param unchanged: likewise the rows of customers that nothing can have changed; they are created again
        """
        rows = self._rows
        with self.database.write() as connection:
            now = database_now(connection)
            first = first_attempt(connection, self.schema.facts)
            for these in self._rows_under(me, unsent):
                connection.execute(delete(rows).where(these, rows.c.attempt <= first))
                connection.execute(update(rows).where(these).values(**CLOSED))
            self.reopen(connection, me, unchanged or {})
            rest = and_(in_state(rows, me.account, *OPEN_STATES), rows.c.owner == me.owner)
            connection.execute(update(rows).where(rest).values(owner=None, claim=None, lease_until=now, lease=0.0))

    def give_up(
        self, me: Claimant, claims: Mapping[str, str], held: Collection[str], clock: ClockWatch | None = None
    ) -> None:
        """Release some rows that were looked up; other runs can take them over after ``settle`` seconds.

        If other runs have open rows whose customers show no reference, the takeover waits for the last of them: the
        customers of equal records can be told apart only if all of these records are looked up together.

        :param claims: key → claim id of the rows
        :param held: the ids of all claims of this run
        """
        rows = self._rows
        with self.database.write() as connection:
            now = measured_now(connection, clock)
            elsewhere = self.unrecognizable(connection, me, held)
            last = max(
                (free_at(row, now, clock) for row in read_rows(connection, rows, elsewhere).values()), default=now
            )
            until = last - datetime.timedelta(seconds=me.settle) if last > now else now
            released = {"owner": None, "claim": None, "lease_until": until, "lease": None}
            for these in self._rows_under(me, claims):
                connection.execute(update(rows).where(these).values(**released))

    def record(self, me: Claimant, resolutions: Sequence[Resolution]) -> Recorded:
        """Record the resolutions of those rows that are still under their claims, all in one transaction.

        The resolution of a lost row is dropped: the new owner finds the customer in PayArc's list. An id that another
        row has, or that a forgotten key had, is not recorded either.
        """
        try:
            with self.database.write() as connection:
                return self._record(connection, me, resolutions)
        except LedgerConflict:  # an id belongs to another row: find out which
            if len(resolutions) == 1:
                return Recorded(set(), {resolutions[0].key})
            parts = [self.record(me, [resolution]) for resolution in resolutions]
            return Recorded(
                {key for part in parts for key in part.keys}, {key for part in parts for key in part.conflicts}
            )

    def _record(self, connection: Connection, me: Claimant, resolutions: Sequence[Resolution]) -> Recorded:
        rows = self._rows
        now = database_now(connection)
        keys = sorted(resolution.key for resolution in resolutions)
        these = and_(claimed(rows, me, {resolution.claim for resolution in resolutions}), rows.c.key.in_(keys))
        query = select(rows.c.key, rows.c.claim).where(these).order_by(rows.c.key).with_for_update()
        claims = {row[0]: row[1] for row in connection.execute(query)}
        mine = {resolution.key for resolution in resolutions if claims.get(resolution.key) == resolution.claim}
        ids = {resolution.customer_id for resolution in resolutions if resolution.customer_id}
        barred = barred_ids(connection, self.schema.facts, me.account, ids)
        conflicts = {
            resolution.key for resolution in resolutions if resolution.key in mine and resolution.customer_id in barred
        }
        values = [
            {
                "b_key": resolution.key,
                "b_claim": resolution.claim,
                "b_state": State.CREATED if resolution.customer_id else State.REJECTED,
                "b_customer_id": resolution.customer_id,
                "b_error": errors_as_json(resolution.errors) if resolution.errors else None,
                "b_matched_by": resolution.matched_by,
                "b_digest": resolution.digest,
                "b_fingerprints": resolution.fingerprints,
            }
            for resolution in sorted(resolutions, key=lambda resolution: resolution.key)
            if resolution.key in mine - conflicts
        ]
        if values:
            columns: dict[str, Any] = {
                name: bindparam(f"b_{name}") for name in ("state", "customer_id", "error", "matched_by")
            }
            this = and_(rows.c.account == me.account, rows.c.key == bindparam("b_key"))
            change = update(rows).where(this, rows.c.claim == bindparam("b_claim"), rows.c.state == State.PENDING)
            kept = {
                name: func.coalesce(bindparam(f"b_{name}", type_=rows.c[name].type), rows.c[name])
                for name in ("digest", "fingerprints")
            }
            connection.execute(change.values(**columns, **kept, **CLOSED, resolved_at=now), values)
            if any(value["b_customer_id"] for value in values):
                self.note_customer(connection, me.account)
        return Recorded(mine - conflicts, conflicts)

    # ---- looking up ---------------------------------------------------------------------------------------------

    def take_over(self, me: Claimant, claim: str, clock: ClockWatch | None = None) -> dict[str, Row]:
        """Take over those of the account's open rows whose lease ended at least their ``settle`` ago.

        This attempt may have owned them itself. Locked rows are left for the next time, if they can be skipped.

        :param claim: the id of this claim, as in `claim`
        :param clock: says for which rows the database's clock proves that the lease has ended
        :return: the rows taken over under this claim id
        """
        rows = self._rows
        with self.database.write() as connection:
            now = measured_now(connection, clock)
            lapsed = [open_elsewhere(rows, me, {claim}), rows.c.lease_until < now]
            lock: Lock = "skip locked" if can_skip_locked(connection) else None
            for row in read_rows(connection, rows, *lapsed, lock=lock).values():
                if row.takeover_at < now and (clock is None or clock.proves_end(row)):
                    change = update(rows).where(at_key(rows, me.account, row.key), rows.c.state == State.PENDING)
                    change = change.where(rows.c.claim == row.claim, rows.c.lease_until == row.lease_until)
                    mark = me.mark(me.begun(row.plan) or "create") or row.plan
                    connection.execute(change.values(**lease_values(me, claim, now), plan=mark))
            return read_rows(connection, rows, claimed(rows, me, {claim}))

    def waiting(
        self,
        me: Claimant,
        held: Collection[str],
        clock: ClockWatch | None = None,
        updating: Collection[str] = (),
    ) -> tuple[int, float | None]:
        """How many rows may be open elsewhere, and in how many seconds the first of them can be taken over.

        :param held: the ids of all claims of this run
        :param updating: keys of which the updating rows count, too
        """
        rows = self._rows
        with self.database.read() as connection:
            now = database_now(connection)
            found = list(read_rows(connection, rows, open_elsewhere(rows, me, held)).values())
            found += [row for row in self.read(connection, me, updating).values() if row.state == State.UPDATING]
        waits = [max(0.0, (free_at(row, now, clock) - now).total_seconds()) for row in found]
        return len(waits), min(waits, default=None)

    def record_absence(self, me: Claimant, claims: Mapping[str, str]) -> set[str]:
        """Record that PayArc's list has no customer for these rows, so that they are unsent; returns the rows' keys.

        :param claims: key → claim id of the rows
        """
        rows = self._rows
        done: set[str] = set()
        with self.database.write() as connection:
            for these in self._rows_under(me, claims):
                done |= {row[0] for row in connection.execute(select(rows.c.key).where(these).with_for_update())}
                connection.execute(update(rows).where(these).values(**CLOSED, attempt=rows.c.attempt + 1))
        return done

    def _rows_under(self, me: Claimant, claims: Mapping[str, str]) -> Iterator[ColumnElement[bool]]:
        """Conditions that select these rows if they are still under these claims, some hundreds at a time."""
        for claim in sorted(set(claims.values())):
            for part in chunks(sorted(key for key, row_claim in claims.items() if row_claim == claim)):
                yield and_(claimed(self._rows, me, {claim}), self._rows.c.key.in_(part))
