"""The ledger: which records have been claimed, created or rejected, with the rules enforced by its database.

Every method is one transaction and may be repeated when it is not known whether it took effect.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Table, and_, bindparam, delete, or_, select, update
from sqlalchemy.engine import Connection

from payarc_provider.sync.ledger.database import among, can_skip_locked, chunks, database_now, insert_absent
from payarc_provider.sync.ledger.errors import LedgerConflict
from payarc_provider.sync.ledger.facts import FactTable, barred_ids, first_attempt
from payarc_provider.sync.ledger.rows import (
    CLOSED,
    Claimant,
    Known,
    Lock,
    Recorded,
    Resolution,
    Retry,
    Row,
    State,
    at_key,
    in_state,
    is_free,
    open_elsewhere,
    owned,
    read_rows,
    takeover_at,
    unsent,
)
from payarc_provider.sync.records import Record


class Ledger(FactTable):
    """The ledger's rows, and the facts about it. It must be opened before anything else.

    :param engine: an engine of its own on SQLite, PostgreSQL, MySQL or MariaDB
    :param table: ``payarc_customers`` or ``schema.payarc_customers``
    """

    @property
    def _rows(self) -> Table:
        return self.schema.rows

    # ---- reading ------------------------------------------------------------------------------------------------

    def now(self) -> datetime.datetime:
        """The database's time, in UTC."""
        with self.database.read() as connection:
            return database_now(connection)

    def rows(self, me: Claimant, keys: Collection[str]) -> dict[str, Row]:
        """The rows of these keys."""
        with self.database.read() as connection:
            return self._read(connection, me, keys)

    def known(self, me: Claimant, keys: Collection[str]) -> dict[str, Known]:
        """Those of these keys that have a customer, with the few columns that a run over known records needs."""
        rows = self._rows
        columns = [
            rows.c.key,
            rows.c.customer_id,
            rows.c.digest,
            (rows.c.source == me.source).label("ours"),
            and_(rows.c.run_id == me.run_id, rows.c.dag_id == me.dag_id).label("this_run"),
            rows.c.matched_by,
        ]
        with self.database.read() as connection:
            # Rows without a customer are skipped below: a condition could lead the database away from its primary key.
            query = select(*columns).where(rows.c.account == me.account, among(connection, rows.c.key, keys))
            found = connection.execute(query).all()
        return {row[0]: Known(*row[1:]) for row in found if row[1] is not None}

    def known_ids(self, account: str, most: int = 3) -> list[str]:
        """A few of the account's customer ids, the latest first, to prove that a token belongs to its merchant."""
        rows = self._rows
        query = select(rows.c.customer_id).where(in_state(rows, account, State.CREATED))
        with self.database.read() as connection:
            return [row[0] for row in connection.execute(query.order_by(rows.c.resolved_at.desc()).limit(most))]

    def has_rows(self, account: str) -> bool:
        """Whether the account has any row."""
        query = select(self._rows.c.key).where(self._rows.c.account == account).limit(1)
        with self.database.read() as connection:
            return connection.execute(query).first() is not None

    def _read(self, connection: Connection, me: Claimant, keys: Collection[str]) -> dict[str, Row]:
        rows = self._rows
        found: dict[str, Row] = {}
        for part in chunks(keys, 5000):
            found |= read_rows(connection, rows, rows.c.account == me.account, among(connection, rows.c.key, part))
        return found

    # ---- claiming -----------------------------------------------------------------------------------------------

    def claim(
        self,
        me: Claimant,
        records: Sequence[Record],
        references: Mapping[str, str | None],
        sent_after: datetime.datetime,
        *,
        retry_rejected: Retry = False,
    ) -> dict[str, Row]:
        """Claim the records that are free, and read the rows of all of them.

        `is_free` says which are free. Records with errors are stored as rejected; they never change a row that is
        created or may be open.

        :param records: at most one per key, each with a key
        :param references: key → the reference in the record's description, None where there is none
        :param sent_after: PayArc's time before which no request of this claim can have been sent
        :return: key → row after the claim; a pending row whose ``owner`` is ``me.owner`` was claimed by this attempt
        """
        # In key order, or two runs deadlock.
        in_order = sorted(records, key=lambda record: record.key or "")
        wanted = {record.key: record for record in in_order if record.key is not None}
        with self.database.write() as connection:
            now = database_now(connection)
            before = self._read(connection, me, wanted)
            changes = {
                key: _claim_values(me, record, references.get(key), sent_after, now)
                for key, record in wanted.items()
                if is_free(record, before.get(key), retry_rejected)
            }
            new = [key for key in changes if key not in before]
            if new:
                attempt = first_attempt(connection, self.schema.facts)
                identity = {"account": me.account, "attempt": attempt}
                insert_absent(connection, self._rows, [identity | {"key": key} | changes[key] for key in new])
            for key, values in changes.items():
                if key in before:
                    self._claim_again(connection, me, before[key], values)
            return self._read(connection, me, wanted)

    def _claim_again(self, connection: Connection, me: Claimant, before: Row, values: dict[str, Any]) -> None:
        rows = self._rows
        attempt = before.attempt + (before.state == State.REJECTED)
        still_free = or_(rows.c.state == State.REJECTED, unsent(rows))
        this = at_key(rows, me.account, before.key)
        connection.execute(update(rows).where(this, still_free).values(**values, attempt=attempt))

    # ---- owning -------------------------------------------------------------------------------------------------

    def renew(self, me: Claimant) -> set[str]:
        """Extend the lease of every row that this attempt still owns; returns their keys."""
        rows = self._rows
        with self.database.write() as connection:
            until = me.lease_until(database_now(connection))
            connection.execute(update(rows).where(owned(rows, me)).values(lease_until=until))
            return {row[0] for row in connection.execute(select(rows.c.key).where(owned(rows, me)))}

    def release(self, me: Claimant, unsent: Collection[str]) -> None:
        """Release every row that this attempt owns.

        :param unsent: keys that this attempt claimed and never handed to the HTTP library. The others may be open and
            stay so until another run takes them over, ``settle`` seconds from now or later.
        """
        rows = self._rows
        with self.database.write() as connection:
            now = database_now(connection)
            first = first_attempt(connection, self.schema.facts)
            for part in chunks(sorted(unsent)):
                connection.execute(delete(rows).where(owned(rows, me, part), rows.c.attempt <= first))
                connection.execute(update(rows).where(owned(rows, me, part)).values(**CLOSED))
            connection.execute(update(rows).where(owned(rows, me)).values(owner=None, lease_until=now))

    def give_up(self, me: Claimant, keys: Collection[str]) -> None:
        """Release some rows that may be open; other runs can take them over after ``settle`` seconds.

        Where other runs have open rows without a reference, the takeover waits for the last of these: the customers of
        equal records can be told apart only when all of the records are looked up together.
        """
        rows = self._rows
        query = select(rows.c.lease_until, rows.c.settle).where(open_elsewhere(rows, me), rows.c.reference.is_(None))
        with self.database.write() as connection:
            now = database_now(connection)
            last = max((takeover_at(*found) for found in connection.execute(query)), default=now)
            until = last - datetime.timedelta(seconds=me.settle) if last > now else now
            for part in chunks(sorted(keys)):
                connection.execute(update(rows).where(owned(rows, me, part)).values(owner=None, lease_until=until))

    def record(self, me: Claimant, resolutions: Sequence[Resolution]) -> Recorded:
        """Record the resolutions of those rows that this attempt still owns, all in one transaction.

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
                {key for part in parts for key in part.keys}, {key for part in parts for key in part.taken_ids}
            )

    def _record(self, connection: Connection, me: Claimant, resolutions: Sequence[Resolution]) -> Recorded:
        rows = self._rows
        now = database_now(connection)
        keys = sorted(one.key for one in resolutions)
        query = select(rows.c.key).where(owned(rows, me, keys)).order_by(rows.c.key).with_for_update()
        mine = {row[0] for row in connection.execute(query)}
        ids = {one.customer_id for one in resolutions if one.customer_id}
        barred = barred_ids(connection, self.schema.facts, me.account, ids)
        taken = {one.key for one in resolutions if one.key in mine and one.customer_id in barred}
        values = [
            {
                "b_key": one.key,
                "b_state": State.CREATED if one.customer_id else State.REJECTED,
                "b_customer_id": one.customer_id,
                "b_error": _as_json(one.errors) if one.errors else None,
                "b_matched_by": one.matched_by,
            }
            for one in sorted(resolutions, key=lambda one: one.key)
            if one.key in mine - taken
        ]
        if values:
            columns: dict[str, Any] = {
                name: bindparam(f"b_{name}") for name in ("state", "customer_id", "error", "matched_by")
            }
            change = update(rows).where(owned(rows, me), rows.c.key == bindparam("b_key"))
            connection.execute(change.values(**columns, **CLOSED, resolved_at=now), values)
        return Recorded(mine - taken, taken)

    # ---- looking up ---------------------------------------------------------------------------------------------

    def take_over(self, me: Claimant) -> dict[str, Row]:
        """Take over those of the account's open rows whose lease ended at least their ``settle`` ago.

        Rows that another transaction has locked are left for the next time, where the database can skip them.

        :return: every row that this attempt owns now, earlier ones included
        """
        rows = self._rows
        with self.database.write() as connection:
            now = database_now(connection)
            lock: Lock = "skip locked" if can_skip_locked(connection) else None
            found = read_rows(connection, rows, open_elsewhere(rows, me), rows.c.lease_until < now, lock=lock)
            for row in found.values():
                if row.takeover_at < now:
                    change = update(rows).where(at_key(rows, me.account, row.key), rows.c.state == State.PENDING)
                    change = change.where(rows.c.owner == row.owner, rows.c.lease_until <= row.lease_until)
                    lease = {"owner": me.owner, "lease_until": me.lease_until(now), "settle": me.settle}
                    connection.execute(change.values(**lease))
            return read_rows(connection, rows, owned(rows, me))

    def waiting(self, me: Claimant) -> tuple[int, float | None]:
        """How many rows may be open elsewhere, and in how many seconds the first of them can be taken over."""
        rows = self._rows
        query = select(rows.c.lease_until, rows.c.settle).where(open_elsewhere(rows, me))
        with self.database.read() as connection:
            now = database_now(connection)
            moments = [takeover_at(*found) for found in connection.execute(query)]
        return len(moments), max(0.0, (min(moments) - now).total_seconds()) if moments else None

    def record_absence(self, me: Claimant, keys: Collection[str]) -> set[str]:
        """Record that PayArc's list has no customer for these rows, so that they are unsent; returns the rows' keys."""
        rows = self._rows
        done: set[str] = set()
        with self.database.write() as connection:
            for part in chunks(sorted(keys)):
                mine = owned(rows, me, part)
                done |= {row[0] for row in connection.execute(select(rows.c.key).where(mine).with_for_update())}
                connection.execute(update(rows).where(mine).values(**CLOSED, attempt=rows.c.attempt + 1))
        return done

    def ids_with_rows(self, me: Claimant, customer_ids: Collection[str]) -> set[str]:
        """Which of these customers belong to a row, or did until its key was forgotten."""
        found = self._present(me, "customer_id", customer_ids)
        with self.database.read() as connection:  # after the rows, since a key may be forgotten in between
            for part in chunks(sorted(customer_ids)):
                found |= barred_ids(connection, self.schema.facts, me.account, part)
        return found

    def references_with_rows(self, me: Claimant, references: Collection[str]) -> set[str]:
        """Which of these references belong to a row."""
        return self._present(me, "reference", references)

    def open_without_reference(self, me: Claimant) -> bool:
        """Whether a row without a reference may be open elsewhere."""
        rows = self._rows
        query = select(rows.c.key).where(open_elsewhere(rows, me), rows.c.reference.is_(None)).limit(1)
        with self.database.read() as connection:
            return connection.execute(query).first() is not None

    def _present(self, me: Claimant, column: str, values: Collection[str]) -> set[str]:
        rows = self._rows
        found: set[str] = set()
        with self.database.read() as connection:
            for part in chunks(sorted(values)):
                query = select(rows.c[column]).where(rows.c.account == me.account, rows.c[column].in_(part))
                found |= {row[0] for row in connection.execute(query)}
        return found


def _claim_values(
    me: Claimant, record: Record, reference: str | None, sent_after: datetime.datetime, now: datetime.datetime
) -> dict[str, Any]:
    """The columns of a claimed row; of a rejected one if the record has errors."""
    values: dict[str, Any] = {
        "customer_id": None,
        "digest": record.digest,
        "fields": record.names,
        "source": me.source,
        "matched_by": None,
        "dag_id": me.dag_id,
        "run_id": me.run_id,
        "task_id": me.task_id,
        "claimed_at": now,
    }
    if record.errors:
        rejected = {"state": State.REJECTED, "reference": None, "error": _as_json(record.errors), "resolved_at": now}
        return values | rejected | CLOSED
    pending = {"state": State.PENDING, "reference": reference, "error": None, "resolved_at": None}
    lease = {"owner": me.owner, "lease_until": me.lease_until(now), "settle": me.settle, "sent_after": sent_after}
    return values | pending | lease


def _as_json(errors: Any) -> str:
    return json.dumps(errors, ensure_ascii=False)
