"""Rebuilding rows that a ledger has lost, from the references that PayArc's customers bear.

A reference is computed from the ledger's id, the account and the key. So of every key that the user can name, PayArc's
list shows whether a customer was made for it; a customer without a reference is not found.
"""

from __future__ import annotations

import dataclasses
import datetime
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy.exc
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from payarc_provider.sync.customer_index import CustomerIndex, IndexedCustomer
from payarc_provider.sync.ledger import Ledger, Row
from payarc_provider.sync.ledger.forgotten import FIRST_ATTEMPT, count_from, forgotten_ids
from payarc_provider.sync.ledger.repair import CLOSED, NotDone
from payarc_provider.sync.ledger.schema import database_now
from payarc_provider.sync.ledger.states import State
from payarc_provider.sync.reference import reference

_MINUTE = 60


class Verdict(StrEnum):
    """What became of a key."""

    INSERTED = "inserted"
    """One customer bears its reference, and the row was missing."""
    SETTLED = "settled"
    """One customer bears its reference, and the row was refused or unsent when the ledger was saved."""
    AGREED = "agreed"
    """Its row was right."""
    PENDING = "pending"
    """Its row is open: the next run looks it up."""
    UNDECIDED = "undecided"
    """Several customers bear its reference: its row is pending until a person has settled it."""
    DISAGREED = "disagreed"
    """Its row has another customer, or another row has this one: nothing was changed."""
    ABSENT = "absent"
    """No customer bears its reference, and it has no row."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A key that a person must look at.

    :param customer_id: its row's customer
    :param candidates: ids of the customers that carry its reference
    """

    key: str
    verdict: Verdict
    customer_id: str | None
    candidates: list[str]


@dataclass(slots=True)
class Rebuilt:
    """Keys by verdict, and those at which a person must look."""

    counts: Counter[Verdict] = field(default_factory=Counter)
    doubts: list[Doubt] = field(default_factory=list)

    def note(self, key: str, verdict: Verdict, row: Row | None, customers: list[IndexedCustomer]) -> None:
        """What became of a key."""
        self.counts[verdict] += 1
        if verdict in (Verdict.UNDECIDED, Verdict.DISAGREED):
            ids = [customer.customer_id for customer in customers]
            self.doubts.append(Doubt(key, verdict, row.customer_id if row else None, ids))


class KeySet:
    """Distinct keys, in a private temporary file that vanishes with the process."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("CREATE TABLE keys (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")
        self._database.executemany("INSERT OR IGNORE INTO keys VALUES (?)", ((key,) for key in keys))

    def __len__(self) -> int:
        """The number of keys."""
        return int(self._database.execute("SELECT count(*) FROM keys").fetchone()[0])

    def batches(self, size: int = 500) -> Iterator[list[str]]:
        """The keys in byte order, some at a time."""
        found = self._database.execute("SELECT key FROM keys ORDER BY key")
        while batch := found.fetchmany(size):
            yield [row[0] for row in batch]


class Rebuild:
    """One account's rows, made again.

    :param ledger_id: the id with which the references were made
    :param source: the source of the rows' records
    """

    def __init__(self, ledger: Ledger, ledger_id: str, account: str, source: str) -> None:
        self._ledger = ledger
        self._ledger_id = ledger_id
        self._account = account
        self._source = source
        self._rows = ledger.schema.rows
        self._facts = ledger.schema.facts
        self._attempt = 1

    def restore(self, keys: KeySet, index: CustomerIndex) -> Rebuilt:
        """Restore the rows of these keys, some hundreds in one transaction. May be repeated.

        :raises NotDone: a run is working on the account
        """
        self._count_on()
        done = Rebuilt()
        for batch in keys.batches():
            try:
                with self._ledger.database.write() as connection:
                    self._restore(connection, batch, index, done)
            except sqlalchemy.exc.IntegrityError:
                raise NotDone("a run is changing the ledger at this moment: rebuild again when it has ended") from None
        return done

    def check_unused(self) -> None:
        """
        See that no run is at work.

        :raises NotDone: one is
        """
        rows = self._rows
        with self._ledger.database.read() as connection:
            held = select(rows.c.lease_until).where(rows.c.account == self._account, rows.c.state == State.PENDING)
            held = held.where(rows.c.lease_until >= database_now(connection)).order_by(rows.c.lease_until.desc())
            if (until := connection.execute(held.limit(1)).scalar_one_or_none()) is not None:
                raise NotDone(f"a run is at work and holds rows until {until:%Y-%m-%dT%H:%M:%SZ}: wait for its end")

    def _count_on(self) -> None:
        """Let attempts count from a number that no lost row can have had, so that no Idempotency-Key comes again.

        The ledger does not know how far the lost rows had come; the minutes since 1970 are always further.
        """
        rows = self._rows
        self._ledger.remember(FIRST_ATTEMPT, "1")
        with self._ledger.database.write() as connection:
            minutes = int(database_now(connection).timestamp()) // _MINUTE
            self._attempt = count_from(connection, self._facts, minutes)
            behind = [rows.c.account == self._account, rows.c.state != State.CREATED, rows.c.attempt < self._attempt]
            connection.execute(update(rows).where(*behind).values(attempt=self._attempt))

    def any_customer(self, keys: KeySet, index: CustomerIndex) -> bool:
        """Whether a listed customer carries the reference of one of these keys."""
        return any(self._customers(index, key) for batch in keys.batches() for key in batch)

    def _customers(self, index: CustomerIndex, key: str) -> list[IndexedCustomer]:
        return index.by_reference(reference(self._ledger_id, self._account, key))

    def _restore(self, connection: Connection, keys: list[str], index: CustomerIndex, done: Rebuilt) -> None:
        now = database_now(connection)
        current = self._current(connection, keys)
        listed = {key: self._customers(index, key) for key in keys}
        ids = [customer.customer_id for customers in listed.values() for customer in customers]
        whose = self._whose(connection, ids)
        barred = forgotten_ids(connection, self._facts, self._account, ids)
        for key in keys:
            row = current.get(key)
            customers = [customer for customer in listed[key] if customer.customer_id not in barred]
            taken = any(whose.get(customer.customer_id, key) != key for customer in customers)
            verdict = _judge(row, [customer.customer_id for customer in customers], taken)
            done.note(key, verdict, row, customers)
            if verdict in (Verdict.INSERTED, Verdict.SETTLED, Verdict.UNDECIDED):
                self._write(connection, key, row, _values(customers, now), now)

    def _current(self, connection: Connection, keys: list[str]) -> dict[str, Row]:
        rows = self._rows
        columns = [rows.c[column.name] for column in dataclasses.fields(Row)]
        query = select(*columns).where(rows.c.account == self._account, rows.c.key.in_(keys)).order_by(rows.c.key)
        return {found[0]: Row(*found) for found in connection.execute(query.with_for_update())}

    def _whose(self, connection: Connection, customer_ids: list[str]) -> dict[str, str]:
        rows = self._rows
        query = select(rows.c.customer_id, rows.c.key).where(rows.c.account == self._account)
        return {found[0]: found[1] for found in connection.execute(query.where(rows.c.customer_id.in_(customer_ids)))}

    def _write(
        self, connection: Connection, key: str, row: Row | None, values: dict[str, Any], now: datetime.datetime
    ) -> None:
        rows = self._rows
        if row is not None:
            at = [rows.c.account == self._account, rows.c.key == key]
            connection.execute(update(rows).where(*at).values(**values))
            return
        new = {"account": self._account, "key": key, "source": self._source, "attempt": self._attempt}
        connection.execute(insert(rows).values(claimed_at=now, **new, **values))


def _judge(row: Row | None, customer_ids: list[str], taken: bool) -> Verdict:
    """What becomes of a key.

    :param row: its row, if there is one
    :param customer_ids: the customers that carry its reference, without the forgotten ones
    :param taken: whether another row has one of them
    """
    if row is not None and row.state == State.CREATED:
        return Verdict.AGREED if customer_ids in ([], [row.customer_id]) else Verdict.DISAGREED
    if row is not None and row.state == State.PENDING and not row.unsent:
        return Verdict.PENDING
    if not customer_ids:
        return Verdict.ABSENT if row is None else Verdict.AGREED
    if taken:
        return Verdict.DISAGREED
    if len(customer_ids) > 1:
        return Verdict.UNDECIDED
    return Verdict.INSERTED if row is None else Verdict.SETTLED


def _values(customers: list[IndexedCustomer], now: datetime.datetime) -> dict[str, Any]:
    """The values of the row whose reference these customers carry; the oldest comes first."""
    first = customers[0]
    values = {"reference": first.reference, "digest": first.digest, "fields": first.fields, "error": None, **CLOSED}
    if len(customers) == 1:
        return values | {
            "state": State.CREATED,
            "customer_id": first.customer_id,
            "matched_by": "reference",
            "settled_at": now,
        }
    # As a run leaves a row whose outcome it does not know: nobody sends it before a look-up or a person has decided.
    return values | {
        "state": State.PENDING,
        "lease_until": now,
        "settle": 0.0,
        "sent_after": datetime.datetime.fromtimestamp(max(0.0, first.created_after - 1.0), datetime.UTC),
        "settled_at": None,
    }
