"""What a person may do to a ledger's rows by hand. Every method is one transaction, done whole or not at all."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection
from typing import Any

import sqlalchemy.exc
from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.exceptions import PayarcError
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger import Ledger, Row, ripe_at
from payarc_provider.sync.ledger.forgotten import FIRST_ATTEMPT, bar, count_from, forgotten_ids
from payarc_provider.sync.ledger.schema import database_now
from payarc_provider.sync.ledger.states import State
from payarc_provider.sync.reference import reference

BY_PERSON = "person"
"""What ``matched_by`` says of a row that was settled by hand."""

CLOSED: dict[str, Any] = {"owner": None, "lease_until": None, "settle": None, "sent_after": None}
"""What stands in a row of which nothing is open."""


class NotDone(PayarcError):
    """The ledger was left as it was."""


class Repair:
    """One account's rows, in the hands of a person.

    Every method raises `NotDone`, with the reason and what to do, where the row's state forbids it.
    """

    def __init__(self, ledger: Ledger, account: str) -> None:
        self._ledger = ledger
        self._account = account
        self._rows = ledger.schema.rows
        self._facts = ledger.schema.facts

    def row(self, key: str) -> Row:
        """The row of this key."""
        with self._ledger.database.read() as connection:
            return self._locked(connection, key)

    def settle(self, key: str, customer_id: str, carried: str | None) -> None:
        """Record that a pending row's customer is this one. That PayArc has it is for the caller to see to.

        :param carried: the reference in the customer's description, which must not be another row's
        """
        try:
            with self._ledger.database.write() as connection:
                now = database_now(connection)
                self._undecided(connection, key, now)
                self._check_free(connection, customer_id)
                self._check_reference(connection, key, customer_id, carried)
                created = {"state": State.CREATED, "customer_id": customer_id, "error": None, "settled_at": now}
                connection.execute(
                    update(self._rows).where(*self._at(key)).values(**created, **CLOSED, matched_by=BY_PERSON)
                )
        except sqlalchemy.exc.IntegrityError:
            raise NotDone(f"customer {customer_id} has just become another key's: nothing was changed") from None

    def settle_absent(self, key: str) -> None:
        """Record that PayArc has no customer for a pending row: the next run that reads its record sends it."""
        with self._ledger.database.write() as connection:
            row = self._undecided(connection, key, database_now(connection))
            if row.unsent:
                raise NotDone(f"{display_key(key)} was never sent, or is known to be absent: the next run sends it")
            connection.execute(
                update(self._rows).where(*self._at(key)).values(**CLOSED, attempt=self._rows.c.attempt + 1)
            )

    def retry(self, keys: Collection[str] | None) -> int:
        """Let refused records be tried again by the next run that reads them, as if their data had changed.

        :param keys: None for all refused records of the account
        :return: how many there are
        """
        rows = self._rows
        with self._ledger.database.write() as connection:
            chosen = [rows.c.account == self._account, rows.c.state == State.REJECTED]
            if keys is not None:
                for key in keys:
                    row = self._locked(connection, key)
                    if row.state != State.REJECTED:
                        raise NotDone(f"{display_key(key)} is {row.state}, not rejected: nothing was changed")
                chosen.append(rows.c.key.in_(sorted(keys)))
            # No record has an empty digest, so each of these differs from its row.
            return connection.execute(update(rows).where(*chosen).values(digest="")).rowcount

    def forget(self, key: str) -> str | None:
        """Remove a row. Its customer stays at PayArc and no row gets it again; a run makes the record a new one.

        :return: the customer's id, None if the record was refused
        """
        self._ledger.remember(FIRST_ATTEMPT, "1")
        with self._ledger.database.write() as connection:
            row = self._locked(connection, key)
            if row.state == State.PENDING:
                raise NotDone(
                    f"{display_key(key)} is pending, PayArc may have a customer for it that nobody would know of: "
                    "let a run settle it, or settle it by hand, and forget it then"
                )
            if row.customer_id:
                bar(connection, self._facts, self._account, row.customer_id, database_now(connection))
            count_from(connection, self._facts, row.attempt + 1)
            connection.execute(delete(self._rows).where(*self._at(key)))
            return row.customer_id

    # ---- rows ---------------------------------------------------------------------------------------------------

    def _at(self, key: str) -> list[ColumnElement[bool]]:
        return [self._rows.c.account == self._account, self._rows.c.key == key]

    def _locked(self, connection: Connection, key: str) -> Row:
        columns = [self._rows.c[field.name] for field in dataclasses.fields(Row)]
        found = connection.execute(select(*columns).where(*self._at(key)).with_for_update()).first()
        if found is None:
            raise NotDone(
                f"the ledger has no key {display_key(key)} in the account {self._account}: nothing was changed"
            )
        return Row(*found)

    def _undecided(self, connection: Connection, key: str, now: datetime.datetime) -> Row:
        """The row, if it is pending and nothing of it can be on its way any more."""
        row = self._locked(connection, key)
        if row.state != State.PENDING:
            raise NotDone(f"{display_key(key)} is {row.state}, not pending: there is nothing to settle")
        if row.lease_until is not None and row.lease_until >= now:
            run = f"run {row.run_id} of {row.dag_id}" if row.run_id else "a run"
            raise NotDone(
                f"{display_key(key)} is in the hands of {run} until {_iso(row.lease_until)}: wait for its end"
            )
        if ripe_at(row) >= now:
            raise NotDone(
                f"a request for {display_key(key)} may reach PayArc until {_iso(ripe_at(row))}: "
                "look and settle after that"
            )
        return row

    def _check_free(self, connection: Connection, customer_id: str) -> None:
        rows = self._rows
        whose = select(rows.c.key).where(rows.c.account == self._account, rows.c.customer_id == customer_id)
        if (other := connection.execute(whose).scalar_one_or_none()) is not None:
            raise NotDone(f"customer {customer_id} is the one of the key {display_key(other)}: nothing was changed")
        if forgotten_ids(connection, self._facts, self._account, [customer_id]):
            raise NotDone(f"customer {customer_id} is the one of a forgotten key: no key gets it again")

    def _check_reference(self, connection: Connection, key: str, customer_id: str, carried: str | None) -> None:
        if carried in (None, reference(self._ledger.ledger_id, self._account, key)):
            return
        rows = self._rows
        another = select(rows.c.key).where(rows.c.account == self._account, rows.c.reference == carried)
        if connection.execute(another.limit(1)).first() is not None:
            raise NotDone(f"customer {customer_id} carries another key's reference, {carried}: nothing was changed")


def _iso(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
