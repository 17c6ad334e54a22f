"""An overview of a ledger for people: counts, pending rows and rejected records."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import and_, case, func, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.sync.ledger.database import database_now
from payarc_provider.sync.ledger.facts import count_barred
from payarc_provider.sync.ledger.ledger import Ledger
from payarc_provider.sync.ledger.rows import OPEN_STATES, Hold, State, hold, is_rejected, takeover_at
from payarc_provider.sync.ledger.tombstones import Tombstone, count_tombstones, find_tombstones
from payarc_provider.sync.records import Errors


@dataclass(slots=True)
class AccountCounts:
    """How many rows an account has by state and by source, and how many pending and updating ones by `Hold`.

    :param rejected_changes: customers of which a change was rejected
    :param last_update: when a customer was last changed
    :param forgotten: customers whose key was forgotten
    :param erased: erased keys
    :param unfinished: of these, those whose customers PayArc is not known to have deleted
    """

    account: str
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    holds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Hold, 0))
    sources: Counter[str] = field(default_factory=Counter)
    oldest_pending: datetime.datetime | None = None
    rejected_changes: int = 0
    last_update: datetime.datetime | None = None
    forgotten: int = 0
    erased: int = 0
    unfinished: int = 0

    @property
    def rejected(self) -> int:
        """How many records, or changes of customers, are rejected."""
        return self.states[State.REJECTED] + self.rejected_changes


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A pending or updating row.

    :param since: when it was claimed; None if its customer is being updated
    :param takeover_at: when another run may take it over; None if it is unsent
    """

    account: str
    key: str
    state: str
    since: datetime.datetime | None
    hold: Hold
    takeover_at: datetime.datetime | None
    reference: str | None
    source: str
    attempt: int
    dag_id: str | None
    run_id: str | None
    task_id: str | None


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A rejected record, or a customer of which a change was rejected.

    :param customer_id: the customer; None if there is none
    :param sent: whether PayArc has rejected it, and not a check before the request; None for a change of a customer
    :param retried: whether the next run that reads the record tries it again
    """

    account: str
    key: str
    customer_id: str | None
    since: datetime.datetime | None
    source: str
    errors: Errors
    sent: bool | None
    retried: bool
    dag_id: str | None
    run_id: str | None
    task_id: str | None


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row that a search has found.

    :param is_rejected: whether the record, or a change of its customer, is rejected
    :param since: when it became created or rejected; when it was claimed, if it is pending
    """

    key: str
    state: str
    customer_id: str | None
    is_rejected: bool
    since: datetime.datetime | None
    dag_id: str | None
    run_id: str | None
    task_id: str | None


class Overview:
    """Reads an open ledger.

    :param account: read only this account's rows
    """

    def __init__(self, ledger: Ledger, account: str | None = None) -> None:
        self._ledger = ledger
        self._account = account
        self._rows = ledger.schema.rows

    def accounts(self) -> list[str]:
        """The accounts that have rows or belong to a known connection."""
        account = self._rows.c.account
        found = set(self._ledger.facts("account:").values())
        with self._ledger.database.read() as connection:
            last = connection.execute(select(func.min(account))).scalar_one()
            while last is not None:  # from one account to the next in the index; DISTINCT would read every row
                found.add(last)
                last = connection.execute(select(func.min(account)).where(account > last)).scalar_one()
        return sorted(found)

    def counts(self) -> tuple[datetime.datetime, list[AccountCounts]]:
        """The database's time, and the counts of each account."""
        names = [self._account] if self._account is not None else self.accounts()
        counted, facts = {name: AccountCounts(name) for name in names}, self._ledger.schema.facts
        with self._ledger.database.read() as connection:
            now = database_now(connection)
            for row in connection.execute(self._count_query(now)):
                counts = counted.setdefault(row.account, AccountCounts(row.account))
                counts.states[row.state] += row.records
                counts.sources[row.source] += row.records
                counts.rejected_changes += int(row.changes)
                counts.last_update = max(filter(None, (counts.last_update, row.last_update)), default=None)
                if row.hold is not None:
                    counts.holds[row.hold] += row.records
                if row.state == State.PENDING:
                    counts.oldest_pending = min(filter(None, (counts.oldest_pending, row.oldest)), default=None)
            for name, counts in counted.items():
                counts.forgotten = count_barred(connection, facts, name)
                counts.erased, counts.unfinished = count_tombstones(connection, facts, name)
        return now, list(counted.values())

    def _count_query(self, now: datetime.datetime) -> Any:
        rows = self._rows
        is_change = case((and_(rows.c.state == State.CREATED, is_rejected(rows)), 1), else_=0).label("is_change")
        names = ("account", "source", "state", "claimed_at", "updated_at")
        columns = (*(rows.c[name] for name in names), hold(rows, now).label("hold"), is_change)
        each = select(*columns).where(*self._conditions()).subquery()
        group = (each.c.account, each.c.source, each.c.state, each.c.hold)
        counted = select(
            *group,
            func.count().label("records"),
            func.min(each.c.claimed_at).label("oldest"),
            func.max(each.c.updated_at).label("last_update"),
            func.sum(each.c.is_change).label("changes"),
        ).group_by(*group)
        return counted.order_by(each.c.account, each.c.source)

    # ---- pages of rows ------------------------------------------------------------------------------------------

    def count_pending(self) -> int:
        """How many rows are pending or updating."""
        query = select(func.count()).select_from(self._rows).where(*self._conditions(self._pending_rows))
        with self._ledger.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    @property
    def _pending_rows(self) -> ColumnElement[bool]:
        return self._rows.c.state.in_(OPEN_STATES)

    def pending(self, limit: int, *, offset: int = 0) -> list[PendingRow]:
        """A page of pending and updating rows, the oldest first."""
        with self._ledger.database.read() as connection:
            held = hold(self._rows, database_now(connection)).label("hold")
            query = select(self._rows, held).where(*self._conditions(self._pending_rows))
            query = query.order_by(*self._oldest_first("claimed_at")).limit(limit).offset(offset)
            return [_pending_row(row) for row in connection.execute(query).mappings()]

    def rejected(self, limit: int | None = None) -> list[RejectedRow]:
        """The rejected records, the oldest rejections first; at most ``limit`` if it is given."""
        query = select(self._rows).where(*self._conditions(is_rejected(self._rows)))
        query = query.order_by(*self._oldest_first("resolved_at")).limit(limit)
        with self._ledger.database.read() as connection:
            return [_rejected_row(row) for row in connection.execute(query).mappings()]

    def rejected_record(self, key: str) -> RejectedRow | None:
        """A rejected record, or None if the key is not rejected."""
        query = select(self._rows).where(*self._conditions(is_rejected(self._rows)), self._rows.c.key == key)
        with self._ledger.database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return _rejected_row(row) if row is not None else None

    def erased(self, key: str) -> Tombstone | None:
        """What the ledger keeps of this key if it is erased; needs an account."""
        ledger, account = self._ledger, self._account or ""
        with ledger.database.read() as connection:
            return find_tombstones(connection, ledger.schema.facts, ledger.ledger_id, account, [key]).get(key)

    def find(self, start: str, limit: int) -> list[FoundRow]:
        """The rows whose keys begin with this text, in key order; needs an account."""
        if "\0" in start:  # no key has it, and PostgreSQL does not take it
            return []
        rows = self._rows
        names = ("key", "state", "customer_id", "resolved_at", "claimed_at", "dag_id", "run_id", "task_id")
        columns = [*(rows.c[name] for name in names), is_rejected(rows).label("is_rejected")]
        # A range rather than LIKE, which ignores case on SQLite and has wildcards. No key has the last character.
        within = [rows.c.key >= start, rows.c.key < f"{start}\U0010ffff"]
        query = select(*columns).where(*self._conditions(*within)).order_by(rows.c.key).limit(limit)
        with self._ledger.database.read() as connection:
            return [_found_row(row) for row in connection.execute(query).mappings()]

    def _oldest_first(self, column: str) -> list[Any]:
        return [self._rows.c.account, self._rows.c[column], self._rows.c.key]

    def _conditions(self, *more: ColumnElement[bool]) -> list[ColumnElement[bool]]:
        account = [] if self._account is None else [self._rows.c.account == self._account]
        return [*account, *more]


def _pending_row(row: RowMapping) -> PendingRow:
    return PendingRow(
        row["account"],
        row["key"],
        row["state"],
        row["claimed_at"] if row["state"] == State.PENDING else None,
        Hold(row["hold"]),
        takeover_at(row["lease_until"], row["settle"]) if row["lease_until"] is not None else None,
        row["reference"],
        row["source"],
        row["attempt"],
        row["dag_id"],
        row["run_id"],
        row["task_id"],
    )


def _found_row(row: RowMapping) -> FoundRow:
    return FoundRow(
        row["key"],
        row["state"],
        row["customer_id"],
        bool(row["is_rejected"]),
        row["resolved_at"] or row["claimed_at"],
        row["dag_id"],
        row["run_id"],
        row["task_id"],
    )


def _rejected_row(row: RowMapping) -> RejectedRow:
    return RejectedRow(
        row["account"],
        row["key"],
        row["customer_id"],
        row["resolved_at"],
        row["source"],
        json.loads(row["error"]) if row["error"] else {},
        bool(row["fingerprints"]) if row["state"] == State.REJECTED else None,  # a record that is not sent has none
        not row["digest"],
        row["dag_id"],
        row["run_id"],
        row["task_id"],
    )
