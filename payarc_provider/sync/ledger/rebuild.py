"""Rebuilding rows that a ledger has lost, from the references that PayArc's customers bear.

A reference is computed from the ledger's id, the account and the key. So of every key that the user can name, PayArc's
list shows whether a customer was made for it; a customer without a reference is not found.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy.exc
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from payarc_provider.sync.customer_index import Bearer, CustomerIndex, Match
from payarc_provider.sync.ledger import Ledger, Row
from payarc_provider.sync.ledger.forgotten import FIRST_ATTEMPT, count_from, forgotten_ids
from payarc_provider.sync.ledger.repair import CLOSED, NotDone
from payarc_provider.sync.ledger.schema import database_now
from payarc_provider.sync.ledger.states import State

_MINUTE = 60


class Verdict(StrEnum):
    """What became of a key."""

    INSERTED = "inserted"
    """One customer bears its reference, and the row was missing."""
    SETTLED = "settled"
    """One customer bears its reference, and the row was refused or unsent when the ledger was saved."""
    AGREED = "agreed"
    """Its row was right."""
    PENDING = "pending"
    """Its row is open: the next run looks it up."""
    UNDECIDED = "undecided"
    """Several customers bear its reference: its row is pending until a person has settled it."""
    DISAGREED = "disagreed"
    """Its row has another customer, or another row has this one: nothing was changed."""
    ABSENT = "absent"
    """No customer bears its reference, and it has no row."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A key at which a person must look: its row's customer, and those that bear its reference."""

    key: str
    verdict: Verdict
    customer_id: str | None
    bearers: list[str]


@dataclass(slots=True)
class Rebuilt:
    """Keys by verdict, and those at which a person must look."""

    counts: Counter[Verdict] = field(default_factory=Counter)
    doubts: list[Doubt] = field(default_factory=list)

    def note(self, key: str, verdict: Verdict, row: Row | None, bearers: list[Bearer]) -> None:
        """What became of a key."""
        self.counts[verdict] += 1
        if verdict in (Verdict.UNDECIDED, Verdict.DISAGREED):
            ids = [bearer.customer_id for bearer in bearers]
            self.doubts.append(Doubt(key, verdict, row.customer_id if row else None, ids))


class Rebuild:
    """One account's rows, made again.

    :param source: what the rows say of where their records come from
    """

    def __init__(self, ledger: Ledger, account: str, source: str) -> None:
        self._ledger = ledger
        self._account = account
        self._source = source
        self._rows = ledger.schema.rows
        self._facts = ledger.schema.facts
        self._attempt = 1

    def restore(self, shelf: CustomerIndex) -> Rebuilt:
        """Go through the shelf's keys, some hundreds in one transaction. It may be repeated.

        :raises NotDone: a run is working on the account
        """
        self._count_on()
        done = Rebuilt()
        for batch in shelf.batches():
            try:
                with self._ledger.database.write() as connection:
                    self._restore(connection, batch, done)
            except sqlalchemy.exc.IntegrityError:
                raise NotDone("a run is changing the ledger at this moment: rebuild again when it has ended") from None
        return done

    def check_unused(self) -> None:
        """
        See that no run is at work.

        :raises NotDone: one is
        """
        rows = self._rows
        with self._ledger.database.read() as connection:
            held = select(rows.c.lease_until).where(rows.c.account == self._account, rows.c.state == State.PENDING)
            held = held.where(rows.c.lease_until >= database_now(connection)).order_by(rows.c.lease_until.desc())
            if (until := connection.execute(held.limit(1)).scalar_one_or_none()) is not None:
                raise NotDone(f"a run is at work and holds rows until {until:%Y-%m-%dT%H:%M:%SZ}: wait for its end")

    def _count_on(self) -> None:
        """Let attempts count from a number that no lost row can have had, so that no Idempotency-Key comes again.

        The ledger does not know how far the lost rows had come; the minutes since 1970 are always further.
        """
        rows = self._rows
        self._ledger.remember(FIRST_ATTEMPT, "1")
        with self._ledger.database.write() as connection:
            minutes = int(database_now(connection).timestamp()) // _MINUTE
            self._attempt = count_from(connection, self._facts, minutes)
            behind = [rows.c.account == self._account, rows.c.state != State.CREATED, rows.c.attempt < self._attempt]
            connection.execute(update(rows).where(*behind).values(attempt=self._attempt))

    def _restore(self, connection: Connection, batch: list[Match], done: Rebuilt) -> None:
        now = database_now(connection)
        current = self._current(connection, [match.key for match in batch])
        ids = [bearer.customer_id for match in batch for bearer in match.bearers]
        whose = self._whose(connection, ids)
        barred = forgotten_ids(connection, self._facts, self._account, ids)
        for match in batch:
            row = current.get(match.key)
            bearers = [bearer for bearer in match.bearers if bearer.customer_id not in barred]
            taken = any(whose.get(bearer.customer_id, match.key) != match.key for bearer in bearers)
            verdict = _judge(row, [bearer.customer_id for bearer in bearers], taken)
            done.note(match.key, verdict, row, bearers)
            if verdict in (Verdict.INSERTED, Verdict.SETTLED, Verdict.UNDECIDED):
                self._write(connection, match.key, row, _values(match.reference, bearers, now), now)

    def _current(self, connection: Connection, keys: list[str]) -> dict[str, Row]:
        rows = self._rows
        columns = [rows.c[column.name] for column in dataclasses.fields(Row)]
        query = select(*columns).where(rows.c.account == self._account, rows.c.key.in_(keys)).order_by(rows.c.key)
        return {found[0]: Row(*found) for found in connection.execute(query.with_for_update())}

    def _whose(self, connection: Connection, customer_ids: list[str]) -> dict[str, str]:
        rows = self._rows
        query = select(rows.c.customer_id, rows.c.key).where(rows.c.account == self._account)
        return {found[0]: found[1] for found in connection.execute(query.where(rows.c.customer_id.in_(customer_ids)))}

    def _write(
        self, connection: Connection, key: str, row: Row | None, values: dict[str, Any], now: datetime.datetime
    ) -> None:
        rows = self._rows
        if row is not None:
            at = [rows.c.account == self._account, rows.c.key == key]
            connection.execute(update(rows).where(*at).values(**values))
            return
        new = {"account": self._account, "key": key, "source": self._source, "attempt": self._attempt}
        connection.execute(insert(rows).values(claimed_at=now, **new, **values))


def _judge(row: Row | None, bearers: list[str], taken: bool) -> Verdict:
    """What becomes of a key.

    :param row: its row, if there is one
    :param bearers: the customers that bear its reference, without the forgotten ones
    :param taken: whether another row has one of them
    """
    if row is not None and row.state == State.CREATED:
        return Verdict.AGREED if bearers in ([], [row.customer_id]) else Verdict.DISAGREED
    if row is not None and row.state == State.PENDING and not row.unsent:
        return Verdict.PENDING
    if not bearers:
        return Verdict.ABSENT if row is None else Verdict.AGREED
    if taken:
        return Verdict.DISAGREED
    if len(bearers) > 1:
        return Verdict.UNDECIDED
    return Verdict.INSERTED if row is None else Verdict.SETTLED


def _values(code: str, bearers: list[Bearer], now: datetime.datetime) -> dict[str, Any]:
    """What the row of these bearers' key says; the oldest bearer comes first."""
    first = bearers[0]
    values = {"reference": code, "digest": first.digest, "fields": first.fields, "error": None, **CLOSED}
    if len(bearers) == 1:
        return values | {
            "state": State.CREATED,
            "customer_id": first.customer_id,
            "matched_by": "reference",
            "settled_at": now,
        }
    # As a run leaves a row whose outcome it does not know: nobody sends it before a look-up or a person has decided.
    return values | {
        "state": State.PENDING,
        "lease_until": now,
        "settle": 0.0,
        "sent_after": datetime.datetime.fromtimestamp(max(0.0, first.since - 1.0), datetime.UTC),
        "settled_at": None,
    }
