"""Tombstones: facts that stand for erased keys, so that no run creates or adopts a customer for them again.

``erased:<account>:<reference>`` is the name of a tombstone. The reference is a keyed hash of the key, so the key itself
is not kept. A tombstone is written in the transaction that deletes the key's row, before the customers are deleted at
PayArc. It has their ids until PayArc is known to have deleted them, so that an interrupted erasure can be finished.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Table, case, delete, func, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.sync.ledger.database import chunks, insert_absent
from payarc_provider.sync.ledger.rows import Row
from payarc_provider.sync.reference import LENGTH, reference

ERASED = "erased"
"""The state of the row that stands for an erased key. It is read like a row, but no table has it."""

_OPEN = '"done": null'


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What the ledger keeps of an erased key.

    :param since: when its row was deleted
    :param customers: ids of its customers, until PayArc is known to have deleted them
    :param done: when PayArc was known to have deleted them; None while the erasure is not finished
    """

    since: datetime.datetime
    customers: tuple[str, ...] = ()
    done: datetime.datetime | None = None

    @property
    def reason(self) -> str:
        """Why a record with this key is rejected. What differs from record to record is in parentheses."""
        if self.done is None:
            return f"is being erased (it was begun on {self.since:%Y-%m-%d}): finish with the ledger's command `erase`"
        return (
            f"was erased (it was on {self.since:%Y-%m-%d}): delete the record at the source, or allow a new customer "
            "with the ledger's command `erase --undo`"
        )

    def as_row(self, key: str) -> Row:
        """The row that a run reads for this key. It is not free, and has no customer."""
        nothing = dict.fromkeys((*_UNSET, "customer_id", "reference"))
        texts = {"digest": "", "fingerprints": "", "source": "", "error": json.dumps({"key": [self.reason]})}
        return Row(key=key, state=ERASED, attempt=0, resolved_at=self.since, **texts, **nothing)  # type: ignore[arg-type]

    def as_text(self) -> str:
        """The value of the fact."""
        done = self.done.isoformat(timespec="seconds") if self.done else None
        since = self.since.isoformat(timespec="seconds")
        return json.dumps({"since": since, "customers": list(self.customers), "done": done})


_UNSET = ("owner", "claim", "lease_until", "lease", "settle", "sent_after", "matched_by", "dag_id", "run_id")


def _from_text(text: str) -> Tombstone:
    stored = json.loads(text)
    done = stored["done"]
    return Tombstone(
        datetime.datetime.fromisoformat(stored["since"]),
        tuple(stored["customers"]),
        datetime.datetime.fromisoformat(done) if done else None,
    )


def _prefix(account: str) -> str:
    return f"erased:{account}:"  # followed by a reference, which has no colon


def _of_account(facts: Table, account: str) -> ColumnElement[bool]:
    """A range of the primary key. It may have the tombstones of accounts whose names go on after a colon, too."""
    return facts.c.name.between(_prefix(account), _prefix(account) + "~")


def find_tombstones(
    connection: Connection, facts: Table, ledger_id: str, account: str, keys: Iterable[str]
) -> dict[str, Tombstone]:
    """Key → its tombstone, for those of these keys that are erased. Costs one small query if the account has none."""
    keys = list(keys)
    if not keys or connection.execute(select(facts.c.name).where(_of_account(facts, account)).limit(1)).first() is None:
        return {}
    names = {_prefix(account) + reference(ledger_id, account, key): key for key in keys}
    found: dict[str, Tombstone] = {}
    for part in chunks(sorted(names)):
        query = select(facts.c.name, facts.c.value).where(facts.c.name.in_(part))
        found |= {names[name]: _from_text(value) for name, value in connection.execute(query)}
    return found


def write_tombstone(
    connection: Connection, facts: Table, ledger_id: str, account: str, key: str, tombstone: Tombstone
) -> None:
    """Write a key's tombstone, in place of an earlier one."""
    name, value = _prefix(account) + reference(ledger_id, account, key), tombstone.as_text()
    insert_absent(connection, facts, [{"name": name, "value": value}])
    connection.execute(update(facts).where(facts.c.name == name).values(value=value))


def remove_tombstone(connection: Connection, facts: Table, ledger_id: str, account: str, key: str) -> None:
    """Remove a key's tombstone."""
    connection.execute(delete(facts).where(facts.c.name == _prefix(account) + reference(ledger_id, account, key)))


def count_tombstones(connection: Connection, facts: Table, account: str) -> tuple[int, int]:
    """How many keys of the account are erased, and how many of these erasures are not finished."""
    is_open = func.coalesce(func.sum(case((facts.c.value.contains(_OPEN, autoescape=True), 1), else_=0)), 0)
    length = len(_prefix(account)) + LENGTH
    query = select(func.count(), is_open).where(_of_account(facts, account), func.length(facts.c.name) == length)
    all_of_them, still_open = connection.execute(query).one()
    return int(all_of_them), int(still_open)


def with_tombstones(
    connection: Connection, facts: Table, ledger_id: str, account: str, keys: Iterable[str], rows: Mapping[str, Row]
) -> dict[str, Row]:
    """These rows, and a row for each of the keys without a row that is erased."""
    missing = [key for key in keys if key not in rows]
    erased = find_tombstones(connection, facts, ledger_id, account, missing)
    return {**rows, **{key: tombstone.as_row(key) for key, tombstone in erased.items()}}
