"""Notices that the ledger's database has lost rows which it had committed, so that nothing is sent a second time.

Two facts help. ``has_customers:<account>`` is written with the account's first customer, and removed when its last key
is forgotten. ``rows_lost:<account>`` is written by a run that misses a row; it stops all runs until the ledger is
rebuilt.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Table, delete, exists, func, or_, select
from sqlalchemy.engine import Connection, Engine

from payarc_provider.sync.ledger.database import among, chunks, database_now, insert_absent
from payarc_provider.sync.ledger.errors import LedgerLost
from payarc_provider.sync.ledger.facts import FactTable, barred_ids, first_attempt
from payarc_provider.sync.ledger.rows import WITH_CUSTOMER, Claimant, Row, State, in_state, iso, unsent
from payarc_provider.sync.ledger.tombstones import find_tombstones


class Evidence(NamedTuple):
    """What a row must show, because this run knows that it was committed.

    :param attempt: the number of the latest request that was sent for it, and may have created or changed a customer
    :param customer_id: the customer that was recorded, if one was
    :param returned_id: the customer that PayArc has returned for it, if another run had taken the row over by then
    :param inserted_at: when the row was inserted, unless a customer was recorded
    """

    attempt: int
    customer_id: str | None = None
    returned_id: str | None = None
    inserted_at: datetime.datetime | None = None

    def is_missing_from(self, row: SeenRow | Row | None) -> bool:
        """Whether the row is gone or older than this.

        A row whose customer may exist becomes unsent or rejected only after its attempt number has been raised, and a
        row whose customer exists only if another row has the customer. A row that was inserted again says nothing by
        its number: it has not counted this request.
        """
        if row is None:
            return True
        if self.customer_id is not None:
            return row.customer_id != self.customer_id or row.attempt < self.attempt
        has_none = row.unsent or row.state == State.REJECTED
        certain = row.attempt == self.attempt or self.returned_id is not None or self.is_of_another_row(row)
        return row.attempt < self.attempt or (certain and has_none)

    def is_of_another_row(self, row: SeenRow | Row) -> bool:
        """Whether this row was inserted later, under the same key."""
        return self.inserted_at is not None and row.inserted_at != self.inserted_at


class SeenRow(NamedTuple):
    """The part of a row that is compared with the evidence."""

    state: str
    customer_id: str | None
    attempt: int
    unsent: bool
    inserted_at: datetime.datetime


class LossChecks(FactTable):
    """A ledger that notices what its database has lost."""

    def __init__(self, engine: Engine, table: str = "payarc_customers") -> None:
        super().__init__(engine, table)
        self._with_customers: set[str] = set()

    def check_losses(self, account: str) -> None:
        """Check, before anything is sent, that the account's rows are there.

        :raises LedgerLost: a run has missed rows, or the account had customers and no row has one
        """
        facts, rows = self.schema.facts, self.schema.rows
        known, lost = has_customers_name(account), rows_lost_name(account)
        has_created = exists().where(in_state(rows, account, *WITH_CUSTOMER))
        query = select(facts.c.name, has_created).where(facts.c.name.in_((known, lost)))
        with self.database.read() as connection:
            found = {name: bool(created) for name, created in connection.execute(query)}
        if lost in found:
            raise self.lost("has lost rows")
        if not found.get(known, True):
            raise self.lost("has lost all customers of this account")

    def check_rows(self, me: Claimant, evidence: Mapping[str, Evidence]) -> None:
        """Check that these rows still show what is known about them, with one query for some thousand rows.

        :param evidence: key → what its row must show
        :raises LedgerLost: one of them does not, and its key was not forgotten; or another run has missed rows
        """
        facts, rows = self.schema.facts, self.schema.rows
        lost = select(facts.c.name).where(facts.c.name == rows_lost_name(me.account))
        with self.database.read() as connection:
            if connection.execute(lost).first() is not None:
                raise self.lost("has lost rows")
            found: dict[str, SeenRow | Row] = {}
            for part in chunks(evidence, 5000):
                these = (rows.c.account == me.account, among(connection, rows.c.key, part))
                columns = (
                    rows.c.key,
                    rows.c.state,
                    rows.c.customer_id,
                    rows.c.attempt,
                    unsent(rows),
                    rows.c.inserted_at,
                )
                found |= {row[0]: SeenRow(*row[1:]) for row in connection.execute(select(*columns).where(*these))}
            self.check_evidence(connection, me.account, evidence, found)

    def check_evidence(
        self, connection: Connection, account: str, evidence: Mapping[str, Evidence], found: Mapping[str, SeenRow | Row]
    ) -> None:
        """Compare rows as they were read with what is known about them.

        :raises LedgerLost: one of them does not show it, and its key was neither forgotten nor erased
        """
        missing = {key for key, known in evidence.items() if known.is_missing_from(found.get(key))}
        ids = {known.customer_id: key for key in missing if (known := evidence[key]).customer_id is not None}
        returned = {known.returned_id: key for key in missing if (known := evidence[key]).returned_id is not None}
        for part in chunks(sorted(ids | returned)):
            barred = barred_ids(connection, self.schema.facts, account, part)
            missing -= {(ids | returned)[customer_id] for customer_id in barred}
        rows = self.schema.rows
        # Where records are equal, another row may have got the customer. The record's own row is there all the same.
        elsewhere = {customer_id: key for customer_id, key in returned.items() if key in found}
        for part in chunks(sorted(elsewhere)):
            query = select(rows.c.customer_id).where(rows.c.account == account, rows.c.customer_id.in_(part))
            missing -= {elsewhere[row[0]] for row in connection.execute(query)}
        again = {key for key in missing & found.keys() if evidence[key].is_of_another_row(found[key])}
        if again:  # unless a person has removed the rows that this run knows: then new rows start from a higher number
            first = first_attempt(connection, self.schema.facts)
            missing -= {key for key in again if evidence[key].attempt < first and evidence[key].returned_id is None}
        if missing:
            missing -= find_tombstones(connection, self.schema.facts, self.ledger_id, account, missing).keys()
        if missing:
            raise self.lost(f"has lost {'1 row' if len(missing) == 1 else f'{len(missing)} rows'} of this run")

    def note_loss(self, account: str) -> None:
        """Stop all runs of the account until the ledger is rebuilt."""
        with self.database.write() as connection:
            value = iso(database_now(connection))
            insert_absent(connection, self.schema.facts, [{"name": rows_lost_name(account), "value": value}])

    def clear_loss(self, account: str) -> None:
        """Let runs continue, because the rows were restored or are given up."""
        facts = self.schema.facts
        with self.database.write() as connection:
            connection.execute(delete(facts).where(facts.c.name == rows_lost_name(account)))
            if not _has_created(connection, self.schema.rows, account):
                connection.execute(delete(facts).where(facts.c.name == has_customers_name(account)))

    def note_customer(self, connection: Connection, account: str) -> None:
        """Write down that the account has a customer, in the transaction that records one."""
        if account in self._with_customers:
            return
        facts, name = self.schema.facts, has_customers_name(account)
        if connection.execute(select(facts.c.name).where(facts.c.name == name)).first() is not None:
            self._with_customers.add(account)  # committed before, so the next transactions need not look
        else:
            insert_absent(connection, facts, [{"name": name, "value": "yes"}])

    def forget_customers(self, connection: Connection, account: str) -> None:
        """Remove the fact that the account has customers, if it has none any more. Call it under a lock."""
        facts = self.schema.facts
        if not _has_created(connection, self.schema.rows, account):
            connection.execute(delete(facts).where(facts.c.name == has_customers_name(account)))

    def _check_table(self) -> None:
        facts = self.schema.facts
        prefixes = (has_customers_name(""), rows_lost_name(""))
        starts = [func.substr(facts.c.name, 1, len(prefix)) == prefix for prefix in prefixes]
        with self.database.read() as connection:
            had_rows = connection.execute(select(facts.c.name).where(or_(*starts)).limit(1)).first() is not None
        if had_rows:
            self.ledger_id = self.fact("ledger_id") or ""
            raise self.lost("is gone, and had customers")

    def lost(self, what: str) -> LedgerLost:
        """The error that stops all runs; ``what`` says what is wrong with the ledger."""
        return LedgerLost(self.schema.rows.fullname, what)


def has_customers_name(account: str) -> str:
    """The name of the fact that the account has customers."""
    return f"has_customers:{account}"


def rows_lost_name(account: str) -> str:
    """The name of the fact that a run has missed rows of the account."""
    return f"rows_lost:{account}"


def _has_created(connection: Connection, rows: Table, account: str) -> bool:
    query = select(rows.c.key).where(in_state(rows, account, *WITH_CUSTOMER)).limit(1)
    return connection.execute(query).first() is not None
