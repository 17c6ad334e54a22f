"""An overview of a ledger for people: counts, pending rows, rejected records and DAG runs."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.sync.ledger.database import database_now
from payarc_provider.sync.ledger.facts import count_barred
from payarc_provider.sync.ledger.ledger import Ledger
from payarc_provider.sync.ledger.rows import Hold, State, hold, takeover_at
from payarc_provider.sync.records import Errors


@dataclass(slots=True)
class AccountCounts:
    """How many rows an account has by state and by source, and how many pending ones by `Hold`.

    :param forgotten: customers whose key was forgotten
    """

    account: str
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    holds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Hold, 0))
    sources: Counter[str] = field(default_factory=Counter)
    oldest_pending: datetime.datetime | None = None
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A pending row.

    :param since: when it was claimed
    :param takeover_at: when another run may take it over; None if it is unsent
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
    """A rejected record.

    :param retried: whether the next run that reads the record tries it again
    """

    account: str
    key: str
    since: datetime.datetime | None
    source: str
    errors: Errors
    retried: bool
    dag_id: str | None
    run_id: str | None
    task_id: str | None


@dataclass(frozen=True, slots=True)
class RunCounts:
    """The states of the records whose latest claim was made by this DAG run.

    :param dag_id: empty for rows that no run claimed, such as those of a rebuilt ledger
    :param last: when the run claimed the latest of them
    """

    dag_id: str
    run_id: str
    last: datetime.datetime
    created: int
    rejected: int
    pending: int

    @property
    def total(self) -> int:
        """The number of records."""
        return self.created + self.rejected + self.pending


class Overview:
    """Reads an open ledger.

    Pages come in two orders. With an offset, the oldest rows come first. After a key, rows come in key order, and each
    page costs the same however many rows precede it.

    :param account: read only this account's rows
    """

    def __init__(self, ledger: Ledger, account: str | None = None) -> None:
        self._ledger = ledger
        self._account = account
        self._rows = ledger.schema.rows

    def accounts(self) -> list[str]:
        """The accounts that have rows or belong to a known connection."""
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
            for account, source, state, row_hold, count, oldest in connection.execute(self._count_query(now)):
                counts = counted.setdefault(account, AccountCounts(account))
                counts.states[state] += count
                counts.sources[source] += count
                if state == State.PENDING:
                    counts.holds[row_hold] += count
                    counts.oldest_pending = min(filter(None, (counts.oldest_pending, oldest)), default=None)
            for name, counts in counted.items():
                counts.forgotten = count_barred(connection, self._ledger.schema.facts, name)
        return now, list(counted.values())

    def _count_query(self, now: datetime.datetime) -> Any:
        rows = self._rows
        columns = (rows.c.account, rows.c.source, rows.c.state, hold(rows, now).label("hold"), rows.c.claimed_at)
        each = select(*columns).where(*self._conditions()).subquery()
        group = (each.c.account, each.c.source, each.c.state, each.c.hold)
        counted = select(*group, func.count(), func.min(each.c.claimed_at)).group_by(*group)
        return counted.order_by(each.c.account, each.c.source)

    # ---- pages of rows ------------------------------------------------------------------------------------------

    def count(self, state: State) -> int:
        """How many rows are in this state."""
        query = select(func.count()).select_from(self._rows).where(*self._conditions(state))
        with self._ledger.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def pending(self, limit: int, *, offset: int = 0) -> list[PendingRow]:
        """A page of pending rows, the oldest first."""
        return self._pending(self._oldest_first("claimed_at"), limit, offset)

    def pending_by_key(self, limit: int, after: str | None = None) -> list[PendingRow]:
        """A page of pending rows in key order, starting after the key ``after``."""
        return self._pending([self._rows.c.key], limit, after=after)

    def rejected(self, limit: int, *, offset: int = 0) -> list[RejectedRow]:
        """A page of rejected records, the oldest rejections first."""
        return self._rejected(self._oldest_first("resolved_at"), limit, offset)

    def rejected_by_key(self, limit: int, after: str | None = None) -> list[RejectedRow]:
        """A page of rejected records in key order, starting after the key ``after``."""
        return self._rejected([self._rows.c.key], limit, after=after)

    def rejected_record(self, key: str) -> RejectedRow | None:
        """A rejected record, or None if the key is not rejected."""
        query = select(self._rows).where(*self._conditions(State.REJECTED), self._rows.c.key == key)
        with self._ledger.database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return _rejected_row(row) if row is not None else None

    def _pending(self, order: list[Any], limit: int, offset: int = 0, after: str | None = None) -> list[PendingRow]:
        with self._ledger.database.read() as connection:
            held = hold(self._rows, database_now(connection)).label("hold")
            query = select(self._rows, held).where(*self._conditions(State.PENDING))
            return [_pending_row(row) for row in self._page(connection, query, order, limit, offset, after)]

    def _rejected(self, order: list[Any], limit: int, offset: int = 0, after: str | None = None) -> list[RejectedRow]:
        query = select(self._rows).where(*self._conditions(State.REJECTED))
        with self._ledger.database.read() as connection:
            return [_rejected_row(row) for row in self._page(connection, query, order, limit, offset, after)]

    def _page(
        self, connection: Connection, query: Any, order: list[Any], limit: int, offset: int, after: str | None
    ) -> Sequence[RowMapping]:
        if after is not None:
            query = query.where(self._rows.c.key > after)
        return connection.execute(query.order_by(*order).limit(limit).offset(offset)).mappings().all()

    def _oldest_first(self, column: str) -> list[Any]:
        return [self._rows.c.account, self._rows.c[column], self._rows.c.key]

    def _conditions(self, state: State | None = None) -> list[ColumnElement[bool]]:
        account = [] if self._account is None else [self._rows.c.account == self._account]
        return account if state is None else [*account, self._rows.c.state == state]

    # ---- DAG runs -----------------------------------------------------------------------------------------------

    def runs(self, limit: int, after: RunCounts | None = None) -> list[RunCounts]:
        """Some DAG runs, the latest first.

        :param after: only runs that come after this one in the list, that is, earlier runs; its counts do not matter
        """
        rows = self._rows
        each = (
            select(
                func.coalesce(rows.c.dag_id, "").label("dag_id"),
                func.coalesce(rows.c.run_id, "").label("run_id"),
                rows.c.claimed_at,
                *(case((rows.c.state == state, 1), else_=0).label(state) for state in State),
            )
            .where(*self._conditions())
            .subquery()
        )
        counts = [func.sum(each.c[state]).label(state) for state in State]
        last = func.max(each.c.claimed_at).label("last")
        run = select(each.c.dag_id, each.c.run_id, last, *counts).group_by(each.c.dag_id, each.c.run_id).subquery()
        query = select(run).order_by(run.c.last.desc(), run.c.dag_id, run.c.run_id).limit(limit)
        if after is not None:
            query = query.where(_follows(run, after))
        with self._ledger.database.read() as connection:
            return [
                RunCounts(row["dag_id"], row["run_id"], row["last"], **{str(state): int(row[state]) for state in State})
                for row in connection.execute(query).mappings()
            ]


def _follows(run: Any, after: RunCounts) -> ColumnElement[bool]:
    same_moment, same_dag = run.c.last == after.last, run.c.dag_id == after.dag_id
    return or_(
        run.c.last < after.last,
        and_(same_moment, run.c.dag_id > after.dag_id),
        and_(same_moment, same_dag, run.c.run_id > after.run_id),
    )


def _pending_row(row: RowMapping) -> PendingRow:
    return PendingRow(
        row["account"],
        row["key"],
        row["claimed_at"],
        Hold(row["hold"]),
        takeover_at(row["lease_until"], row["settle"]) if row["lease_until"] is not None else None,
        row["reference"],
        row["source"],
        row["attempt"],
        row["dag_id"],
        row["run_id"],
        row["task_id"],
    )


def _rejected_row(row: RowMapping) -> RejectedRow:
    return RejectedRow(
        row["account"],
        row["key"],
        row["resolved_at"],
        row["source"],
        json.loads(row["error"]) if row["error"] else {},
        not row["digest"],
        row["dag_id"],
        row["run_id"],
        row["task_id"],
    )
