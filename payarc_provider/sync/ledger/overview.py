"""What a ledger holds, for people: counts, what is pending and since when, what was refused and why."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.forgotten import count_forgotten
from payarc_provider.sync.ledger.schema import database_now
from payarc_provider.sync.ledger.states import Errors, State


class Hold(StrEnum):
    """What a pending row is waiting for."""

    HELD = "held"
    """A run has it under a live lease."""
    OPEN = "open"
    """The lease is over and PayArc may have a customer for it: the next run takes it over and looks it up."""
    UNSENT = "unsent"
    """PayArc certainly has no customer for it: the next run that reads its record sends it."""


@dataclass(slots=True)
class AccountCounts:
    """How many rows an account has, by state, and the pending ones by what they wait for."""

    account: str
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    holds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Hold, 0))
    oldest_pending: datetime.datetime | None = None
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A pending row.

    :param takeover_at: from when another run may take it over, None where nobody has it
    """

    account: str
    key: str
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
    """A refused record; ``retried`` tells that the next run which reads it tries it again."""

    account: str
    key: str
    since: datetime.datetime | None
    source: str
    errors: Errors
    retried: bool
    dag_id: str | None
    run_id: str | None
    task_id: str | None


class Overview:
    """Reads a ledger that is open.

    :param account: only this account's rows
    """

    def __init__(self, ledger: Ledger, account: str | None = None) -> None:
        self._ledger = ledger
        self._account = account
        self._rows = ledger.schema.rows

    def accounts(self) -> list[str]:
        """The accounts that have rows, or that a run was made for."""
        query = select(self._rows.c.account).distinct()
        with self._ledger.database.read() as connection:
            found = {row[0] for row in connection.execute(query)}
        return sorted(found | set(self._ledger.facts("account:").values()))

    def counts(self) -> tuple[datetime.datetime, list[AccountCounts]]:
        """The database's time, and the counts of each account."""
        names = [self._account] if self._account is not None else self.accounts()
        counted = {name: AccountCounts(name) for name in names}
        with self._ledger.database.read() as connection:
            now = database_now(connection)
            for account, state, hold, count, oldest in connection.execute(self._counting(now)):
                one = counted.setdefault(account, AccountCounts(account))
                one.states[state] += count
                if state == State.PENDING:
                    one.holds[hold] += count
                    one.oldest_pending = min(filter(None, (one.oldest_pending, oldest)), default=None)
            for name, one in counted.items():
                one.forgotten = count_forgotten(connection, self._ledger.schema.facts, name)
        return now, list(counted.values())

    def pending(self, limit: int, offset: int) -> tuple[int, list[PendingRow]]:
        """How many pending rows there are, and some of them, the oldest first."""
        with self._ledger.database.read() as connection:
            now = database_now(connection)
            total, rows = self._some(connection, State.PENDING, "claimed_at", limit, offset)
        return total, [pending_row(row, now) for row in rows]

    def rejected(self, limit: int, offset: int) -> tuple[int, list[RejectedRow]]:
        """How many refused records there are, and some of them, the oldest first."""
        with self._ledger.database.read() as connection:
            total, rows = self._some(connection, State.REJECTED, "settled_at", limit, offset)
        return total, [rejected_row(row) for row in rows]

    def _chosen(self) -> list[ColumnElement[bool]]:
        return [] if self._account is None else [self._rows.c.account == self._account]

    def _some(self, connection: Connection, state: State, order: str, limit: int, offset: int) -> tuple[int, list[Any]]:
        rows = self._rows
        chosen = [*self._chosen(), rows.c.state == state]
        total = connection.execute(select(func.count()).select_from(rows).where(*chosen)).scalar_one()
        query = select(rows).where(*chosen).order_by(rows.c.account, rows.c[order], rows.c.key)
        return total, list(connection.execute(query.limit(limit).offset(offset)).mappings())

    def _counting(self, now: datetime.datetime) -> Any:
        rows = self._rows
        hold = case(
            (rows.c.state != State.PENDING, None),
            (rows.c.sent_after.is_(None) & rows.c.owner.is_(None), Hold.UNSENT.value),
            (rows.c.lease_until >= now, Hold.HELD.value),
            else_=Hold.OPEN.value,
        )
        each = select(rows.c.account, rows.c.state, hold.label("hold"), rows.c.claimed_at).where(*self._chosen())
        one = each.subquery()
        grouped = select(one.c.account, one.c.state, one.c.hold, func.count(), func.min(one.c.claimed_at))
        return grouped.group_by(one.c.account, one.c.state, one.c.hold).order_by(one.c.account)


def pending_row(row: Any, now: datetime.datetime) -> PendingRow:
    """A pending row as people see it, from all columns of the table."""
    return PendingRow(
        row["account"],
        row["key"],
        row["claimed_at"],
        _hold(row, now),
        _takeover_at(row),
        row["reference"],
        row["source"],
        row["attempt"],
        row["dag_id"],
        row["run_id"],
        row["task_id"],
    )


def rejected_row(row: Any) -> RejectedRow:
    """A refused row as people see it, from all columns of the table."""
    return RejectedRow(
        row["account"],
        row["key"],
        row["settled_at"],
        row["source"],
        json.loads(row["error"]) if row["error"] else {},
        not row["digest"],
        row["dag_id"],
        row["run_id"],
        row["task_id"],
    )


def _hold(row: Any, now: datetime.datetime) -> Hold:
    if row["sent_after"] is None and row["owner"] is None:
        return Hold.UNSENT
    return Hold.HELD if row["lease_until"] is not None and row["lease_until"] >= now else Hold.OPEN


def _takeover_at(row: Any) -> datetime.datetime | None:
    until: datetime.datetime | None = row["lease_until"]
    return until + datetime.timedelta(seconds=row["settle"] or 0) if until is not None else None
