"""A row of the ledger: its states, its columns and the rules about when it may be changed.

A pending row is either *unsent*, when PayArc has certainly no customer for it, or it *may be open*: a request may have
created the customer. A row that may be open has ``lease_until``, ``settle`` and ``sent_after``; every other row has
none of them. ``lease`` is the length of the owner's lease.

An updating row has a customer, and a request may be changing it. It has ``lease_until`` and ``settle``.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from sqlalchemy import Table, and_, case, func, not_, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.sync.clock import ClockWatch
from payarc_provider.sync.records import Errors, Record

EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)

CLOSED: dict[str, Any] = {
    "owner": None,
    "claim": None,
    "lease_until": None,
    "lease": None,
    "settle": None,
    "sent_after": None,
}
"""The columns of a row for which no request can be open at PayArc."""

RetryRejected = bool | datetime.datetime
"""Which rejected rows to try again with the same data: all, none, or those rejected before a moment."""


class State(StrEnum):
    """The state of a row."""

    PENDING = "pending"
    """The customer will be requested, or has been and the outcome may be unknown."""
    CREATED = "created"
    """The customer exists, and the row has its id. With an ``error``, PayArc has rejected a change of its data."""
    UPDATING = "updating"
    """A request that changes the customer was sent or will be, and its outcome may be unknown."""
    REJECTED = "rejected"
    """PayArc or its documented rules rejected the record; it is tried again when its data changes."""


WITH_CUSTOMER = (State.CREATED, State.UPDATING)
"""The states of rows that have a customer."""

OPEN_STATES = (State.PENDING, State.UPDATING)
"""The states of rows that a run may own."""


class Hold(StrEnum):
    """What a pending or updating row is waiting for."""

    HELD = "held"
    """A run owns it under a live lease."""
    OPEN = "open"
    """The lease is over and the outcome may be unknown: the next run takes the row over."""
    UNSENT = "unsent"
    """PayArc certainly has no customer for it: the next run that reads its record sends it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read; ``docs/ledger.md`` explains the columns."""

    key: str
    state: str
    customer_id: str | None
    reference: str | None
    digest: str
    fingerprints: str
    source: str
    owner: str | None
    claim: str | None
    lease_until: datetime.datetime | None
    lease: float | None
    settle: float | None
    sent_after: datetime.datetime | None
    attempt: int
    error: str | None
    matched_by: str | None
    dag_id: str | None
    run_id: str | None
    resolved_at: datetime.datetime | None = None
    claimed_at: datetime.datetime | None = None
    version: str | None = None
    wanted_version: str | None = None
    updated_at: datetime.datetime | None = None
    task_id: str | None = None
    plan: str | None = None
    inserted_at: datetime.datetime | None = None

    @property
    def errors(self) -> Errors:
        """Why the record was rejected, by field."""
        return json.loads(self.error) if self.error else {}

    @property
    def unsent(self) -> bool:
        """Whether the row is pending and PayArc certainly has no customer for it."""
        return self.state == State.PENDING and self.sent_after is None and self.owner is None

    @property
    def takeover_at(self) -> datetime.datetime:
        """When another run may take the row over."""
        return takeover_at(self.lease_until or EPOCH, self.settle)


COLUMNS = tuple(field.name for field in fields(Row))


class KnownRow(NamedTuple):
    """The part of a row with a customer that a run needs.

    :param same_source: whether the row comes from the claimant's source
    :param this_task: whether the claimant's task wrote the row in its DAG run, in this try or an earlier one
    :param was_updated: whether the customer has been updated since it was created
    :param plan: what its row was last claimed for, as `Claimant.mark` writes it
    """

    customer_id: str
    digest: str
    same_source: bool
    this_task: bool
    matched_by: str | None
    version: str | None = None
    was_updated: bool = False
    plan: str | None = None


@dataclass(frozen=True, slots=True)
class Claimant:
    """One attempt of one task, as the owner of rows.

    :param owner: the attempt's random id
    :param source: where its records come from
    :param lease: seconds for which a claim holds without being renewed
    :param settle: seconds within which PayArc applies a request after the lease check that precedes it
    :param plan: the id of its plan, see `plan.plan_id`; None without a plan or a guard
    """

    account: str
    owner: str
    source: str
    lease: float
    settle: float
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    plan: str | None = None

    def lease_until(self, now: datetime.datetime) -> datetime.datetime:
        """When a lease taken now ends."""
        return now + datetime.timedelta(seconds=self.lease)

    def mark(self, begun: str) -> str | None:
        """The column ``plan`` of a row that is claimed for this, as `plan.begun_text` writes it."""
        return f"{self.plan} {begun}" if self.plan else None

    def begun(self, mark: str | None) -> str:
        """What a row with this mark was claimed for under this attempt's plan; empty if under none or another."""
        plan, _, begun = (mark or "").partition(" ")
        return begun if plan == self.plan else ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a pending row ends: with the customer's id, or with the reasons why the record was rejected.

    :param claim: the id of the row's claim; a row under another claim is not changed
    :param digest: of PayArc's values, if the customer was not created with the record's; likewise ``fingerprints``
    """

    key: str
    claim: str
    customer_id: str | None = None
    errors: Errors | None = None
    matched_by: str | None = None
    digest: str | None = None
    fingerprints: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of recording.

    :param keys: the keys whose resolution was recorded
    :param conflicts: the keys whose customer id belongs to another row; their rows stay pending
    """

    keys: set[str]
    conflicts: set[str]


# ---- rules ----------------------------------------------------------------------------------------------------------


def takeover_at(lease_until: datetime.datetime, settle: float | None) -> datetime.datetime:
    """When the last request of a row's owner has been applied or never will be: ``settle`` seconds after the lease."""
    return lease_until + datetime.timedelta(seconds=settle or 0)


def free_at(row: Row, now: datetime.datetime, clock: ClockWatch | None) -> datetime.datetime:
    """When another run may take the row over, as far as the database's clock is evidence now."""
    return max(row.takeover_at, now + datetime.timedelta(seconds=clock.remaining(row))) if clock else row.takeover_at


def is_free(record: Record, row: Row | None, retry_rejected: RetryRejected) -> bool:
    """Whether this record may be claimed: it has no row, an unsent row, or a rejected row to try again."""
    if row is None or row.unsent:
        return True
    if row.state != State.REJECTED:
        return False
    return row.digest != record.digest or (not record.errors and should_retry(row, retry_rejected))


def should_retry(row: Row, retry_rejected: RetryRejected) -> bool:
    """Whether to try a rejected row again with the same data."""
    if isinstance(retry_rejected, bool):
        return retry_rejected
    return row.resolved_at is None or row.resolved_at < retry_rejected


def iso(moment: datetime.datetime | None) -> str:
    """A moment in UTC, to the second; a dash for None."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else "-"


# ---- column values ---------------------------------------------------------------------------------------------------


def claim_values(
    me: Claimant,
    claim: str,
    record: Record,
    fingerprints: str,
    reference: str | None,
    sent_after: datetime.datetime,
    now: datetime.datetime,
) -> dict[str, Any]:
    """The columns of a claimed row; of a rejected one if the record has errors.

    :param fingerprints: of the record's fields, as `fingerprints.as_column` writes them
    """
    values: dict[str, Any] = {
        "customer_id": None,
        "digest": record.digest,
        "fingerprints": fingerprints,
        "source": me.source,
        "matched_by": None,
        "dag_id": me.dag_id,
        "run_id": me.run_id,
        "task_id": me.task_id,
        "claimed_at": now,
        "version": record.version,
        "plan": me.mark(record.begun or "create"),
    }
    if record.errors:
        error = errors_as_json(record.errors)
        return values | {"state": State.REJECTED, "reference": None, "error": error, "resolved_at": now} | CLOSED
    pending = {"state": State.PENDING, "reference": reference, "error": None, "resolved_at": None}
    return values | pending | lease_values(me, claim, now) | {"sent_after": sent_after}


def lease_values(me: Claimant, claim: str, now: datetime.datetime) -> dict[str, Any]:
    """The columns that say who holds a row, and until when."""
    until = me.lease_until(now)
    return {"owner": me.owner, "claim": claim, "lease_until": until, "lease": me.lease, "settle": me.settle}


def errors_as_json(errors: Errors) -> str:
    """The reasons why a record was rejected, as the ledger stores them."""
    return json.dumps(errors, ensure_ascii=False)


# ---- conditions and reading in SQL ----------------------------------------------------------------------------------


Lock = Literal["wait", "skip locked"] | None
"""Whether the rows that are read are locked until the transaction ends, and what to do with those that others lock."""


def read_rows(connection: Connection, table: Table, *where: ColumnElement[bool], lock: Lock = None) -> dict[str, Row]:
    """The rows that meet these conditions, by key and in key order."""
    query = select(*(table.c[name] for name in COLUMNS)).where(*where).order_by(table.c.key)
    if lock:
        query = query.with_for_update(skip_locked=lock == "skip locked")
    return {found[0]: Row(*found) for found in connection.execute(query)}


def at_key(table: Table, account: str, key: str) -> ColumnElement[bool]:
    """The row of this key."""
    return and_(table.c.account == account, table.c.key == key)


def in_state(table: Table, account: str, *states: State) -> ColumnElement[bool]:
    """The account's rows in one of these states."""
    state = table.c.state
    return and_(table.c.account == account, state == states[0] if len(states) == 1 else state.in_(states))


def claimed(table: Table, me: Claimant, claims: Collection[str], *states: State) -> ColumnElement[bool]:
    """The rows under the claims with these ids; the pending ones unless other states are given.

    Comparing the owner is not enough. After a lease lapsed, other runs may have owned the row and sent a request before
    this run took it over again, under another claim.
    """
    return and_(in_state(table, me.account, *(states or (State.PENDING,))), table.c.claim.in_(sorted(claims)))


def open_elsewhere(table: Table, me: Claimant, claims: Collection[str]) -> ColumnElement[bool]:
    """The pending rows of the account that may be open and that are not under the claims with these ids."""
    others = or_(table.c.claim.is_(None), table.c.claim.not_in(sorted(claims)))
    return and_(in_state(table, me.account, State.PENDING), table.c.lease_until.is_not(None), others)


def unsent(table: Table) -> ColumnElement[bool]:
    """The unsent rows, as in `Row.unsent`."""
    return and_(table.c.state == State.PENDING, table.c.sent_after.is_(None), table.c.owner.is_(None))


def is_rejected(table: Table) -> ColumnElement[bool]:
    """The rows of rejected records, and of customers of which a change was rejected.

    The index of rejected rows has all rows with an error, by ``resolved_at``. The conditions lead databases to it, and
    keep them from the index of states, in which most rows are created.
    """
    is_open = func.coalesce(table.c.state, "").in_(OPEN_STATES)
    return and_(table.c.error.is_not(None), table.c.resolved_at > EPOCH, not_(is_open))


def hold(table: Table, now: datetime.datetime) -> ColumnElement[str | None]:
    """What a pending or updating row is waiting for, as a `Hold`; NULL for other rows."""
    return case(
        (table.c.state.not_in(OPEN_STATES), None),
        (unsent(table), Hold.UNSENT.value),
        (table.c.lease_until >= now, Hold.HELD.value),
        else_=Hold.OPEN.value,
    )
