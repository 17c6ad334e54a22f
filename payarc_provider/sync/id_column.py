"""The column of a table that receives the ids of its customers: whether it can, and writing them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Enum, String, and_, case, column, inspect, or_, select, text, update
from sqlalchemy.dialects.mysql import SET
from sqlalchemy.engine import Connection, Engine, RootTransaction
from sqlalchemy.sql.elements import ColumnElement, quoted_name
from sqlalchemy.types import NullType

from payarc_provider.exceptions import PayarcConfigError, PayarcError, PayarcSourceError
from payarc_provider.sync.keys import UnusableKey, composite_key_text, display_key, key_text
from payarc_provider.sync.ledger.errors import describe, is_passing
from payarc_provider.sync.queries import parameter
from payarc_provider.sync.records import StoredRows
from payarc_provider.sync.relation import Relation
from payarc_provider.tracebacks import raise_alone

ID_LENGTH = 16  # characters of PayArc's ids
CHUNK = 50  # keys per statement
MAX_PARAMETERS = 900  # some databases take no more than 999
_LOCK_LIMITS = {
    "postgresql": ["SET LOCAL lock_timeout = '10s'"],
    "mysql": ["SET SESSION innodb_lock_wait_timeout = 10"],
    "mariadb": ["SET SESSION innodb_lock_wait_timeout = 10"],
    # By itself, sqlite3 begins a transaction that may fail for a lock later.
    "sqlite": ["PRAGMA busy_timeout = 10000", "BEGIN IMMEDIATE"],
}


class SourceLocked(PayarcSourceError):
    """The source cannot be written at the moment; the same write may succeed later."""


@dataclass(frozen=True, slots=True, repr=False)
class MissingId:
    """Rows that lack the id of their customer.

    :param key: the record's key, as text
    """

    key: str
    rows: StoredRows
    customer_id: str


@dataclass(slots=True)
class Written:
    """What was written.

    :param rows: the number of rows
    :param not_found: keys for which the database has found no row
    """

    rows: int = 0
    not_found: list[str] = field(default_factory=list)


class IdColumn:
    """The column ``write_back`` of a table.

    :param engine: the one from which the table is read
    :param key: the key columns, as the database stores their names
    :param name: the column, likewise
    """

    def __init__(self, engine: Engine, relation: Relation, key: Sequence[str], name: str) -> None:
        self._engine = engine
        self._relation = relation
        self._name = name
        self._length: int | None = None
        self._key: list[ColumnElement[Any]] = [column(quoted_name(stored, True)) for stored in key]
        self._column: ColumnElement[Any] = column(quoted_name(name, True))
        chunk = min(CHUNK, MAX_PARAMETERS // (2 * len(key) + 1))
        self._slots = [_Slot(self._key, number) for number in range(chunk)]
        self._update_chunk, self._select_chunk = self._statements(self._slots)
        update_one, self._select_one = self._statements(self._slots[:1])
        self._update_one = update_one.where(or_(self._column.is_(None), self._column != self._slots[0].customer_id))

    def _statements(self, slots: list[_Slot]) -> tuple[Any, Any]:
        """An UPDATE that writes the ids of all slots, and a SELECT that reads them with their keys."""
        there = self._relation.with_column(self._name)
        at_keys = or_(*(slot.at_key for slot in slots))
        if len(self._key) == 1:  # databases make a better plan of it
            at_keys = self._key[0].in_([slot.key[0] for slot in slots])
        new = case(*((slot.at_key, slot.customer_id) for slot in slots))
        rows = select(*self._key, self._column).select_from(self._relation.clause)
        return update(there).values({next(iter(there.c)): new}).where(at_keys), rows.where(at_keys)

    # ---- before the run ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Make sure that the column can take ids. This changes nothing.

        :raises PayarcConfigError: it has another type, it is too short, or the user may not change it
        :raises PayarcSourceError: the database fails
        """
        kind = self._type()
        if kind is not None:
            if not isinstance(kind, String) or isinstance(kind, Enum | SET):
                raise PayarcConfigError(
                    f'write_back: the column "{self._name}" of {self._relation.name} has the type '
                    f"{type(kind).__name__}, which cannot take PayArc's ids. Make it VARCHAR(64)"
                )
            self._length = kind.length
            self._check_length(ID_LENGTH)
        try:
            with self._begin() as (connection, _):
                connection.execute(self._update_chunk.where(text("1 = 0")), self._parameters([]))
        except PayarcError:
            raise
        except Exception as error:  # noqa: BLE001 - drivers raise all kinds
            if is_passing(error):
                raise_alone(self._error(error, PayarcSourceError))
            raise_alone(
                PayarcConfigError(
                    f'write_back: {self._relation.name} does not let its column "{self._name}" be updated '
                    f"({describe(error)}). Give the connection's user UPDATE on this column of a table"
                )
            )

    def _type(self) -> Any:
        """The column's type; None where it is unknown."""
        found = self._relation.table
        columns: Any = []
        with contextlib.suppress(Exception):  # a dialect that cannot tell, or a user that may not know
            if found is not None:
                columns = inspect(self._engine).get_columns(found[2], schema=found[1])
        kinds = {one["name"]: one["type"] for one in columns}
        kind = kinds.get(self._name)
        kind = getattr(kind, "data_type", kind)  # of a domain
        return None if isinstance(kind, NullType) else kind

    def _check_length(self, needed: int) -> None:
        if self._length is not None and self._length < needed:
            raise PayarcConfigError(
                f'write_back: the column "{self._name}" of {self._relation.name} has room for {self._length} '
                f"characters, but PayArc's ids have {needed}. Make it VARCHAR(64)"
            )

    # ---- writing ----------------------------------------------------------------------------------------------------

    def write(self, batch: Sequence[MissingId]) -> Written:
        """Write these ids in one transaction, and read them again. It may be repeated.

        :raises PayarcConfigError: an id is too long for the column
        :raises SourceLocked: it may succeed later
        :raises PayarcSourceError: the database fails, or has other values than were written
        """
        self._check_length(max(len(missing.customer_id) for missing in batch))
        batch = sorted(batch, key=lambda missing: missing.key)  # in the same order in all runs, or two of them deadlock
        whole = [missing for missing in batch if missing.rows.lacking(missing.customer_id) == len(missing.rows.values)]
        partly = [missing for missing in batch if missing.rows.lacking(missing.customer_id) < len(missing.rows.values)]
        written, size = Written(), len(self._slots)
        with self._transaction() as (connection, transaction):
            for start in range(0, len(whole), size):
                chunk = whole[start : start + size]
                parameters = self._parameters(chunk)
                connection.execute(self._update_chunk, parameters)
                self._check_written(chunk, connection.execute(self._select_chunk, parameters).all(), written)
            for missing in partly:  # rows of one key, of which some have the id
                parameters = self._slots[0].parameters(missing)
                connection.execute(self._update_one, parameters)
                self._check_written([missing], connection.execute(self._select_one, parameters).all(), written)
            transaction.commit()
        return written

    def _parameters(self, chunk: Sequence[MissingId]) -> dict[str, Any]:
        """The parameters for all slots; those that are left over repeat the last one."""
        parameters: dict[str, Any] = {}
        for number, slot in enumerate(self._slots):
            missing = chunk[min(number, len(chunk) - 1)] if chunk else self._nobody
            parameters.update(slot.parameters(missing))
        return parameters

    @property
    def _nobody(self) -> MissingId:
        return MissingId("", StoredRows((None,) * len(self._key), []), "x" * ID_LENGTH)

    def _check_written(self, chunk: Sequence[MissingId], rows: Sequence[Any], written: Written) -> None:
        """Compare what the database has with what was written, whatever its driver says about changed rows."""
        found: dict[str, list[object]] = {}
        for row in rows:
            found.setdefault(_key_text(row[:-1]), []).append(row[-1])
        for missing in chunk:
            values = found.pop(missing.key, None)
            if values is None:
                written.not_found.append(missing.key)
            elif StoredRows(missing.rows.key, values).lacking(missing.customer_id):
                raise self._wrong(missing.key)
            else:
                written.rows += missing.rows.lacking(missing.customer_id)
        if found:  # the database takes another key for equal to one of these, as without regard to case
            raise self._wrong(next(iter(found)))

    def _wrong(self, key: str) -> PayarcSourceError:
        return PayarcSourceError(
            f'write_back: the row of {display_key(key)} does not keep its id in the column "{self._name}". Check that '
            "the database tells its key from others, such as by case, and that no trigger changes the column"
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[tuple[Connection, RootTransaction]]:
        """A transaction whose errors contain no values; see `_begin`."""
        try:
            with self._begin() as begun:
                yield begun
        except PayarcError:
            raise
        except Exception as error:  # noqa: BLE001 - drivers raise all kinds, and their texts and tracebacks have values
            raise_alone(self._error(error, SourceLocked if is_passing(error) else PayarcSourceError))

    @contextlib.contextmanager
    def _begin(self) -> Iterator[tuple[Connection, RootTransaction]]:
        """A transaction that is rolled back unless it is committed, and waits for locks for 10 s at most."""
        with self._engine.connect() as connection:
            transaction = connection.begin()
            for statement in _LOCK_LIMITS.get(connection.dialect.name, ()):
                connection.exec_driver_sql(statement)
            yield connection, transaction

    def _error(self, error: Exception, kind: type[PayarcSourceError]) -> PayarcSourceError:
        return kind(
            f'the column "{self._name}" of {self._relation.name} could not be written: {describe(error)}. '
            "Check the table and its connection, and run again; nothing is sent twice"
        )


class _Slot:
    """The parameters of one id in a statement that writes several."""

    def __init__(self, key: Sequence[ColumnElement[Any]], number: int) -> None:
        self._names = [f"k{number}_{at}" for at in range(len(key))]
        self._id = f"new{number}"
        self.key = [parameter(name, None) for name in self._names]
        self.customer_id = parameter(self._id, None)
        self.at_key = and_(*(one == value for one, value in zip(key, self.key, strict=True)))

    def parameters(self, missing: MissingId) -> dict[str, Any]:
        """The values of the parameters."""
        values = {f"payarc_{name}": value for name, value in zip(self._names, missing.rows.key, strict=True)}
        return values | {f"payarc_{self._id}": missing.customer_id}


def _key_text(values: Sequence[object]) -> str:
    """The key of a row as records have it; empty if it is unusable."""
    try:
        return key_text(values[0]) if len(values) == 1 else composite_key_text(values)
    except UnusableKey:
        return ""
