"""Facts about the ledger itself: named texts in its second table, two kinds of which have rules of their own.

``forgotten:<account>:<customer id>`` bars a customer whose key was forgotten or erased. The customer still carries the
key's reference and may equal a record in every field, so no row may ever adopt it.

``first_attempt`` is the attempt number that new rows start from. It is higher than every attempt of a removed row, so
that no ``Idempotency-Key`` is used twice: PayArc might return the forgotten customer for the second request.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Collection

from sqlalchemy import Table, and_, delete, func, insert, inspect, select, update
from sqlalchemy.engine import Connection, Engine

from payarc_provider.exceptions import PayarcConfigError, PayarcLedgerError
from payarc_provider.sync.clock import ClockWatch, Offset
from payarc_provider.sync.ledger.database import Database, among, database_now, insert_absent
from payarc_provider.sync.ledger.rows import OPEN_STATES, Claimant, in_state
from payarc_provider.sync.ledger.schema import schema

FIRST_ATTEMPT = "first_attempt"


class FactTable:
    """Opens the ledger's tables and keeps the facts, one transaction per call.

    ``ledger_id`` is the ledger's random id, which keys its references and hashes; empty until the ledger is open.
    """

    def __init__(self, engine: Engine, table: str = "payarc_customers") -> None:
        self.database = Database(engine)
        schema_name, _, name = table.rpartition(".")
        if not name or len(name) > 50:
            raise PayarcConfigError(
                f"ledger_table: {table!r} is not a table name of at most 50 characters, such as payarc_customers"
            )
        self.schema = schema(name, schema_name or None, engine.dialect)
        self.ledger_id = ""

    # ---- opening ------------------------------------------------------------------------------------------------

    def open(self, *, create: bool = True) -> bool:
        """Connect, create the tables at first use, and read the ledger's id.

        :param create: False creates nothing (a dry run)
        :return: whether the ledger exists
        :raises PayarcLedgerError: when the database fails
        :raises PayarcConfigError: when a table of that name is not a ledger's
        :raises LedgerLost: when the ledger had customers and its table is gone; ``ledger_id`` is set nevertheless
        """
        with self.database.read() as connection:
            # The dialect knows MariaDB from MySQL only after it has connected.
            self.schema = schema(self.schema.rows.name, self.schema.rows.schema, connection.dialect)
            exists = self.schema.exists(connection)
            has_facts = exists or inspect(connection).has_table(self.schema.facts.name, schema=self.schema.facts.schema)
            has_rows = exists or inspect(connection).has_table(self.schema.rows.name, schema=self.schema.rows.schema)
        if has_facts and not has_rows:
            self._check_table()
        if not exists and not create:
            return False
        if not exists:
            self._create()
        if create:
            self._check_id()
            self.remember("ledger_id", secrets.token_hex(16))
        self.ledger_id = self.fact("ledger_id") or ""
        self.database.opened_table = self.schema.rows.fullname
        return bool(self.ledger_id)

    def _check_table(self) -> None:
        """The table of the rows does not exist, but that of the facts does.

        :raises LedgerLost: it did exist
        """

    def _create(self) -> None:
        # Another run may create the tables at the same moment, and on MySQL one of them before the other.
        for last_try in (False, False, True):
            try:
                with self.database.write() as connection:
                    self.schema.create(connection)
                    return
            except PayarcLedgerError:
                with self.database.read() as connection:
                    if self.schema.exists(connection):
                        return
                if last_try:
                    raise

    def _check_id(self) -> None:
        rows = self.schema.rows
        with self.database.read() as connection:
            has_rows = connection.execute(select(rows.c.key).limit(1)).first() is not None
        if has_rows and self.fact("ledger_id") is None:
            raise PayarcConfigError(
                f"ledger_table: {rows.fullname} has rows, but {self.schema.facts.fullname} has lost the "
                "ledger's id. Restore it, or rebuild it with python -m payarc_provider.ledger rebuild --ledger-id"
            )

    # ---- facts --------------------------------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """The value of a fact, None if there is none."""
        facts = self.schema.facts
        with self.database.read() as connection:
            value: str | None = connection.execute(
                select(facts.c.value).where(facts.c.name == name)
            ).scalar_one_or_none()
        return value

    def facts(self, prefix: str) -> dict[str, str]:
        """All facts whose name begins with ``prefix``."""
        facts = self.schema.facts
        query = select(facts.c.name, facts.c.value).where(facts.c.name.startswith(prefix, autoescape=True))
        with self.database.read() as connection:
            found = connection.execute(query).all()
        return {name: value for name, value in found if name.startswith(prefix)}  # LIKE may ignore case

    def remember(self, name: str, value: str) -> str:
        """Store a fact unless it exists; returns the stored value."""
        if self.fact(name) is None:
            with self.database.write() as connection:
                insert_absent(connection, self.schema.facts, [{"name": name, "value": value}])
        return self.fact(name) or value

    def replace_fact(self, name: str, value: str | None) -> None:
        """Store a fact in place of the one with this name; None deletes it."""
        facts = self.schema.facts
        with self.database.write() as connection:
            if value is None:
                connection.execute(delete(facts).where(facts.c.name == name))
                return
            insert_absent(connection, facts, [{"name": name, "value": value}])
            connection.execute(update(facts).where(facts.c.name == name).values(value=value))

    def compare_clock(self, me: Claimant, clock: ClockWatch, payarc: Offset | None) -> None:
        """Compare the database's clock with PayArc's and with what an earlier run has stored about them.

        :param payarc: by how much PayArc's clock is ahead of this machine's; None if PayArc shows no time
        """
        rows, facts, name = self.schema.rows, self.schema.facts, f"clock:{me.account}"
        is_open = and_(in_state(rows, me.account, *OPEN_STATES), rows.c.lease_until.is_not(None))
        with self.database.read() as connection:
            clock.measure(lambda: database_now(connection))
            fact = connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()
            longest = connection.execute(select(func.max(rows.c.lease + rows.c.settle)).where(is_open)).scalar_one()
        changed = clock.compare(fact, payarc, longest or 0.0, me.lease + me.settle)
        if changed is not None:
            self.replace_fact(name, changed)

    def update_fact(self, name: str, change: Callable[[str | None, float], str]) -> str:
        """Replace a fact by the result of ``change``, in one transaction that locks the fact.

        :param change: takes the present value (None if there is none) and the database's time in Unix seconds. Others
            wait for the lock meanwhile, so it must be quick.
        :return: the new value
        """
        facts = self.schema.facts
        query = select(facts.c.value).where(facts.c.name == name).with_for_update()
        with self.database.write() as connection:
            value = connection.execute(query).scalar_one_or_none()
            if value is None:  # insert something to lock
                insert_absent(connection, facts, [{"name": name, "value": ""}])
                value = connection.execute(query).scalar_one()
            changed = change(value or None, database_now(connection).timestamp())
            connection.execute(update(facts).where(facts.c.name == name).values(value=changed))
        return changed


# ---- forgotten customers --------------------------------------------------------------------------------------------


def _forgotten_prefix(account: str) -> str:
    return f"forgotten:{account}:"  # followed by a customer id, which has no colon


_ERASED = "erased "


def bar_customer(
    connection: Connection,
    facts: Table,
    account: str,
    customer_id: str,
    now: datetime.datetime,
    *,
    erased: bool = False,
) -> None:
    """Make sure that no row gets this customer again.

    :param erased: whether the customer is deleted at PayArc, and so does not count as forgotten any more
    """
    name = _forgotten_prefix(account) + customer_id
    value = (_ERASED if erased else "") + now.isoformat(timespec="seconds")
    if not barred_ids(connection, facts, account, [customer_id]):
        connection.execute(insert(facts).values(name=name, value=value))
    elif erased:
        connection.execute(update(facts).where(facts.c.name == name).values(value=value))


def barred_ids(connection: Connection, facts: Table, account: str, customer_ids: Collection[str]) -> set[str]:
    """Which of these customers are barred. Pass no more than some hundreds at once."""
    names = {_forgotten_prefix(account) + customer_id: customer_id for customer_id in customer_ids}
    if not names:
        return set()
    found = connection.execute(select(facts.c.name).where(among(connection, facts.c.name, sorted(names))))
    return {names[row[0]] for row in found}


def count_barred(connection: Connection, facts: Table, account: str) -> int:
    """How many customers of the account are barred and were not deleted."""
    prefix = _forgotten_prefix(account)
    query = select(func.count()).select_from(facts).where(func.substr(facts.c.name, 1, len(prefix)) == prefix)
    query = query.where(func.substr(facts.c.value, 1, len(_ERASED)) != _ERASED)
    return int(connection.execute(query).scalar_one())


# ---- attempts -------------------------------------------------------------------------------------------------------


def first_attempt(connection: Connection, facts: Table) -> int:
    """The attempt that new rows start from."""
    value = connection.execute(select(facts.c.value).where(facts.c.name == FIRST_ATTEMPT)).scalar_one_or_none()
    return int(value or 1)


def raise_first_attempt(connection: Connection, facts: Table, attempt: int) -> int:
    """Make new rows start from at least this attempt, and return the attempt they start from. The fact must exist."""
    condition = facts.c.name == FIRST_ATTEMPT
    value = connection.execute(select(facts.c.value).where(condition).with_for_update()).scalar_one()
    if int(value) >= attempt:
        return int(value)
    connection.execute(update(facts).where(condition).values(value=str(attempt)))
    return attempt
