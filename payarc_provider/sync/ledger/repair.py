"""Changes that a person makes to a ledger's rows. Each is one transaction, except for the renaming of a source."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import and_, delete, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.exceptions import PayarcError
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger.database import database_now
from payarc_provider.sync.ledger.errors import LedgerConflict
from payarc_provider.sync.ledger.facts import FIRST_ATTEMPT, bar_customer, barred_ids, raise_first_attempt
from payarc_provider.sync.ledger.ledger import Ledger
from payarc_provider.sync.ledger.rows import (
    CLOSED,
    OPEN_STATES,
    Hold,
    Row,
    State,
    at_key,
    hold,
    in_state,
    is_rejected,
    iso,
    read_rows,
)
from payarc_provider.sync.ledger.tombstones import find_tombstones
from payarc_provider.sync.reference import reference

BY_PERSON = "person"
"""The ``matched_by`` of a row that a person resolved."""


_BATCH = 500  # rows
_UNKNOWN_LEASE = 3600.0
_MARGIN = datetime.timedelta(seconds=5)


class LedgerUnchanged(PayarcError):
    """The ledger was not changed; the message says why and what to do."""


class Repair:
    """Changes one account's rows by hand.

    Every method is one transaction: it succeeds or changes nothing. It raises `LedgerUnchanged` if the row's state
    forbids the change.
    """

    def __init__(self, ledger: Ledger, account: str) -> None:
        self._ledger = ledger
        self._account = account
        self._rows = ledger.schema.rows
        self._facts = ledger.schema.facts

    def row(self, key: str) -> Row:
        """The row of this key."""
        with self._ledger.database.read() as connection:
            return self._read(connection, key)

    def resolve(self, key: str, customer_id: str, found_reference: str | None) -> None:
        """Record a pending row's customer. The caller must have checked that PayArc has this customer.

        :param found_reference: the reference in the customer's description, which must not belong to another row
        """
        try:
            with self._ledger.database.write() as connection:
                now = database_now(connection)
                self._read_resolvable(connection, key, now)
                self._check_free(connection, customer_id)
                self._check_reference(connection, key, customer_id, found_reference)
                created = {"state": State.CREATED, "customer_id": customer_id, "error": None, "resolved_at": now}
                connection.execute(
                    update(self._rows).where(self._at(key)).values(**created, **CLOSED, matched_by=BY_PERSON)
                )
                self._ledger.note_customer(connection, self._account)
        except LedgerConflict:
            raise LedgerUnchanged(
                f"customer {customer_id} has just been recorded for another key: nothing was changed"
            ) from None

    def resolve_absent(self, key: str) -> None:
        """Record that PayArc has no customer for a pending row, so that the next run that reads its record sends it."""
        with self._ledger.database.write() as connection:
            row = self._read_resolvable(connection, key, database_now(connection))
            if row.unsent:
                raise LedgerUnchanged(
                    f"{display_key(key)} was never sent, or PayArc is known to have no customer for it: the next run "
                    "sends it"
                )
            connection.execute(update(self._rows).where(self._at(key)).values(**CLOSED, attempt=row.attempt + 1))

    def retry(self, keys: Collection[str] | None) -> int:
        """Let the next run that reads these rejected records try them again, as if their data had changed.

        :param keys: None for all rejected records of the account, rejected changes of customers among them
        :return: the number of records
        """
        rows = self._rows
        with self._ledger.database.write() as connection:
            chosen = [rows.c.account == self._account, is_rejected(rows)]
            if keys is not None:
                for key in keys:
                    row = self._read(connection, key)
                    if row.error is None:
                        raise LedgerUnchanged(f"{display_key(key)} is {row.state}, not rejected: nothing was changed")
                chosen.append(rows.c.key.in_(sorted(keys)))
            # No record has an empty digest, so each of these records differs from its row.
            return connection.execute(update(rows).where(*chosen).values(digest="")).rowcount

    def forget(self, key: str) -> str | None:
        """Delete a row, so that a run creates a new customer for its record.

        The old customer stays at PayArc, and no row ever gets it again.

        :return: the old customer's id, None if the record was rejected
        """
        self._ledger.remember(FIRST_ATTEMPT, "1")
        with self._ledger.database.write() as connection:
            row = self._read(connection, key)
            if row.state == State.UPDATING and row.takeover_at >= database_now(connection):
                raise LedgerUnchanged(
                    f"a request for {display_key(key)} may reach PayArc until {iso(row.takeover_at)}: forget the key "
                    "after that"
                )
            if row.state == State.PENDING:
                raise LedgerUnchanged(
                    f"{display_key(key)} is pending, and PayArc may have a customer for it that would be lost: let a "
                    "run or `resolve` decide first, then forget the key"
                )
            if row.customer_id:
                bar_customer(connection, self._facts, self._account, row.customer_id, database_now(connection))
            raise_first_attempt(connection, self._facts, row.attempt + 1)
            connection.execute(delete(self._rows).where(self._at(key)))
            self._ledger.forget_customers(connection, self._account)  # others wait for the lock of the attempt
            return row.customer_id

    def release(self, keys: Collection[str] | None) -> int:
        """Shorten leases that no run can have taken by the database's present clock, which was set back since.

        The owner of such a row loses it. Even if it still runs, it sends nothing once the shortened lease has ended,
        and other runs take the row over only ``settle`` seconds after that.

        :param keys: None for all such rows of the account
        :return: the number of rows
        """
        rows = self._rows
        with self._ledger.database.write() as connection:
            now = database_now(connection)
            chosen = [in_state(rows, self._account, *OPEN_STATES), rows.c.lease_until > now]
            if keys is not None:
                chosen.append(rows.c.key.in_(sorted(keys)))
            held = read_rows(connection, rows, *chosen, lock="wait")
            longer = {key: row for key, row in held.items() if _ends_too_late(row, now)}
            for key in sorted(keys or longer):
                if key not in longer:
                    self._reject_release(self._read(connection, key), now)
            for key, row in sorted(longer.items()):
                until = now + datetime.timedelta(seconds=row.lease or _UNKNOWN_LEASE)
                released = {"owner": None, "claim": None, "lease_until": until}
                connection.execute(update(rows).where(self._at(key)).values(**released))
            return len(longer)

    @staticmethod
    def _reject_release(row: Row, now: datetime.datetime) -> None:
        if row.state not in OPEN_STATES or row.lease_until is None or row.lease_until < now:
            raise LedgerUnchanged(f"{display_key(row.key)} has no lease in the future: nothing was changed")
        raise LedgerUnchanged(
            f"the lease of {display_key(row.key)} ends by itself at {iso(row.lease_until)}, or its run renews it: wait "
            "for that; nothing was changed"
        )

    # ---- rows ---------------------------------------------------------------------------------------------------

    def _at(self, key: str) -> ColumnElement[bool]:
        return at_key(self._rows, self._account, key)

    def _read(self, connection: Connection, key: str) -> Row:
        """The row, locked until the transaction ends."""
        row = read_rows(connection, self._rows, self._at(key), lock="wait").get(key)
        if row is None:
            erased = find_tombstones(connection, self._facts, self._ledger.ledger_id, self._account, [key])
            if key in erased:
                raise LedgerUnchanged(f"{display_key(key)} {erased[key].reason}")
            raise LedgerUnchanged(f"the ledger has no key {display_key(key)} in the account {self._account}")
        return row

    def _read_resolvable(self, connection: Connection, key: str, now: datetime.datetime) -> Row:
        """The row, if it is pending and no request for it can still reach PayArc."""
        row = self._read(connection, key)
        if row.state != State.PENDING:
            raise LedgerUnchanged(f"{display_key(key)} is {row.state}, not pending: there is nothing to resolve")
        if row.lease_until is not None and row.lease_until >= now:
            run = f"run {row.run_id} of {row.dag_id}" if row.run_id else "a run"
            raise LedgerUnchanged(
                f"{display_key(key)} is claimed by {run} until {iso(row.lease_until)}: wait until the run has ended"
            )
        if row.takeover_at >= now:
            raise LedgerUnchanged(
                f"a request for {display_key(key)} may reach PayArc until {iso(row.takeover_at)}: look in PayArc's "
                "dashboard after that, then resolve the row"
            )
        return row

    # ---- customers ----------------------------------------------------------------------------------------------

    def _check_free(self, connection: Connection, customer_id: str) -> None:
        rows = self._rows
        query = select(rows.c.key).where(rows.c.account == self._account, rows.c.customer_id == customer_id)
        if (other := connection.execute(query).scalar_one_or_none()) is not None:
            raise LedgerUnchanged(
                f"customer {customer_id} belongs to the key {display_key(other)}: nothing was changed"
            )
        if barred_ids(connection, self._facts, self._account, [customer_id]):
            raise LedgerUnchanged(f"customer {customer_id} belonged to a forgotten key: no key can get it again")

    def _check_reference(self, connection: Connection, key: str, customer_id: str, found_reference: str | None) -> None:
        if found_reference in (None, reference(self._ledger.ledger_id, self._account, key)):
            return
        rows = self._rows
        query = select(rows.c.key).where(rows.c.account == self._account, rows.c.reference == found_reference).limit(1)
        if connection.execute(query).first() is not None:
            raise LedgerUnchanged(
                f"customer {customer_id} carries another key's reference, {found_reference}: nothing was changed"
            )


@dataclass(frozen=True, slots=True)
class Renamed:
    """How many rows have the source's new name, and how many of them are held by runs under way."""

    rows: int = 0
    held: int = 0


def rename_source(ledger: Ledger, account: str, old: str, new: str) -> Renamed:
    """Give the account's rows of the source ``old`` the source ``new``, in transactions that hold runs up only briefly.

    Claims stay valid, because they do not depend on the source. If it fails midway, it may be repeated.
    """
    rows, after, renamed = ledger.schema.rows, "", Renamed()
    while True:
        with ledger.database.write() as connection:
            held = hold(rows, database_now(connection)) == Hold.HELD
            these = and_(rows.c.account == account, rows.c.source == old)
            query = select(rows.c.key, held).where(these, rows.c.key > after).order_by(rows.c.key).limit(_BATCH)
            found = connection.execute(query.with_for_update()).all()
            connection.execute(update(rows).where(these, rows.c.key.in_([key for key, _ in found])).values(source=new))
        if not found:
            return renamed
        after = found[-1][0]
        renamed = Renamed(renamed.rows + len(found), renamed.held + sum(bool(is_held) for _, is_held in found))


def _ends_too_late(row: Row, now: datetime.datetime) -> bool:
    """Whether the row's lease ends later than a lease that is taken now."""
    lease = datetime.timedelta(seconds=row.lease or 0.0)
    return row.lease_until is not None and row.lease_until > now + lease + _MARGIN
