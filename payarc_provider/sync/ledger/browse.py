"""One account's rows a page at a time, in key order: a page costs the same however many rows there are before it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, case, func, or_, select

from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.overview import PendingRow, RejectedRow, pending_row, rejected_row
from payarc_provider.sync.ledger.schema import database_now
from payarc_provider.sync.ledger.states import State


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What became of the records that a DAG run was the last to claim.

    :param dag_id: empty where no run claimed them (a rebuilt ledger)
    :param last: when it claimed the last of them
    """

    dag_id: str
    run_id: str
    last: datetime.datetime
    created: int
    rejected: int
    pending: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.created + self.rejected + self.pending


class AccountRows:
    """Reads one account of a ledger that is open."""

    def __init__(self, ledger: Ledger, account: str) -> None:
        self._ledger = ledger
        self._account = account
        self._rows = ledger.schema.rows

    def pending(self, limit: int, after: str | None = None) -> list[PendingRow]:
        """Some pending rows, by key.

        :param after: only keys after this one
        """
        with self._ledger.database.read() as connection:
            now = database_now(connection)
            return [
                pending_row(row, now) for row in connection.execute(self._page(State.PENDING, limit, after)).mappings()
            ]

    def rejected(self, limit: int, after: str | None = None) -> list[RejectedRow]:
        """Some refused records, by key.

        :param after: only keys after this one
        """
        with self._ledger.database.read() as connection:
            return [
                rejected_row(row) for row in connection.execute(self._page(State.REJECTED, limit, after)).mappings()
            ]

    def rejected_record(self, key: str) -> RejectedRow | None:
        """One refused record; None if the key is not refused (any more)."""
        query = select(self._rows).where(*self._in(State.REJECTED), self._rows.c.key == key)
        with self._ledger.database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return rejected_row(row) if row is not None else None

    def runs(self, limit: int, after: RunCounts | None = None) -> list[RunCounts]:
        """Some DAG runs, the latest first.

        :param after: only runs after this one, that is, earlier ones; its counts do not matter
        """
        rows = self._rows
        each = (
            select(
                func.coalesce(rows.c.dag_id, "").label("dag_id"),
                func.coalesce(rows.c.run_id, "").label("run_id"),
                rows.c.claimed_at,
                *(case((rows.c.state == state, 1), else_=0).label(state) for state in State),
            )
            .where(rows.c.account == self._account)
            .subquery()
        )
        run = (
            select(
                each.c.dag_id,
                each.c.run_id,
                func.max(each.c.claimed_at).label("last"),
                *(func.sum(each.c[state]).label(state) for state in State),
            )
            .group_by(each.c.dag_id, each.c.run_id)
            .subquery()
        )
        query = select(run).order_by(run.c.last.desc(), run.c.dag_id, run.c.run_id).limit(limit)
        if after is not None:
            query = query.where(_later_in_order(run, after))
        with self._ledger.database.read() as connection:
            return [
                RunCounts(
                    row["dag_id"],
                    row["run_id"],
                    row["last"],
                    **{str(state): int(row[state]) for state in State},
                )
                for row in connection.execute(query).mappings()
            ]

    def _in(self, state: State) -> list[Any]:
        return [self._rows.c.account == self._account, self._rows.c.state == state]

    def _page(self, state: State, limit: int, after: str | None) -> Any:
        query = select(self._rows).where(*self._in(state)).order_by(self._rows.c.key).limit(limit)
        return query if after is None else query.where(self._rows.c.key > after)


def _later_in_order(run: Any, after: RunCounts) -> Any:
    same_moment, same_dag = run.c.last == after.last, run.c.dag_id == after.dag_id
    return or_(
        run.c.last < after.last,
        and_(same_moment, run.c.dag_id > after.dag_id),
        and_(same_moment, same_dag, run.c.run_id > after.run_id),
    )
