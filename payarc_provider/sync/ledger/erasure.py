"""Erases keys in three steps: the ledger gives up the row, PayArc deletes the customers, the ledger notes that it has.

After the first step no run claims the key. Every step may be repeated, so to finish an interrupted erasure, start it
again.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import and_, delete, select
from sqlalchemy.engine import Connection

from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger.database import database_now, insert_absent
from payarc_provider.sync.ledger.facts import (
    FIRST_ATTEMPT,
    bar_customer,
    count_barred,
    first_attempt,
    raise_first_attempt,
)
from payarc_provider.sync.ledger.ledger import Ledger
from payarc_provider.sync.ledger.repair import BY_PERSON, LedgerUnchanged
from payarc_provider.sync.ledger.rows import Row, State, at_key, iso, read_rows
from payarc_provider.sync.ledger.tombstones import Tombstone, find_tombstones, remove_tombstone, write_tombstone


class Erasure:
    """Erases keys of one account. Every method is one transaction, and may be repeated."""

    def __init__(self, ledger: Ledger, account: str) -> None:
        self._ledger = ledger
        self._account = account
        self._rows = ledger.schema.rows
        self._facts = ledger.schema.facts

    def check(self, key: str) -> Row | Tombstone | None:
        """What the ledger has for this key: its row, its tombstone, or nothing.

        :raises LedgerUnchanged: the key cannot be erased now
        """
        with self._ledger.database.read() as connection:
            row = read_rows(connection, self._rows, at_key(self._rows, self._account, key)).get(key)
            if row is None:
                return self._tombstone(connection, key)
            check_erasable(row, database_now(connection))
            return row

    def may_have_others(self, found: Row | Tombstone | None) -> bool:
        """Whether PayArc may have more customers with the key's reference than the ledger knows.

        At most one customer is created for a key, unless a person has forgotten a key or resolved a row.
        """
        if not isinstance(found, Row):
            return found is None
        with self._ledger.database.read() as connection:
            return found.matched_by == BY_PERSON or count_barred(connection, self._facts, self._account) > 0

    def begin(self, key: str, others: Collection[str], *, without_row: bool = False) -> Tombstone:
        """Delete the key's row and write its tombstone, so that no run claims the key any more.

        :param others: ids of further customers to delete at PayArc
        :param without_row: erase the key even if the ledger has no row for it
        :return: the tombstone, with the ids of all customers to delete
        :raises LedgerUnchanged: a run holds the row, its outcome is unknown, or a customer belongs to another key
        """
        self._ledger.remember(FIRST_ATTEMPT, "1")
        with self._ledger.database.write() as connection:
            now, at = database_now(connection), at_key(self._rows, self._account, key)
            before = self._tombstone(connection, key)
            row = read_rows(connection, self._rows, at, lock="wait").get(key)
            if row is None and before is None and not without_row:
                raise LedgerUnchanged(f"the ledger has no key {display_key(key)} any more: nothing was changed")
            if row is None:
                # A claim of this key that is under way inserts its row first, and this waits for it; or it finds the
                # tombstone when it has inserted its row.
                insert_absent(connection, self._rows, [self._placeholder(connection, key, now)])
                row = read_rows(connection, self._rows, at, lock="wait")[key]
            check_erasable(row, now)
            known = before.customers if before else ()
            customers = {*known, *others, *([row.customer_id] if row.customer_id else [])}
            self._check_owners(connection, key, customers)
            for customer_id in sorted(customers):
                bar_customer(connection, self._facts, self._account, customer_id, now, erased=True)
            raise_first_attempt(connection, self._facts, row.attempt + 1)
            tombstone = Tombstone(before.since if before else now, tuple(sorted(customers)))
            self._write(connection, key, tombstone)
            connection.execute(delete(self._rows).where(at))
            self._ledger.forget_customers(connection, self._account)
            return tombstone

    def finish(self, key: str) -> Tombstone:
        """Note that PayArc has deleted the key's customers, and drop their ids."""
        with self._ledger.database.write() as connection:
            tombstone = self._tombstone(connection, key)
            if tombstone is None:
                raise LedgerUnchanged(
                    f"the erasure of {display_key(key)} was undone in the meantime: check its customer"
                )
            done = replace(tombstone, customers=(), done=database_now(connection))
            self._write(connection, key, done)
            return done

    def undo(self, key: str) -> None:
        """Let the next run that reads the key's record create a customer again."""
        with self._ledger.database.write() as connection:
            tombstone = self._tombstone(connection, key)
            if tombstone is None:
                raise LedgerUnchanged(f"{display_key(key)} is not erased: nothing was changed")
            if tombstone.done is None:
                raise LedgerUnchanged(
                    f"the erasure of {display_key(key)} is not finished: finish it with `erase`, then undo it"
                )
            remove_tombstone(connection, self._facts, self._ledger.ledger_id, self._account, key)

    # ---- within a transaction -----------------------------------------------------------------------------------

    def _tombstone(self, connection: Connection, key: str) -> Tombstone | None:
        return find_tombstones(connection, self._facts, self._ledger.ledger_id, self._account, [key]).get(key)

    def _write(self, connection: Connection, key: str, tombstone: Tombstone) -> None:
        write_tombstone(connection, self._facts, self._ledger.ledger_id, self._account, key, tombstone)

    def _placeholder(self, connection: Connection, key: str, now: datetime.datetime) -> dict[str, object]:
        identity = {"account": self._account, "key": key, "attempt": first_attempt(connection, self._facts)}
        return {**identity, "inserted_at": now, "state": State.REJECTED, "digest": "", "fingerprints": "", "source": ""}

    def _check_owners(self, connection: Connection, key: str, customers: Collection[str]) -> None:
        rows = self._rows
        theirs = and_(rows.c.account == self._account, rows.c.customer_id.in_(sorted(customers)), rows.c.key != key)
        query = select(rows.c.customer_id, rows.c.key).where(theirs).limit(1)
        for customer_id, other in connection.execute(query):
            raise LedgerUnchanged(
                f"customer {customer_id} carries the reference of {display_key(key)} but belongs to the key "
                f"{display_key(other)}: nothing was changed. Correct its description at PayArc first"
            )


def check_erasable(row: Row, now: datetime.datetime) -> None:
    """Check that no request for the row can still create or change a customer.

    :raises LedgerUnchanged: one can, or it is unknown what an earlier one has done
    """
    key = display_key(row.key)
    if row.lease_until is not None and row.lease_until >= now:
        run = f"run {row.run_id} of {row.dag_id}" if row.run_id else "a run"
        raise LedgerUnchanged(
            f"{key} is claimed by {run} until {iso(row.lease_until)}: erase it when the run has ended"
        )
    if row.state == State.PENDING and not row.unsent:
        raise LedgerUnchanged(
            f"it is unknown whether PayArc has a customer for {key}, which could appear after the erasure: let a run "
            "or `resolve` decide first, then erase the key"
        )
    if row.state == State.UPDATING and row.takeover_at >= now:
        raise LedgerUnchanged(
            f"a request for {key} may reach PayArc until {iso(row.takeover_at)}: erase the key after that"
        )
