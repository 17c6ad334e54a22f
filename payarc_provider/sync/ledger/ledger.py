"""The ledger: which records were claimed, created or refused. One row per (account, key), the rules in its database.

Every method is one transaction, and every method may be repeated when it is not known whether it took effect.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy.exc
from sqlalchemy import and_, bindparam, delete, func, inspect, or_, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.exceptions import PayarcConfigError, PayarcLedgerError
from payarc_provider.sync.ledger.database import Database, among, sorted_errors
from payarc_provider.sync.ledger.forgotten import first_attempt, forgotten_ids
from payarc_provider.sync.ledger.schema import MAX_ACCOUNT, MYSQL, database_now, schema
from payarc_provider.sync.ledger.states import Errors, Retry, State

if TYPE_CHECKING:
    from payarc_provider.sync.records import Record

EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
_ROW_COLUMNS = (
    "key", "state", "customer_id", "reference", "digest", "fields", "source", "owner", "lease_until", "settle",
    "sent_after", "attempt", "error", "matched_by", "dag_id", "run_id",
    "settled_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A ledger row as it was read; the columns are explained in the documentation of the ledger."""

    key: str
    state: str
    customer_id: str | None
    reference: str | None
    digest: str
    fields: str
    source: str
    owner: str | None
    lease_until: datetime.datetime | None
    settle: float | None
    sent_after: datetime.datetime | None
    attempt: int
    error: str | None
    matched_by: str | None
    dag_id: str | None
    run_id: str | None
    settled_at: datetime.datetime | None = None

    @property
    def errors(self) -> Errors:
        """Why the record was refused, by field."""
        return json.loads(self.error) if self.error else {}

    @property
    def unsent(self) -> bool:
        """Pending, and certainly nothing open at PayArc: free to be claimed."""
        return self.state == State.PENDING and self.sent_after is None and self.owner is None


class Known(NamedTuple):
    """What a run needs of the row of a record that has its customer.

    :param ours: whether the record came from the claimant's own source
    :param this_run: whether the claimant's DAG run, in whichever try, made the row
    """

    customer_id: str
    digest: str
    ours: bool
    this_run: bool
    matched_by: str | None


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims: one attempt of one task, and how it works.

    :param owner: this attempt's random id
    :param source: where its records come from
    :param lease: seconds for which a claim holds without being renewed
    :param settle: seconds within which PayArc commits a request after the lease check that precedes it
    """

    account: str
    owner: str
    source: str
    lease: float
    settle: float
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """An answer to record: the customer's id, or the refusal."""

    key: str
    customer_id: str | None = None
    errors: Errors | None = None
    matched_by: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of recording: the keys recorded, and those whose customer id another row already has."""

    keys: set[str]
    taken_ids: set[str]


class Ledger:
    """The ledger in one table of a SQL database.

    :param engine: an engine of its own on SQLite, PostgreSQL, MySQL or MariaDB
    :param table: ``payarc_customers`` or ``schema.payarc_customers``
    """

    def __init__(self, engine: Engine, table: str = "payarc_customers") -> None:
        self.database = Database(engine)
        schema_name, _, name = table.rpartition(".")
        if not name or len(name) > 50:
            raise PayarcConfigError(
                f"ledger_table: {table!r} is not a table name of at most 50 characters, such as payarc_customers"
            )
        self._names = (name, schema_name or None)
        self.ledger_id = ""

    # ---- opening ------------------------------------------------------------------------------------------------

    def open(self, *, create: bool = True) -> bool:
        """Connect, create the tables at first use, and learn the ledger's id.

        :param create: False creates nothing (a dry run)
        :return: whether the ledger exists
        :raises PayarcLedgerError: when the database fails or the table is another one
        """
        with self.database.read() as connection:
            self.schema = schema(*self._names, connection.dialect)
            self._rows = self.schema.rows
            exists = self._exists(connection)
        if not exists and not create:
            return False
        if not exists:
            self._create()
        if create:
            self._check_id()
            self._insert_fact("ledger_id", secrets.token_hex(16))
        self.ledger_id = self.fact("ledger_id") or ""
        return bool(self.ledger_id)

    def _check_id(self) -> None:
        with self.database.read() as connection:
            has_rows = connection.execute(select(self._rows.c.key).limit(1)).first() is not None
        if has_rows and self.fact("ledger_id") is None:
            raise PayarcConfigError(
                f"ledger_table: {self.schema.rows.fullname} has rows, and {self.schema.facts.fullname} has lost the "
                "ledger's id: restore it, or rebuild it with python -m payarc_provider.ledger rebuild --ledger-id"
            )

    def _exists(self, connection: Connection) -> bool:
        inspector = inspect(connection)
        found = True
        for table in (self.schema.rows, self.schema.facts):
            if not inspector.has_table(table.name, schema=table.schema):
                found = False
                continue
            columns = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
            if missing := {column.name for column in table.columns} - columns:
                raise PayarcConfigError(
                    f"ledger_table: the table {table.fullname} exists and lacks the columns "
                    f"{', '.join(sorted(missing))}; "
                    "give another name, or create it from the documented DDL"
                )
        return found

    def _create(self) -> None:
        try:
            with sorted_errors(), self.database.engine.begin() as connection:
                self.schema.rows.metadata.create_all(connection, checkfirst=True)
        except (PayarcLedgerError, sqlalchemy.exc.IntegrityError):
            with self.database.read() as connection:
                if not self._exists(connection):  # another run may have created them at the same moment
                    raise

    # ---- facts --------------------------------------------------------------------------------------------------

    def facts(self, prefix: str) -> dict[str, str]:
        """All facts whose name begins with ``prefix``."""
        facts = self.schema.facts
        with self.database.read() as connection:
            named = facts.c.name.startswith(prefix, autoescape=True)
            found = connection.execute(select(facts.c.name, facts.c.value).where(named)).all()
        return {name: value for name, value in found if name.startswith(prefix)}

    def fact(self, name: str) -> str | None:
        """One fact's value."""
        facts = self.schema.facts
        with self.database.read() as connection:
            value: str | None = connection.execute(
                select(facts.c.value).where(facts.c.name == name)
            ).scalar_one_or_none()
        return value

    def remember(self, name: str, value: str) -> str:
        """Keep a fact unless it is there already; returns the value that holds."""
        self._insert_fact(name, value)
        return self.fact(name) or value

    def replace_fact(self, name: str, value: str | None) -> None:
        """Keep a fact in place of what was kept under its name; None keeps none."""
        facts = self.schema.facts
        with self.database.write() as connection:
            connection.execute(delete(facts).where(facts.c.name == name))
            if value is not None:
                connection.execute(facts.insert().values(name=name, value=value))

    def update_fact(self, name: str, change: Callable[[str | None, float], str]) -> str:
        """Replace a fact by what ``change`` makes of it, in one transaction that locks it.

        :param change: takes the present value, None if there is none, and the database's time in Unix seconds; must be
            quick, since others wait for the lock
        :return: the new value
        """
        facts = self.schema.facts
        query = select(facts.c.value).where(facts.c.name == name).with_for_update()
        with self.database.write() as connection:
            value = connection.execute(query).scalar_one_or_none()
            if value is None:  # insert something to lock
                self._insert_absent(connection, facts, [{"name": name, "value": ""}])
                value = connection.execute(query).scalar_one()
            changed = change(value or None, database_now(connection).timestamp())
            connection.execute(update(facts).where(facts.c.name == name).values(value=changed))
        return changed

    def alters_values(self, me: Claimant) -> bool:
        """Whether PayArc is known to store other values than it was sent by this account."""
        return self.fact(f"alters_values:{me.account}") is not None

    def note_altered_values(self, me: Claimant) -> None:
        """Keep in mind that PayArc stores other values than it was sent."""
        self.remember(f"alters_values:{me.account}", "yes")

    def now(self) -> datetime.datetime:
        """The database's clock, in UTC."""
        with self.database.read() as connection:
            return database_now(connection)

    def _insert_fact(self, name: str, value: str) -> None:
        if self.fact(name) is None:
            with self.database.write() as connection:
                self._insert_absent(connection, self.schema.facts, [{"name": name, "value": value}])

    # ---- reading ------------------------------------------------------------------------------------------------

    def rows(self, me: Claimant, keys: Collection[str]) -> dict[str, Row]:
        """The rows of these keys."""
        with self.database.read() as connection:
            return self._read(connection, me.account, keys)

    def known(self, me: Claimant, keys: Collection[str]) -> dict[str, Known]:
        """Those of these keys that have a customer; no more of their rows than a run over known records needs."""
        rows = self._rows
        this_run = and_(rows.c.run_id == me.run_id, rows.c.dag_id == me.dag_id)
        columns = [
            rows.c.key,
            rows.c.customer_id,
            rows.c.digest,
            (rows.c.source == me.source).label("ours"),
            this_run.label("this_run"),
            rows.c.matched_by,
        ]
        with self.database.read() as connection:
            # Whether there is a customer is seen here: a condition may tempt the database away from the primary key.
            query = select(*columns).where(rows.c.account == me.account, among(connection, rows.c.key, keys))
            found = connection.execute(query).all()
        return {row[0]: Known(*row[1:]) for row in found if row[1] is not None}

    def known_ids(self, account: str, most: int = 3) -> list[str]:
        """A few customer ids of the account, the latest first: to prove that a token belongs to its merchant."""
        rows = self._rows
        query = (
            select(rows.c.customer_id)
            .where(rows.c.account == account, rows.c.state == State.CREATED)
            .order_by(rows.c.settled_at.desc())
            .limit(most)
        )
        with self.database.read() as connection:
            return [row[0] for row in connection.execute(query)]

    def made(self, me: Claimant) -> int:
        """How many customers the task has created in its DAG run, in whichever try; adopted ones do not count."""
        rows = self._rows
        query = select(func.count()).where(
            rows.c.account == me.account,
            rows.c.state == State.CREATED,
            rows.c.dag_id == me.dag_id,
            rows.c.run_id == me.run_id,
            rows.c.task_id == me.task_id,
            or_(rows.c.matched_by.is_(None), rows.c.matched_by != "email"),
        )
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def has_rows(self, account: str) -> bool:
        """Whether the account has any row."""
        query = select(self._rows.c.key).where(self._rows.c.account == account).limit(1)
        with self.database.read() as connection:
            return connection.execute(query).first() is not None

    def _read(self, connection: Connection, account: str, keys: Collection[str]) -> dict[str, Row]:
        if not keys:
            return {}
        columns = [self._rows.c[name] for name in _ROW_COLUMNS]
        found: dict[str, Row] = {}
        for part in _parts(keys, 5000):
            query = select(*columns).where(self._rows.c.account == account, among(connection, self._rows.c.key, part))
            found.update((row[0], Row(*row)) for row in connection.execute(query))
        return found

    # ---- claiming -----------------------------------------------------------------------------------------------

    def claim(
        self,
        me: Claimant,
        records: Sequence[Record],
        references: Mapping[str, str | None],
        sent_after: datetime.datetime,
        *,
        retry_rejected: Retry = False,
    ) -> dict[str, Row]:
        """Claim what is free among these records, and read all of their rows back.

        Free are keys without a row, rows that were never sent, and refused rows whose data has changed (all refused
        rows with ``retry_rejected``). Records that the rules refuse are stored as rejected, and never alter a row that
        is created or may be open.

        :param records: at most one per key, each with a key
        :param references: key → the reference its description carries, None where it carries none
        :param sent_after: PayArc's time before which nothing of this claim can have been sent
        :return: key → row after the claim; a pending row whose ``owner`` is ``me.owner`` was claimed by this attempt
        """
        wanted = {
            record.key: record
            for record in sorted(records, key=lambda record: record.key or "")
            if record.key is not None
        }
        with self.database.write() as connection:
            now = database_now(connection)
            current = self._read(connection, me.account, wanted)
            free = {key: record for key, record in wanted.items() if is_free(record, current.get(key), retry_rejected)}
            values = {
                key: self._values(me, record, references.get(key), sent_after, now) for key, record in free.items()
            }
            fresh = [row for key, row in values.items() if key not in current]
            if fresh:
                attempt = {"attempt": first_attempt(connection, self.schema.facts)}
                self._insert_absent(connection, self._rows, [row | attempt for row in fresh])
            for key in sorted(free.keys() & current.keys()):  # in one order, or two runs lock each other out
                self._reclaim(connection, current[key], values[key])
            return self._read(connection, me.account, wanted)

    def _values(
        self, me: Claimant, record: Record, reference: str | None, sent_after: datetime.datetime, now: datetime.datetime
    ) -> dict[str, Any]:
        refused = bool(record.errors)
        return {
            "account": me.account,
            "key": record.key,
            "state": State.REJECTED if refused else State.PENDING,
            "customer_id": None,
            "reference": None if refused else reference,
            "digest": record.digest,
            "fields": record.names,
            "source": me.source,
            "owner": None if refused else me.owner,
            "lease_until": None if refused else now + datetime.timedelta(seconds=me.lease),
            "settle": None if refused else me.settle,
            "sent_after": None if refused else sent_after,
            "error": _dump(record.errors) if refused else None,
            "matched_by": None,
            "dag_id": me.dag_id,
            "run_id": me.run_id,
            "task_id": me.task_id,
            "claimed_at": now,
            "settled_at": now if refused else None,
        }

    def _reclaim(self, connection: Connection, before: Row, values: dict[str, Any]) -> None:
        rows = self._rows
        changes = {name: value for name, value in values.items() if name not in ("account", "key")}
        changes["attempt"] = before.attempt + (before.state == State.REJECTED)
        free = or_(
            rows.c.state == State.REJECTED,
            and_(rows.c.state == State.PENDING, rows.c.sent_after.is_(None), rows.c.owner.is_(None)),
        )
        connection.execute(update(rows).where(*self._at(values["account"], values["key"]), free).values(**changes))

    def _insert_absent(self, connection: Connection, table: Any, values: list[dict[str, Any]]) -> None:
        """Insert the rows that are not there, cut nothing, and wait for who inserts the same at this moment."""
        name = connection.dialect.name
        if name in MYSQL:
            # Not INSERT IGNORE: it cuts what is too long. Setting a column to itself changes nothing.
            into = mysql.insert(table)
            connection.execute(
                into.on_duplicate_key_update({next(iter(table.primary_key)).name: next(iter(table.primary_key))}),
                values,
            )
        else:
            insert = postgresql.insert if name == "postgresql" else sqlite.insert
            connection.execute(insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key)), values)

    # ---- owning -------------------------------------------------------------------------------------------------

    def renew(self, me: Claimant) -> set[str]:
        """Prolong the lease of every row this attempt still owns; returns their keys, and only those are prolonged."""
        rows = self._rows
        mine = self._mine(me)
        with self.database.write() as connection:
            now = database_now(connection)
            connection.execute(update(rows).where(*mine).values(lease_until=now + datetime.timedelta(seconds=me.lease)))
            return {row[0] for row in connection.execute(select(rows.c.key).where(*mine))}

    def release(self, me: Claimant, unsent: Collection[str]) -> None:
        """Let go of everything this attempt owns.

        :param unsent: keys that it claimed and never handed to the HTTP library, and nobody did before it; the others
            may be open, and stay so for whoever takes them over after ``settle``
        """
        rows = self._rows
        with self.database.write() as connection:
            now = database_now(connection)
            first = first_attempt(connection, self.schema.facts)
            for part in _parts(sorted(unsent)):
                certain = [*self._mine(me), rows.c.key.in_(part)]
                connection.execute(delete(rows).where(*certain, rows.c.attempt <= first))
                connection.execute(
                    update(rows).where(*certain).values(owner=None, lease_until=None, settle=None, sent_after=None)
                )
            connection.execute(update(rows).where(*self._mine(me)).values(owner=None, lease_until=now))

    def give_up(self, me: Claimant, keys: Collection[str]) -> None:
        """Let go of some rows that may be open: whoever comes can take them over after ``settle``.

        Where others hold open rows without a reference, that is when the last of these can be taken over too: equal
        records can be told from each other's customers only when they are looked up together.
        """
        rows = self._rows
        query = select(rows.c.lease_until, rows.c.settle).where(*self._in_other_hands(me))
        with self.database.write() as connection:
            now = database_now(connection)
            found = connection.execute(query.where(rows.c.reference.is_(None)))
            last = max((until + datetime.timedelta(seconds=settle or 0) for until, settle in found), default=now)
            until = last - datetime.timedelta(seconds=me.settle) if last > now else now
            for part in _parts(sorted(keys)):
                mine = [*self._mine(me), rows.c.key.in_(part)]
                connection.execute(update(rows).where(*mine).values(owner=None, lease_until=until))

    def record(self, me: Claimant, answers: Sequence[Resolution]) -> Recorded:
        """Record answers for the rows this attempt still owns, all in one transaction.

        Who lost a row drops its answer: the new owner finds the customer in PayArc's list. An id that another row
        already has, or that a forgotten key had, is not recorded either.
        """
        try:
            with self.database.write() as connection:
                return self._record(connection, me, answers)
        except sqlalchemy.exc.IntegrityError:
            if len(answers) == 1:
                return Recorded(set(), {answers[0].key})
            parts = [self.record(me, [answer]) for answer in answers]
            return Recorded(
                set().union(*(part.keys for part in parts)), set().union(*(part.taken_ids for part in parts))
            )

    def _record(self, connection: Connection, me: Claimant, answers: Sequence[Resolution]) -> Recorded:
        rows = self._rows
        now = database_now(connection)
        keys = sorted(answer.key for answer in answers)
        still = select(rows.c.key).where(*self._mine(me), rows.c.key.in_(keys)).order_by(rows.c.key).with_for_update()
        owned = {row[0] for row in connection.execute(still)}
        ids = {answer.customer_id for answer in answers if answer.customer_id}
        barred = forgotten_ids(connection, self.schema.facts, me.account, ids)
        taken = {answer.key for answer in answers if answer.key in owned and answer.customer_id in barred}
        changes = [
            {
                "b_key": answer.key,
                "b_state": State.CREATED if answer.customer_id else State.REJECTED,
                "b_customer_id": answer.customer_id,
                "b_error": _dump(answer.errors) if answer.errors else None,
                "b_matched_by": answer.matched_by,
            }
            for answer in sorted(answers, key=lambda answer: answer.key)
            if answer.key in owned - taken
        ]
        if changes:
            change = (
                update(rows)
                .where(*self._mine(me), rows.c.key == bindparam("b_key"))
                .values(
                    state=bindparam("b_state"),
                    customer_id=bindparam("b_customer_id"),
                    error=bindparam("b_error"),
                    matched_by=bindparam("b_matched_by"),
                    owner=None,
                    lease_until=None,
                    settle=None,
                    sent_after=None,
                    settled_at=now,
                )
            )
            connection.execute(change, changes)
        return Recorded(owned - taken, taken)

    # ---- looking up ---------------------------------------------------------------------------------------------

    def take_over(self, me: Claimant) -> dict[str, Row]:
        """Take over the account's open rows whose lease, and after it their settle time, has passed.

        :return: every row that this attempt owns now, those it had before included
        """
        rows = self._rows
        columns = [rows.c[name] for name in _ROW_COLUMNS]
        with self.database.write() as connection:
            now = database_now(connection)
            lease_over = [rows.c.account == me.account, rows.c.state == State.PENDING, rows.c.lease_until < now]
            for row in [
                Row(*found) for found in connection.execute(select(*columns).where(*lease_over).order_by(rows.c.key))
            ]:
                if row.owner != me.owner and ripe_at(row) < now:
                    connection.execute(
                        update(rows)
                        .where(*self._at(me.account, row.key), rows.c.state == State.PENDING)
                        .where(rows.c.owner == row.owner, rows.c.lease_until <= row.lease_until)
                        .values(
                            owner=me.owner, lease_until=now + datetime.timedelta(seconds=me.lease), settle=me.settle
                        )
                    )
            return {found[0]: Row(*found) for found in connection.execute(select(*columns).where(*self._mine(me)))}

    def waiting(self, me: Claimant) -> tuple[int, float | None]:
        """How many open rows this attempt does not own, and in how many seconds the first of them can be taken over."""
        rows = self._rows
        query = select(rows.c.lease_until, rows.c.settle).where(*self._in_other_hands(me))
        with self.database.read() as connection:
            now = database_now(connection)
            ripe = [until + datetime.timedelta(seconds=settle or 0) for until, settle in connection.execute(query)]
        return len(ripe), max(0.0, (min(ripe) - now).total_seconds()) if ripe else None

    def record_absence(self, me: Claimant, keys: Collection[str]) -> set[str]:
        """PayArc's list proved that no customer was made for these rows: nothing is open any more, they are free."""
        rows = self._rows
        with self.database.write() as connection:
            done: set[str] = set()
            for part in _parts(sorted(keys)):
                mine = [*self._mine(me), rows.c.key.in_(part)]
                done |= {row[0] for row in connection.execute(select(rows.c.key).where(*mine).with_for_update())}
                connection.execute(
                    update(rows)
                    .where(*mine)
                    .values(owner=None, lease_until=None, settle=None, sent_after=None, attempt=rows.c.attempt + 1)
                )
            return done

    def ids_with_rows(self, me: Claimant, customer_ids: Collection[str]) -> set[str]:
        """Which of these customers a row already has, or had until its key was forgotten."""
        found = self._present(me.account, "customer_id", customer_ids)
        with self.database.read() as connection:  # after the rows: a key may be forgotten in between
            for part in _parts(sorted(customer_ids)):
                found |= forgotten_ids(connection, self.schema.facts, me.account, part)
        return found

    def references_with_rows(self, me: Claimant, references: Collection[str]) -> set[str]:
        """Which of these references are a row's, and not merely look like one."""
        return self._present(me.account, "reference", references)

    def open_without_reference(self, me: Claimant) -> bool:
        """Whether others hold rows that may be open and whose customers bear no reference."""
        rows = self._rows
        query = select(rows.c.key).where(rows.c.account == me.account, rows.c.state == State.PENDING)
        query = query.where(self._not(me.owner), rows.c.reference.is_(None), rows.c.sent_after.is_not(None))
        with self.database.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def _present(self, account: str, column: str, values: Collection[str]) -> set[str]:
        field = self._rows.c[column]
        found: set[str] = set()
        with self.database.read() as connection:
            for part in _parts(sorted(values)):
                query = select(field).where(self._rows.c.account == account, field.in_(part))
                found |= {row[0] for row in connection.execute(query)}
        return found

    # ---- conditions ---------------------------------------------------------------------------------------------

    def _at(self, account: str, key: str) -> list[ColumnElement[bool]]:
        return [self._rows.c.account == account, self._rows.c.key == key]

    def _not(self, owner: str) -> ColumnElement[bool]:
        return or_(self._rows.c.owner.is_(None), self._rows.c.owner != owner)

    def _in_other_hands(self, me: Claimant) -> list[ColumnElement[bool]]:
        rows = self._rows
        open_rows = [rows.c.account == me.account, rows.c.state == State.PENDING, rows.c.lease_until.is_not(None)]
        return [*open_rows, self._not(me.owner)]

    def _mine(self, me: Claimant) -> list[ColumnElement[bool]]:
        rows = self._rows
        return [rows.c.account == me.account, rows.c.state == State.PENDING, rows.c.owner == me.owner]


def is_free(record: Record, row: Row | None, retry_rejected: Retry) -> bool:
    """Whether this record's row may be claimed: there is none, or nothing of it is open and there is reason to try."""
    if row is None or row.unsent:
        return True
    if row.state != State.REJECTED:
        return False
    return row.digest != record.digest or (not record.errors and _to_be_retried(row, retry_rejected))


def _to_be_retried(row: Row, retry_rejected: Retry) -> bool:
    if isinstance(retry_rejected, bool):
        return retry_rejected
    return row.settled_at is None or row.settled_at < retry_rejected


def ripe_at(row: Row) -> datetime.datetime:
    """When the last request of the row's owner has been committed or never will be: its lease's end and its settle."""
    return (row.lease_until or EPOCH) + datetime.timedelta(seconds=row.settle or 0)


def check_account(account: str) -> str:
    """The account as the ledger stores it.

    :raises PayarcConfigError: when it is too long
    """
    if len(account) > MAX_ACCOUNT:
        raise PayarcConfigError(f"account: has {len(account)} characters, at most {MAX_ACCOUNT} are allowed")
    return account


def _dump(errors: Errors) -> str:
    return json.dumps(errors, ensure_ascii=False)


def _parts(values: Iterable[str], size: int = 500) -> Iterable[list[str]]:
    values = list(values)
    return (values[start : start + size] for start in range(0, len(values), size))
