"""The in-memory ledger of the simulation follows the same rules as the ledger in SQL.

The same random transactions run on both, and every result and every row must be the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from simulation.ledger import LEDGER_ID, LedgerModel, moment

from payarc_provider.sync.ledger import Claimant, Ledger, Note, Resolution, Row, UpdateClaim, UpdateResult
from payarc_provider.sync.ledger import ledger as sql_ledger
from payarc_provider.sync.ledger import updates as sql_updates
from payarc_provider.sync.records import Record

ACCOUNT = "test/1"
KEYS = [f"k{number}" for number in range(4)]
UPDATES = ("claim_updates", "record_updates", "note_unchanged")
CALLS = (
    *("claim", "claim", "record", "record", "renew", "release", "give_up", "take_over", "record_absence"),
    *("claim_updates", "claim_updates", *UPDATES),
)


def claimants(rng: random.Random) -> list[Claimant]:
    return [
        Claimant(
            ACCOUNT,
            owner,
            f"source {owner}",
            rng.choice((5.0, 9.0)),
            rng.choice((2.0, 4.0)),
            "dag",
            f"run {owner}",
            plan=rng.choice((None, "p1", f"p{owner}")),
        )
        for owner in ("a", "b")
    ]


def records(rng: random.Random) -> list[Record]:
    keys = rng.sample(KEYS, rng.randint(1, len(KEYS)))
    return [
        Record(
            0,
            key,
            {"name": "n"},
            rng.choice(("d1", "d2")),
            {"name": ["x"]} if rng.random() < 0.2 else {},
            begun=rng.choice(("", "", "create", "update city")),
        )
        for key in keys
    ]


class Names:
    """The names of the claims and takeovers of one attempt, oldest first."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self.all: list[str] = []

    def new(self) -> str:
        """A new name."""
        self.all.append(f"{self._owner}.{len(self.all) + 1}")
        return self.all[-1]

    def one(self, rng: random.Random) -> str:
        """The last name, an earlier one, or one that was never used."""
        return rng.choice((*self.all[-1:] * 2, *self.all[-4:-1], f"{self._owner}.0"))

    def some(self, rng: random.Random) -> set[str]:
        """The last few names, or a part of them."""
        return {name for name in self.all[-6:] if rng.random() < 0.8}


def step(rng: random.Random, me: Claimant, names: Names, table: dict[str, Row]) -> tuple[str, tuple[object, ...]]:
    """A transaction's name and its arguments; half of the claims that it names are those of the rows."""

    def claim_of(key: str) -> str:
        row = table.get(key)
        right = row is not None and row.owner == me.owner and rng.random() < 0.5
        return row.claim or "" if row is not None and right else names.one(rng)

    keys = rng.sample(KEYS, rng.randint(1, 3))
    name = rng.choice(CALLS)
    if name == "claim":
        wanted = records(rng)
        codes = {record.key: rng.choice((None, f"ref{record.key}")) for record in wanted}
        return name, (me, names.new(), wanted, codes, moment(rng.uniform(0, 50)))
    if name == "take_over":
        return name, (me, names.new())
    if name == "renew":
        return name, (me, names.some(rng))
    if name == "record":
        ids = [rng.choice((None, "c1", "c2", f"c{key}")) for key in keys]
        answers = [
            Resolution(key, claim_of(key), customer_id=its_id, errors=None if its_id else {"name": ["x"]})
            for key, its_id in zip(keys, ids, strict=True)
        ]
        # Which of two equal ids in one group wins is the database's affair; a run never records the same id twice.
        seen = [answer.customer_id for answer in answers if answer.customer_id]
        return name, (me, answers if len(seen) == len(set(seen)) else answers[:1])
    claims = {key: claim_of(key) for key in keys}
    if name == "release":
        updates = {key: UpdateClaim(claims[key], before(rng, table[key]), "f", "n:1") for key in keys if key in table}
        claims = {key: claim for key, claim in claims.items() if key not in updates or rng.random() < 0.5}
        arguments: tuple[object, ...] = (me, claims, updates)
    elif name in UPDATES:
        arguments = (me, update(rng, name, keys, names, table, claim_of))
    elif name == "give_up":
        arguments = (me, claims, names.some(rng))
    else:
        arguments = (me, claims)
    return name, arguments


def before(rng: random.Random, row: Row) -> Row:
    """The row as it is, or as it may have been."""
    return row if rng.random() < 0.7 else replace(row, fingerprints="old", attempt=row.attempt - 1)


def update(
    rng: random.Random,
    name: str,
    keys: list[str],
    names: Names,
    table: dict[str, Row],
    claim_of: Callable[[str], str],
) -> list[object]:
    """The changes of customers, or what is recorded or noted about them, in a transaction of this name."""
    version, prints = rng.choice((None, "n:1", "n:2")), rng.choice(("a:1", "a:1|2"))
    errors = rng.choice((None, {"name": ["rejected"]}))
    if name == "record_updates":
        ends = {"version": version, "wanted_version": rng.choice((None, "n:2")), "reference": None, "errors": errors}
        return [UpdateResult(key, claim_of(key), "d3", prints, **ends, sent=rng.random() < 0.5) for key in keys]
    rows = [before(rng, table[key]) for key in keys if key in table]
    if name == "note_unchanged":
        return [Note(row, "d4", prints, version) for row in rows]
    claim = names.new()
    plan = rng.choice((None, "p1 update city"))
    return [UpdateClaim(claim, row, prints, version, plan) for row in rows if row.customer_id]


def on_model(model: LedgerModel, name: str, arguments: tuple[object, ...], now: float) -> object:
    model.now = now
    return getattr(model, name)(*arguments)


def comparable(result: object) -> object:
    if isinstance(result, dict):
        return {key: comparable(row) for key, row in result.items()}
    if isinstance(result, Row):
        times = [value and round(value.timestamp(), 2) for value in (result.lease_until, result.sent_after)]
        fields = [
            getattr(result, name)
            for name in Row.__dataclass_fields__
            if name not in ("lease_until", "sent_after", "error", "resolved_at", "updated_at")
        ]
        return [str(value) for value in fields] + times + [bool(result.error), result.updated_at is not None]
    return result


@pytest.mark.parametrize("seed", range(8))
def test_the_model_and_the_database_agree(database, monkeypatch, seed):
    rng = random.Random(seed)
    real, model, now = Ledger(database.engine(), database.name()), LedgerModel({}), 1000.0
    real.open()
    real.ledger_id = LEDGER_ID
    for module in (sql_ledger, sql_updates):
        monkeypatch.setattr(module, "database_now", lambda _: moment(now))
    both = claimants(rng)
    names = {me.owner: Names(me.owner) for me in both}
    for number in range(60):
        now += rng.choice((0.0, 0.5, 3.0, 9.0))
        me = rng.choice(both)
        name, arguments = step(rng, me, names[me.owner], model.table)
        told = f"seed {seed}, step {number}: {name}{arguments} at {now}"
        for _ in range(rng.choice((1, 1, 1, 2))):  # twice: the answer of the first commit was lost
            expected, got = on_model(model, name, arguments, now), getattr(real, name)(*arguments)
            assert comparable(got) == comparable(expected), told
        assert comparable(real.rows(both[0], KEYS)) == comparable(model.table), told
        for me in both:
            held = names[me.owner].some(rng)
            assert real.may_be_open_unrecognized(me, held) == model.may_be_open_unrecognized(me, held), told
            assert _rounded(real.waiting(me, held)) == _rounded(model.waiting(me, held)), told
            waiting = _rounded(real.waiting(me, held, None, KEYS)), _rounded(model.waiting(me, held, None, KEYS))
            assert waiting[0] == waiting[1], told
        assert real.ids_with_rows(me, ["c1", "ck1"]) == model.ids_with_rows(me, ["c1", "ck1"]), told
        references = [f"ref{key}" for key in KEYS]
        assert real.references_with_rows(me, references) == model.references_with_rows(me, references), told


def _rounded(waiting: tuple[int, float | None]) -> tuple[int, float | None]:
    return waiting[0], waiting[1] and round(waiting[1], 2)
