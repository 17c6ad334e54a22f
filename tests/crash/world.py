"""One case's world: a sandbox of its own, a ledger of its own, the records; and the judge over what came of it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, NoReturn, Self

import sqlalchemy as sa

from payarc_provider.exceptions import PayarcError
from payarc_provider.sandbox.server import SandboxServer
from payarc_provider.sync.ledger import Ledger

from .attempts import Attempt, Attempts, may_be_repeated
from .forking import Spec

Record = dict[str, Any]

FAST = {"timeout": 0.6, "settle": 0.8, "lease": 1.2, "concurrency": 3, "batch_size": 6}
"""As short as two busy processors allow; the relations between them are those of the defaults."""

_REFERENCE = re.compile(r"(?:^ref)? ?#[0-9a-z]{12}$")
_SENT = ("name", "email", "phone", "city")


def people(count: int, numbers: Random, *, first: int = 1, tag: str = "a") -> list[Record]:
    """Records that differ from each other; their descriptions are absent, short, or too long for a reference."""
    descriptions = [None, "Donut shop customer", "A description that leaves no room for it at all"]
    return [
        {
            "id": number,
            "name": f"Ada {tag.title()}",
            "email": f"p{number}@{tag}.example",
            "phone": str(numbers.randrange(10**9, 10**10)),
            "description": numbers.choice(descriptions),
        }
        for number in range(first, first + count)
    ]


def twins(count: int) -> list[Record]:
    """Records that are equal but for their keys, with descriptions that leave no room for a reference."""
    one = {"name": "The Same", "email": "same@twins.example", "description": "A description that leaves no room for it"}
    return [{"id": number, **one} for number in range(1, count + 1)]


def said_by(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """What a record says, or a customer without its reference: the same for both if one became the other."""
    own = _REFERENCE.sub("", fields.get("description") or "")
    return (*(fields.get(name) or "" for name in _SENT), own)


class StoodStill(Exception):
    """The machine was too slow for the short ``settle`` of these tests, so that the case proves nothing."""


@dataclass
class Verdict:
    """What the judge found; ``problems`` is empty where the guarantee held."""

    duplicates: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)

    def hold(self, condition: object, problem: str) -> None:
        """Note the problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)


class World:
    """A context manager.

    :param name: of the case, unique; also names its tables
    :param database: URL of the database that the ledger and a table source live in
    :param table_source: read the records from a table instead of a list
    :param settings: changes to ``FAST``
    :param sandbox: settings of the sandbox
    """

    def __init__(
        self,
        attempts: Attempts,
        folder: Path,
        name: str,
        database: str,
        records: Sequence[Record],
        *,
        table_source: bool = False,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        sandbox: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.database = database
        self.records = list(records)
        self.settings = FAST | dict(settings or {})
        self.sandbox = SandboxServer(seed=seed, **(sandbox or {}))
        self.attempts: list[Attempt] = []
        self._attempts = attempts
        self._lock = threading.Lock()
        self._engine = sa.create_engine(database)
        self._table_source = table_source
        self._spec = Spec(
            folder=str(self.folder),
            name="",
            url=self.sandbox.url,
            token=self.sandbox.token,
            ledger=database,
            table=f"led_{name}",
            settings=self.settings,
            rows=None if table_source else self.records,
            source_url=database if table_source else "",
            source_table=f"crm_{name}" if table_source else "",
        )

    def __enter__(self) -> Self:
        self.sandbox.start()
        if self._table_source:
            self.fill(f"crm_{self.name}", self.records)
        return self

    def __exit__(self, *_: object) -> None:
        for attempt in self.attempts:
            if attempt.exit is None:
                attempt.signal(signal.SIGKILL)
                attempt.wait()
        self.sandbox.stop()
        self._drop()
        self._engine.dispose()

    def fill(self, table: str, records: Sequence[Record]) -> None:
        """A source table with these records."""
        names = sorted({name for record in records for name in record} - {"id"})
        columns = [sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)]
        there = sa.Table(table, sa.MetaData(), *columns, *(sa.Column(name, sa.String(60)) for name in names))
        with self._engine.begin() as connection:
            there.create(connection)
            connection.execute(there.insert(), [dict.fromkeys(names) | record for record in records])

    def _drop(self) -> None:
        inspector = sa.inspect(self._engine)
        with self._engine.begin() as connection:
            for table in inspector.get_table_names():
                if table.partition("_")[2].removesuffix("_facts") == self.name:
                    sa.Table(table, sa.MetaData()).drop(connection)

    # ---- running ------------------------------------------------------------------------------------------------

    def start(self, **changes: Any) -> Attempt:
        """Start an attempt; ``changes`` are fields of its spec, and ``settings`` are merged."""
        changes["settings"] = self.settings | changes.get("settings", {})
        with self._lock:
            spec = replace(self._spec, name=f"{self.name}_{len(self.attempts) + 1}", **changes)
            attempt = self._attempts.start(spec)
            self.attempts.append(attempt)
        return attempt

    def run(self, **changes: Any) -> Attempt:
        """Run an attempt to its end, whatever that is."""
        attempt = self.start(**changes)
        attempt.wait()
        return attempt

    def run_until_done(self, most: int = 8, *, suspended: Sequence[Attempt] = (), **changes: Any) -> Attempt:
        """Run again as Airflow does, until an attempt succeeds.

        :param suspended: as `prove` takes them
        """
        for _ in range(most):
            attempt = self.run(**changes)
            if attempt.exit == 0:
                return attempt
            assert may_be_repeated(attempt), self.report()
        return self._fail(f"no success in {most} attempts\n{self.report()}", suspended)

    def wait_for_claims(self) -> None:
        """Until some attempt has claimed something."""
        for _ in range(3000):
            with contextlib.suppress(PayarcError, sa.exc.SQLAlchemyError):  # the tables may be in the making
                if self.rows():
                    return
            time.sleep(0.02)
        raise AssertionError(f"nothing is claimed\n{self.report()}")

    def report(self) -> str:
        """Everything that helps to understand a failure."""
        stats = json.dumps(self.sandbox.stats())
        return "\n".join([f"files: {self.folder}", f"sandbox: {stats}", *(each.tail() for each in self.attempts)])

    # ---- judging ------------------------------------------------------------------------------------------------

    def customers(self) -> list[dict[str, Any]]:
        """The customers that requests have made, those that were seeded left out."""
        return [customer for customer in self.sandbox.customers() if customer["created_by_request"] is not None]

    def rows(self, table: str | None = None) -> dict[str, Any]:
        """The ledger's rows by key."""
        ledger = Ledger(sa.create_engine(self.database), table or self._spec.table)
        try:
            if not ledger.open(create=False):
                return {}
            with ledger.database.read() as connection:
                return {row.key: row for row in connection.execute(sa.select(ledger.schema.rows))}
        finally:
            ledger.database.engine.dispose()

    def prove(self, *done: Attempt, suspended: Sequence[Attempt] = (), **how: Any) -> None:
        """Judge, and fail unless the guarantee held.

        :param suspended: attempts that the case itself made slow, which excuses nothing
        """
        verdict = self.judge(*done, **how)
        if not verdict.problems:
            return
        self._fail("\n".join([*verdict.problems, self.report()]), suspended)

    def _fail(self, said: str, suspended: Sequence[Attempt]) -> NoReturn:
        if overran := self.overran(suspended):
            raise StoodStill("\n".join([*overran, said]))
        raise AssertionError(said)

    def judge(self, *done: Attempt, records: Sequence[Record] | None = None, interchangeable: bool = False) -> Verdict:
        """Whether there is exactly one customer for each record, and each of these attempts handed the right ids on.

        :param records: those that were to be created, if not all
        :param interchangeable: records are equal and without reference, so that one may have adopted another's customer
        """
        self._wait_for_commits()
        verdict = Verdict()
        wanted = Counter(said_by(record) for record in (self.records if records is None else records))
        customers = self.customers()
        made = Counter(said_by(customer) for customer in customers)
        verdict.duplicates = sum((made - wanted).values())
        verdict.lost = sum((wanted - made).values())
        verdict.hold(not verdict.duplicates, f"{verdict.duplicates} customers too many: {list(made - wanted)[:3]}")
        verdict.hold(not verdict.lost, f"{verdict.lost} customers are missing: {list(wanted - made)[:3]}")
        for attempt in done:
            verdict.problems += self._wrong_ids(attempt)
        if not interchangeable:
            verdict.problems += self._sent_again()
        return verdict

    def _wait_for_commits(self) -> None:
        """Until PayArc has carried out everything that reached it: a duplicate may be on its way."""
        for _ in range(6000):
            if not self.sandbox.stats()["posts"]["open"]:
                return
            time.sleep(0.01)
        raise AssertionError(f"the sandbox is not done\n{self.report()}")

    def _sent_again(self) -> list[str]:
        """Requests for a record whose customer was made by an earlier one; the key's first part names the record."""
        made: dict[str, int] = {}
        again = []
        for post in self.sandbox.log():
            code = str(post["idempotency_key"]).partition("-")[0]
            if code in made:
                again.append(f"POST {post['sequence']} is for a record that POST {made[code]} had made a customer for")
            if post["outcome"] == "created":
                made[code] = post["sequence"]
        return again

    def _wrong_ids(self, attempt: Attempt) -> list[str]:
        records = self.records if attempt.spec.rows is None else attempt.spec.rows
        by_id = {customer["customer_id"]: customer for customer in self.sandbox.customers()}
        by_key = {str(record["id"]): record for record in records}
        result = attempt.result
        handed = {one["key"]: one["customer_id"] for one in result.get("customers", [])}
        wrong = [
            f"{attempt.spec.name} gave {key} the id {its_id}, whose customer is another"
            for key, its_id in handed.items()
            if its_id not in by_id or said_by(by_id[its_id]) != said_by(by_key[key])
        ]
        if len(set(handed.values())) < len(handed):
            wrong.append(f"{attempt.spec.name} gave the same id to two records")
        if result.get("ids") != [handed[key] for key in by_key if key in handed]:
            wrong.append(f"{attempt.spec.name}'s ids are not in the order of their records")
        if len(handed) + len(result.get("rejected", [])) != len(records):
            wrong.append(f"{attempt.spec.name} says nothing of {len(records) - len(handed)} records")
        return wrong

    def overran(self, suspended: Sequence[Attempt] = ()) -> list[str]:
        """Requests that PayArc committed later than ``settle`` after their lease check.

        The guarantee rests on this not happening. The sandbox never does it by itself, but a machine that stands still
        for so long does: then the case proves nothing either way.
        """
        checks: dict[str, list[float]] = defaultdict(list)
        for attempt in self.attempts:
            trace = attempt.spec.path("trace")
            for line in trace.read_text().splitlines() if attempt not in suspended and trace.exists() else ():
                key, moment = line.split()
                checks[key].append(float(moment))
        found = []
        for post in self.sandbox.log():
            before = [moment for moment in checks[post["idempotency_key"]] if moment <= post["arrived"]]
            if post["committed"] is None or not before:
                continue
            took = post["committed"] - max(before)
            if took > self.settings["settle"]:
                found.append(f"POST {post['sequence']} was committed {took:.2f} s after its lease check")
        return found
