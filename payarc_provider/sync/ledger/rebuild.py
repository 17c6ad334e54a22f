"""Rebuilds rows that a ledger has lost, from the references in the descriptions of PayArc's customers.

A reference is computed from the ledger's id, the account and the key. So for every key that the user can name, PayArc's
list shows whether a customer was created for it. Customers without a reference are not found.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from payarc_provider.sync.existing import CustomerIndex, IndexedCustomer
from payarc_provider.sync.ledger.database import database_now
from payarc_provider.sync.ledger.errors import LedgerConflict
from payarc_provider.sync.ledger.facts import FIRST_ATTEMPT, bar_customer, barred_ids, raise_first_attempt
from payarc_provider.sync.ledger.ledger import Ledger
from payarc_provider.sync.ledger.repair import LedgerUnchanged
from payarc_provider.sync.ledger.rows import (
    CLOSED,
    OPEN_STATES,
    WITH_CUSTOMER,
    Row,
    State,
    at_key,
    in_state,
    iso,
    read_rows,
)
from payarc_provider.sync.ledger.tombstones import find_tombstones
from payarc_provider.sync.reference import reference, reference_tag

_MINUTE = 60


class Verdict(StrEnum):
    """What the rebuild did with a key."""

    INSERTED = "inserted"
    """One customer carries its reference, and the row was missing."""
    RESOLVED = "resolved"
    """One customer carries its reference, and the row was rejected or unsent."""
    AGREED = "agreed"
    """Its row has the right customer; if the customer was changed since, it was given PayArc's values."""
    PENDING = "pending"
    """Its row may be open: the next run looks it up."""
    UNDECIDED = "undecided"
    """Several customers carry its reference: its row is pending until a person resolves it."""
    DISAGREED = "disagreed"
    """Its row has another customer, or another row has this one: nothing was changed."""
    ERASED = "erased"
    """It is erased: nothing was restored, and no customer should carry its reference."""
    ABSENT = "absent"
    """No customer carries its reference, and it has no row."""


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
    """What a rebuild did.

    :param counts: the number of keys by verdict
    :param doubts: the keys that a person must look at
    :param unexplained: ids of the customers that were created through this ledger and belong to none of the keys
    """

    counts: Counter[Verdict] = field(default_factory=Counter)
    doubts: list[Doubt] = field(default_factory=list)
    unexplained: set[str] = field(default_factory=set)

    def add(self, key: str, verdict: Verdict, row: Row | None, customer_ids: list[str]) -> None:
        """Count a key."""
        self.counts[verdict] += 1
        is_doubtful = verdict in (Verdict.UNDECIDED, Verdict.DISAGREED)
        if is_doubtful or (verdict is Verdict.ERASED and customer_ids):
            self.doubts.append(Doubt(key, verdict, row.customer_id if row else None, customer_ids))


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
        """The keys in byte order, in lists of at most ``size``."""
        found = self._database.execute("SELECT key FROM keys ORDER BY key")
        while batch := found.fetchmany(size):
            yield [row[0] for row in batch]


class Rebuild:
    """Rebuilds one account's rows.

    :param ledger_id: the id from which the references were computed
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

    def check_unused(self) -> None:
        """Check that no run owns rows of the account.

        :raises LedgerUnchanged: when one does
        """
        rows = self._rows
        with self._ledger.database.read() as connection:
            live = [in_state(rows, self._account, *OPEN_STATES), rows.c.lease_until >= database_now(connection)]
            query = select(rows.c.lease_until).where(*live).order_by(rows.c.lease_until.desc()).limit(1)
            if (until := connection.execute(query).scalar_one_or_none()) is not None:
                raise LedgerUnchanged(f"a run has claimed rows until {iso(until)}: wait until the run has ended")

    def any_customer(self, keys: KeySet, index: CustomerIndex) -> bool:
        """Whether a listed customer carries the reference of one of these keys."""
        return any(self._customers(index, key) for batch in keys.batches() for key in batch)

    def restore(self, keys: KeySet, index: CustomerIndex) -> Rebuilt:
        """Restore the rows of these keys in transactions of up to 500. May be repeated.

        :raises LedgerUnchanged: when a run changes the same rows
        """
        self._raise_attempts()
        rebuilt = Rebuilt()
        for batch in keys.batches():
            try:
                with self._ledger.database.write() as connection:
                    self._restore(connection, batch, index, rebuilt)
            except LedgerConflict:
                raise LedgerUnchanged("a run is changing the ledger: rebuild again when the run has ended") from None
        rebuilt.unexplained = self._unexplained(index)
        return rebuilt

    def _unexplained(self, index: CustomerIndex) -> set[str]:
        tag = reference_tag(self._ledger_id, self._account)
        parts = (self._ledger.lost_customers(self._account, part) for part in index.with_tag(tag))
        return {customer_id for part in parts for customer_id in part}

    def give_up(self, customer_ids: set[str]) -> None:
        """Make sure that no row ever gets these customers, and that runs do not take them for lost ones."""
        with self._ledger.database.write() as connection:
            now = database_now(connection)
            for customer_id in sorted(customer_ids):
                bar_customer(connection, self._facts, self._account, customer_id, now)

    def _raise_attempts(self) -> None:
        """Make attempts start from a number that no lost row can have reached, so that no Idempotency-Key is reused.

        It is unknown how high the lost rows had counted, but certainly not as high as the minutes since 1970.
        """
        rows = self._rows
        self._ledger.remember(FIRST_ATTEMPT, "1")
        with self._ledger.database.write() as connection:
            minutes = int(database_now(connection).timestamp()) // _MINUTE
            self._attempt = raise_first_attempt(connection, self._facts, minutes)
            behind = [rows.c.account == self._account, rows.c.state != State.CREATED, rows.c.attempt < self._attempt]
            connection.execute(update(rows).where(*behind).values(attempt=self._attempt))

    def _restore(self, connection: Connection, keys: list[str], index: CustomerIndex, rebuilt: Rebuilt) -> None:
        rows = self._rows
        now = database_now(connection)
        current = read_rows(connection, rows, rows.c.account == self._account, rows.c.key.in_(keys), lock="wait")
        listed = {key: self._customers(index, key) for key in keys}
        ids = [customer.customer_id for customers in listed.values() for customer in customers]
        owners = self._keys_of(connection, ids)
        barred = barred_ids(connection, self._facts, self._account, ids)
        erased = find_tombstones(connection, self._facts, self._ledger_id, self._account, keys)
        for key in keys:
            row = current.get(key)
            customers = [customer for customer in listed[key] if customer.customer_id not in barred]
            customer_ids = [customer.customer_id for customer in customers]
            taken = any(owners.get(customer_id, key) != key for customer_id in customer_ids)
            verdict = Verdict.ERASED if key in erased else _verdict_for(row, customer_ids, taken)
            rebuilt.add(key, verdict, row, customer_ids)
            if verdict in (Verdict.INSERTED, Verdict.RESOLVED, Verdict.UNDECIDED):
                self._write(connection, key, row, _values(customers, now), now)
            if verdict is Verdict.AGREED and row is not None and row.state == State.CREATED and customers:
                self._refresh(connection, row, customers[0])
            if verdict in (Verdict.INSERTED, Verdict.RESOLVED):
                self._ledger.note_customer(connection, self._account)

    def _refresh(self, connection: Connection, row: Row, customer: IndexedCustomer) -> None:
        """Store what PayArc has, since the customer may have been changed after the backup was made."""
        if row.fingerprints != customer.fingerprints:
            values = {"fingerprints": customer.fingerprints, "wanted_version": None}
            if row.error is None:
                values["digest"] = customer.digest
            connection.execute(update(self._rows).where(at_key(self._rows, self._account, row.key)).values(**values))

    def _customers(self, index: CustomerIndex, key: str) -> list[IndexedCustomer]:
        return index.by_reference(reference(self._ledger_id, self._account, key))

    def _keys_of(self, connection: Connection, customer_ids: list[str]) -> dict[str, str]:
        """Customer id → the key whose row has it."""
        rows = self._rows
        query = select(rows.c.customer_id, rows.c.key).where(rows.c.account == self._account)
        return {found[0]: found[1] for found in connection.execute(query.where(rows.c.customer_id.in_(customer_ids)))}

    def _write(
        self, connection: Connection, key: str, row: Row | None, values: dict[str, Any], now: datetime.datetime
    ) -> None:
        rows = self._rows
        if row is not None:
            connection.execute(update(rows).where(at_key(rows, self._account, key)).values(**values))
            return
        new = {"account": self._account, "key": key, "source": self._source, "attempt": self._attempt}
        connection.execute(insert(rows).values(inserted_at=now, claimed_at=now, **new, **values))


def _verdict_for(row: Row | None, customer_ids: list[str], taken: bool) -> Verdict:
    """What the rebuild does with a key.

    :param row: its row, if there is one
    :param customer_ids: the customers that carry its reference, except forgotten ones
    :param taken: whether another row has one of them
    """
    if row is not None and row.state in WITH_CUSTOMER:
        return Verdict.AGREED if customer_ids in ([], [row.customer_id]) else Verdict.DISAGREED
    if row is not None and row.state == State.PENDING and not row.unsent:
        return Verdict.PENDING
    if not customer_ids:
        return Verdict.ABSENT if row is None else Verdict.AGREED
    if taken:
        return Verdict.DISAGREED
    if len(customer_ids) > 1:
        return Verdict.UNDECIDED
    return Verdict.INSERTED if row is None else Verdict.RESOLVED


def _values(customers: list[IndexedCustomer], now: datetime.datetime) -> dict[str, Any]:
    """The values of the row whose reference these customers carry; the oldest comes first."""
    first = customers[0]
    values = {
        "reference": first.reference,
        "digest": first.digest,
        "fingerprints": first.fingerprints,
        "error": None,
        **CLOSED,
    }
    if len(customers) == 1:
        return values | {
            "state": State.CREATED,
            "customer_id": first.customer_id,
            "matched_by": "reference",
            "resolved_at": now,
        }
    # The same as a row with an unknown outcome: it is not sent before a look-up or a person has decided. It is unknown
    # what was sent, so a look-up leaves it to a person while both customers carry the reference.
    return values | {
        "fingerprints": "",
        "state": State.PENDING,
        "lease_until": now,
        "lease": 0.0,
        "settle": 0.0,
        "sent_after": datetime.datetime.fromtimestamp(max(0.0, first.created_after - 1.0), datetime.UTC),
        "resolved_at": None,
    }
