"""A snapshot of an account for the page in Airflow's UI, which costs little in a ledger of any size.

It reads no more than `LISTED` rejected and `LISTED` open rows, through indexes, counts no further than `COUNTED`, and
reads the facts about runs instead of grouping the rows by run.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, literal, select
from sqlalchemy.engine import Connection

from payarc_provider.sync.keys import natural_order
from payarc_provider.sync.ledger.database import database_now
from payarc_provider.sync.ledger.errors import LedgerUnavailable
from payarc_provider.sync.ledger.ledger import Ledger
from payarc_provider.sync.ledger.overview import Overview, PendingRow, RejectedRow
from payarc_provider.sync.ledger.rows import Hold, State, in_state
from payarc_provider.sync.ledger.runs import DagRunCounts, RunLog
from payarc_provider.sync.ledger.tombstones import count_tombstones
from payarc_provider.sync.rejections import Group, Rejections

COUNTED = 1_000_000
LISTED = 10_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An account at one moment.

    :param at: the database's time
    :param states: how many rows are in each state; `COUNTED` + 1 stands for more than `COUNTED`
    :param rejected: rejected records and changes, the oldest `LISTED` of them, in natural order of their keys
    :param pending: pending and updating rows, likewise
    :param groups: the rejected records by reason, the most frequent first
    :param runs: the DAG runs, the latest first
    :param erased: how many keys are erased
    :param unfinished: how many of these erasures are not finished
    :param is_complete: whether ``rejected`` and ``pending`` have every row, by these names
    """

    ledger_id: str
    account: str
    at: datetime.datetime
    states: Mapping[State, int]
    rejected: Sequence[RejectedRow]
    pending: Sequence[PendingRow]
    groups: Sequence[Group]
    runs: Sequence[DagRunCounts]
    is_complete: Mapping[str, bool]
    erased: int = 0
    unfinished: int = 0

    @property
    def holds(self) -> Counter[Hold]:
        """How many of the pending and updating rows are held, open or unsent."""
        return Counter(row.hold for row in self.pending)

    @property
    def oldest_pending(self) -> datetime.datetime | None:
        """When the oldest of the pending rows was claimed."""
        return min((row.since for row in self.pending if row.since is not None), default=None)


@dataclass(frozen=True, slots=True)
class AccountStates:
    """All accounts of a ledger at one moment.

    :param states: account → how many rows are in each state; None if counting them takes too long
    :param oldest_pending: account → when its oldest pending row was claimed, for accounts with pending rows
    """

    at: datetime.datetime
    names: Sequence[str]
    states: Mapping[str, Mapping[str, int]] | None
    oldest_pending: Mapping[str, datetime.datetime]


def all_accounts(ledger: Ledger) -> AccountStates:
    """Read the names and counts of all accounts.

    :raises PayarcLedgerError: when the database fails
    """
    rows, names, at = ledger.schema.rows, Overview(ledger).accounts(), ledger.now()
    columns = (rows.c.account, rows.c.state)
    states: dict[str, dict[str, int]] = {name: dict.fromkeys(State, 0) for name in names}
    try:
        with ledger.database.read() as connection:
            for account, state, count in connection.execute(select(*columns, func.count()).group_by(*columns)):
                states.setdefault(account, dict.fromkeys(State, 0))[state] = count
            claimed = select(rows.c.account, func.min(rows.c.claimed_at)).where(rows.c.state == State.PENDING)
            oldest = {row[0]: row[1] for row in connection.execute(claimed.group_by(rows.c.account))}
    except LedgerUnavailable:
        return AccountStates(at, names, None, {})
    return AccountStates(at, names, states, oldest)


def take_snapshot(ledger: Ledger, account: str) -> Snapshot:
    """Read an account.

    :raises PayarcLedgerError: when the database fails, or takes too long
    """
    overview = Overview(ledger, account)
    with ledger.database.read() as connection:
        now = database_now(connection)
        states = {state: _count(connection, ledger, account, state) for state in State}
        erased, unfinished = count_tombstones(connection, ledger.schema.facts, account)
    rejected, pending = overview.rejected(LISTED + 1), overview.pending(LISTED + 1)
    is_complete = {"rejected": len(rejected) <= LISTED, "pending": len(pending) <= LISTED}
    rejected = sorted(rejected[:LISTED], key=lambda row: natural_order(row.key))
    reasons = Rejections()
    for row in rejected:
        reasons.add(row.errors, row.key)
    return Snapshot(
        ledger_id=ledger.ledger_id,
        account=account,
        at=now,
        states=states,
        rejected=rejected,
        pending=sorted(pending[:LISTED], key=lambda row: natural_order(row.key)),
        groups=reasons.groups(),
        runs=RunLog(ledger, account).latest(),
        is_complete=is_complete,
        erased=erased,
        unfinished=unfinished,
    )


def _count(connection: Connection, ledger: Ledger, account: str, state: State) -> int:
    rows = ledger.schema.rows
    found = select(literal(1)).select_from(rows).where(in_state(rows, account, state)).limit(COUNTED + 1).subquery()
    return int(connection.execute(select(func.count()).select_from(found)).scalar_one())
