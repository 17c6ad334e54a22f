"""What the ledger knows about PayArc's customers: which rows have them, and which of them it has lost."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from typing import NamedTuple

from sqlalchemy import and_, case, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.sync.fingerprints import as_column, from_column, without_description
from payarc_provider.sync.ledger.database import chunks, insert_absent
from payarc_provider.sync.ledger.facts import barred_ids
from payarc_provider.sync.ledger.losses import LossChecks
from payarc_provider.sync.ledger.rows import WITH_CUSTOMER, Claimant, State, in_state, open_elsewhere

_ALTERS_VALUES = "alters_values:"
_ALTERS_DESCRIPTIONS = "alters_descriptions:"


class Alterations(NamedTuple):
    """What PayArc is known to change in an account's customers.

    :param values: it stores other values than it was sent in fields other than the description
    :param descriptions: it stores descriptions without the reference that they had, or with another text
    """

    values: bool = False
    descriptions: bool = False


class Control(NamedTuple):
    """A customer that PayArc's list has to show.

    :param claimed_at: when its row was claimed
    :param reference: what its description was sent with
    """

    claimed_at: datetime.datetime
    reference: str | None


class Carrier(NamedTuple):
    """A customer at PayArc that carries a reference with the account's tag.

    :param reference: the whole reference
    :param prints: the fingerprints of its fields; the description may be left out
    """

    reference: str
    prints: Mapping[str, str]

    def equals(self, sent: Mapping[str, str]) -> bool:
        """Whether it has the values that were sent for a row without a reference."""
        if "description" in self.prints:
            return sent == self.prints
        return without_description(sent) == as_column(self.prints)


class CustomerTable(LossChecks):
    """The part of the ledger that compares its rows with PayArc's customers."""

    # ---- which customers have rows --------------------------------------------------------------------------------

    def known_ids(self, account: str, limit: int = 3) -> list[str]:
        """A few of the account's customer ids, the latest first, to prove that a token belongs to its merchant."""
        rows = self.schema.rows
        query = select(rows.c.customer_id).where(in_state(rows, account, *WITH_CUSTOMER))
        with self.database.read() as connection:
            return [row[0] for row in connection.execute(query.order_by(rows.c.resolved_at.desc()).limit(limit))]

    def has_rows(self, account: str) -> bool:
        """Whether the account has any row."""
        query = select(self.schema.rows.c.key).where(self.schema.rows.c.account == account).limit(1)
        with self.database.read() as connection:
            return connection.execute(query).first() is not None

    def created_since(self, me: Claimant, claimed: datetime.datetime) -> dict[str, Control]:
        """Customers created by requests that were claimed at this moment or later, by id."""
        rows = self.schema.rows
        # While a customer is changed, its description may lose the reference.
        shown = case((rows.c.state == State.CREATED, rows.c.reference))
        query = select(rows.c.customer_id, rows.c.claimed_at, shown).where(
            in_state(rows, me.account, *WITH_CUSTOMER), rows.c.claimed_at >= claimed
        )
        # Adopted and rebuilt rows may have older customers.
        query = query.where(
            or_(rows.c.matched_by.is_(None), rows.c.matched_by != "email"), rows.c.resolved_at > rows.c.claimed_at
        )
        with self.database.read() as connection:
            return {row[0]: Control(row[1], row[2]) for row in connection.execute(query)}

    def ids_with_rows(self, me: Claimant, customer_ids: Collection[str]) -> set[str]:
        """Which of these customers belong to a row, or did until its key was forgotten."""
        found = self._values_with_rows(me, "customer_id", customer_ids)
        with self.database.read() as connection:  # after the rows, since a key may be forgotten in between
            for part in chunks(sorted(customer_ids)):
                found |= barred_ids(connection, self.schema.facts, me.account, part)
        return found

    def keys_of(self, me: Claimant, customer_ids: Collection[str]) -> dict[str, str]:
        """Customer id → the key of the row that has the customer."""
        rows = self.schema.rows
        condition = and_(rows.c.account == me.account, rows.c.customer_id.in_(sorted(customer_ids)))
        with self.database.read() as connection:
            found = connection.execute(select(rows.c.customer_id, rows.c.key).where(condition))
            return {row[0]: row[1] for row in found}

    def references_with_rows(self, me: Claimant, references: Collection[str]) -> set[str]:
        """Which of these references belong to a row."""
        return self._values_with_rows(me, "reference", references)

    def _values_with_rows(self, me: Claimant, column: str, values: Collection[str]) -> set[str]:
        rows = self.schema.rows
        found: set[str] = set()
        with self.database.read() as connection:
            for part in chunks(sorted(values)):
                query = select(rows.c[column]).where(rows.c.account == me.account, rows.c[column].in_(part))
                found |= {row[0] for row in connection.execute(query)}
        return found

    # ---- customers without rows -----------------------------------------------------------------------------------

    def lost_customers(self, account: str, carriers: Mapping[str, Carrier]) -> set[str]:
        """Which of these customers, created through this ledger, its rows do not account for.

        The ledger has committed a row before each request. So a row is missing or older than it was, for example
        because a backup was restored.

        :param carriers: by customer id. They must have been listed before this is called
        """
        rows = self.schema.rows
        of_account = rows.c.account == account
        has_customer_or_will = or_(rows.c.state.in_(WITH_CUSTOMER), rows.c.lease_until.is_not(None))
        lost = set(carriers)
        with self.database.read() as connection:
            for part in chunks(sorted(carriers)):
                ids = select(rows.c.customer_id).where(of_account, rows.c.customer_id.in_(part))
                lost -= {row[0] for row in connection.execute(ids)}
            for part in chunks(sorted(lost)):
                codes = {carriers[customer_id].reference for customer_id in part}
                query = select(rows.c.reference).where(of_account, rows.c.reference.in_(codes), has_customer_or_will)
                known = {row[0] for row in connection.execute(query)}
                lost -= {customer_id for customer_id in part if carriers[customer_id].reference in known}
            if lost:  # a record's own description may end in the reference of another record
                is_open = and_(in_state(rows, account, State.PENDING), rows.c.lease_until.is_not(None))
                query = select(rows.c.fingerprints).where(is_open, rows.c.reference.is_(None))
                sent = [from_column(row[0]) for row in connection.execute(query)]
                lost = {one for one in lost if not any(carriers[one].equals(prints) for prints in sent)}
            for part in chunks(sorted(lost)):  # after the rows, since a key may be forgotten in between
                lost -= barred_ids(connection, self.schema.facts, account, part)
        return lost

    def check_customers(self, account: str, carriers: Mapping[str, Carrier]) -> None:
        """Check that the rows account for these customers, as in `lost_customers`.

        :raises LedgerLost: they do not
        """
        if lost := self.lost_customers(account, carriers):
            customers = "1 customer" if len(lost) == 1 else f"{len(lost)} customers"
            raise self.lost(f"has lost rows, since PayArc has {customers} of this ledger without a row")

    # ---- customers that cannot be recognized ----------------------------------------------------------------------

    def alterations(self, account: str) -> Alterations:
        """What PayArc is known to change in this account's customers."""
        with self.database.read() as connection:
            return self._alterations(connection, account)

    def _alterations(self, connection: Connection, account: str) -> Alterations:
        facts, names = self.schema.facts, [_ALTERS_VALUES + account, _ALTERS_DESCRIPTIONS + account]
        found = {row[0] for row in connection.execute(select(facts.c.name).where(facts.c.name.in_(names)))}
        return Alterations(*(name in found for name in names))

    def note_alterations(self, account: str, seen: Alterations) -> None:
        """Remember what PayArc was seen to change, besides what is known."""
        prefixes = zip((_ALTERS_VALUES, _ALTERS_DESCRIPTIONS), seen, strict=True)
        names = [prefix + account for prefix, is_seen in prefixes if is_seen]
        if not names:
            return
        with self.database.write() as connection:
            insert_absent(connection, self.schema.facts, [{"name": name, "value": "yes"} for name in names])

    def may_be_open_unrecognized(self, me: Claimant, held: Collection[str]) -> bool:
        """Whether a row may be open elsewhere whose customer cannot be recognized by a reference.

        :param held: the ids of all claims of this run
        """
        with self.database.read() as connection:
            query = select(self.schema.rows.c.key).where(self.unrecognizable(connection, me, held)).limit(1)
            return connection.execute(query).first() is not None

    def unrecognizable(self, connection: Connection, me: Claimant, held: Collection[str]) -> ColumnElement[bool]:
        """The rows that may be open elsewhere and whose customers cannot be recognized by a reference."""
        rows = self.schema.rows
        elsewhere = open_elsewhere(rows, me, held)
        if self._alterations(connection, me.account).descriptions:
            return elsewhere
        return and_(elsewhere, rows.c.reference.is_(None))
