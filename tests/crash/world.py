"""The world of one case: its own sandbox, ledger and records; and the check that the guarantee held."""

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
from network import Network

from payarc_provider.exceptions import PayarcError
from payarc_provider.sandbox.server import SandboxServer
from payarc_provider.sync.ledger import Ledger

from .attempts import Attempt, Attempts, may_retry
from .forking import Spec
from .history import History

Record = dict[str, Any]

FAST = {"timeout": 0.6, "settle": 0.8, "lease": 1.2, "concurrency": 3, "batch_size": 6}
"""As short as two busy processors allow, in the same proportions as the defaults."""

_REFERENCE = re.compile(r"(?:^ref)? [0-9a-z]{16}$")
SENT = ("name", "email", "phone", "city")


def people(count: int, numbers: Random, *, first: int = 1, tag: str = "a") -> list[Record]:
    """Different records. Their descriptions are absent, short, or too long for a reference."""
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
    """Records that differ only in their keys, with descriptions that leave no room for a reference."""
    one = {"name": "The Same", "email": "same@twins.example", "description": "A description that leaves no room for it"}
    return [{"id": number, **one} for number in range(1, count + 1)]


def content_of(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of a record, or of a customer without its reference; equal if one was created from the other."""
    own = _REFERENCE.sub("", fields.get("description") or "")
    return (*(fields.get(name) or "" for name in SENT), own)


class MachineTooSlow(Exception):
    """The machine was too slow for the short ``settle`` of these tests, so the case proves nothing."""


@dataclass
class Verdict:
    """What `World.judge` found; ``problems`` is empty if the guarantee held."""

    duplicates: int = 0
    lost: int = 0
    old: int = 0
    reordered: int = 0
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: object, problem: str) -> None:
        """Add the problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)


class World:
    """A context manager: starts the sandbox, and drops the case's tables at the end.

    :param name: the case's name, which is also part of its tables' names
    :param database: URL of the database with the ledger and, if there is one, the source table
    :param table_source: whether to read the records from a table instead of a list
    :param settings: overrides of ``FAST``
    :param sandbox: settings of the sandbox
    :param common: more fields of the spec of every attempt
    """

    identity = staticmethod(content_of)
    """What tells whose customer one is, for a record and for a customer."""

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
        common: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.database = database
        self.records = list(records)
        self.settings = FAST | dict(settings or {})
        self.sandbox = SandboxServer(seed=seed, **(sandbox or {}))
        self.attempts: list[Attempt] = []
        self.network: Network | None = None
        self.history = History(self.sandbox)
        self._attempts = attempts
        self._lock = threading.Lock()
        self._engine = sa.create_engine(database, **({"connect_args": {"timeout": 30}} if "sqlite" in database else {}))
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
            **(common or {}),
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
        self.history.close()
        self._drop()
        self._engine.dispose()

    def fill(self, table: str, records: Sequence[Record]) -> None:
        """Create a source table with these records."""
        names = sorted({name for record in records for name in record} - {"id"})
        columns = [sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)]
        columns += [sa.Column(name, sa.Integer if name == "v" else sa.String(60)) for name in names]
        there = sa.Table(table, sa.MetaData(), *columns)
        with self._engine.begin() as connection:
            there.create(connection)
            connection.execute(there.insert(), [dict.fromkeys(names) | record for record in records])

    def connect(self) -> sa.engine.Connection:
        """A connection to the database with the ledger and the source table."""
        return self._engine.connect()

    def _drop(self) -> None:
        inspector = sa.inspect(self._engine)
        with self._engine.begin() as connection:
            for table in inspector.get_table_names():
                if table.partition("_")[2].removesuffix("_facts") == self.name:
                    sa.Table(table, sa.MetaData()).drop(connection)

    # ---- running ------------------------------------------------------------------------------------------------

    def start(self, **changes: Any) -> Attempt:
        """Start an attempt. ``changes`` override fields of its spec; ``settings`` are merged."""
        changes["settings"] = self.settings | changes.get("settings", {})
        with self._lock:
            spec = replace(self._spec, name=f"{self.name}_{len(self.attempts) + 1}", **changes)
            attempt = self._attempts.start(spec)
            self.attempts.append(attempt)
        return attempt

    def run(self, **changes: Any) -> Attempt:
        """Run an attempt until it ends, successfully or not."""
        attempt = self.start(**changes)
        attempt.wait()
        return attempt

    def run_until_done(self, most: int = 8, **changes: Any) -> Attempt:
        """Retry as Airflow does, until an attempt succeeds."""
        for _ in range(most):
            attempt = self.run(**changes)
            if attempt.exit == 0:
                return attempt
            assert may_retry(attempt), self.report()
        return self._fail(f"no success in {most} attempts\n{self.report()}")

    def wait_for_claims(self) -> None:
        """Wait until any attempt has claimed a record."""
        for _ in range(3000):
            with contextlib.suppress(PayarcError, sa.exc.SQLAlchemyError):  # the tables may not be complete yet
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
        """The customers created by requests, without the seeded ones."""
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

    def check(self, *done: Attempt, **options: Any) -> Verdict:
        """Fail unless the guarantee held; see `judge`."""
        verdict = self.judge(*done, **options)
        if not verdict.problems:
            return verdict
        self._fail("\n".join([*verdict.problems, self.report()]))

    def _fail(self, problem: str) -> NoReturn:
        if late := self.late_commits():
            raise MachineTooSlow("\n".join([*late, problem]))
        raise AssertionError(problem)

    def judge(self, *done: Attempt, records: Sequence[Record] | None = None, interchangeable: bool = False) -> Verdict:
        """Check that each record has exactly one customer, and that these attempts returned the right ids.

        :param records: the records that should have customers; by default all
        :param interchangeable: whether the records are equal and have no reference, so that one may adopt the customer
            of another
        """
        self._wait_for_commits()
        verdict = Verdict()
        wanted = Counter(self.identity(record) for record in (self.records if records is None else records))
        customers = self.customers()
        made = Counter(self.identity(customer) for customer in customers)
        verdict.duplicates = sum((made - wanted).values())
        verdict.lost = sum((wanted - made).values())
        verdict.expect(not verdict.duplicates, f"{verdict.duplicates} customers too many: {list(made - wanted)[:3]}")
        verdict.expect(not verdict.lost, f"{verdict.lost} customers are missing: {list(wanted - made)[:3]}")
        for attempt in done:
            verdict.problems += self._wrong_ids(attempt)
        if not interchangeable:
            verdict.problems += self._sent_again()
        return verdict

    def _wait_for_commits(self) -> None:
        """Wait until the sandbox has processed every request it received: one of them may create a duplicate."""
        for _ in range(6000):
            if not self.sandbox.stats()["posts"]["open"]:
                return
            time.sleep(0.01)
        raise AssertionError(f"the sandbox is still processing requests\n{self.report()}")

    def _sent_again(self) -> list[str]:
        """Requests for a record whose customer an earlier request had created."""
        made: dict[str, int] = {}  # first part of the idempotency key, which identifies the record → POST
        again = []
        for post in self.sandbox.log():
            code = str(post["idempotency_key"]).partition("-")[0]
            if code in made:
                again.append(f"POST {post['sequence']} is for a record whose customer POST {made[code]} had created")
            if post["outcome"] == "created":
                made[code] = post["sequence"]
        return again

    def _wrong_ids(self, attempt: Attempt) -> list[str]:
        records = self.records if attempt.spec.rows is None else attempt.spec.rows
        by_id = {customer["customer_id"]: customer for customer in self.sandbox.customers()}
        by_key = {str(record["id"]): record for record in records}
        result = attempt.result
        returned = {one["key"]: one["customer_id"] for one in result.get("customers", [])}
        wrong = [
            f"{attempt.spec.name} returned the id {its_id} for {key}, but that is another record's customer"
            for key, its_id in returned.items()
            if its_id not in by_id or self.identity(by_id[its_id]) != self.identity(by_key[key])
        ]
        if len(set(returned.values())) < len(returned):
            wrong.append(f"{attempt.spec.name} returned the same id for two records")
        if result.get("ids") != [returned[key] for key in by_key if key in returned]:
            wrong.append(f"{attempt.spec.name} did not return the ids in the order of the records")
        missing = len(records) - len(returned) - len(result.get("rejected", []))
        if missing:
            wrong.append(f"{attempt.spec.name} neither accepted nor rejected {missing} records")
        return wrong

    def late_commits(self) -> list[str]:
        """Requests that the sandbox committed later than ``settle`` after their lease check.

        The guarantee assumes that this does not happen. The sandbox never does it by itself, but it happens when the
        machine stalls for that long; then the case proves nothing either way. If a request is late because a test has
        suspended its process, that is no excuse.
        """
        checks = self.lease_checks()
        found = []

        def compare(request: str, checked: Sequence[tuple[float, Attempt]], committed: float) -> None:
            for moment, attempt in checked:
                took = committed - moment
                if took > self.settings["settle"] and not attempt.was_suspended(moment, committed):
                    found.append(f"{request} was committed {took:.2f} s after its lease check")

        for post in self.sandbox.log():
            before = [check for check in checks[post["idempotency_key"]] if check[0] <= post["arrived"]]
            if post["committed"] is not None:
                compare(f"POST {post['sequence']}", before[-1:], post["committed"])
        for change in self.history.changes:
            compare(f"PATCH {change.request}", checks[change.request], change.committed)
        return found

    def lease_checks(self) -> dict[str | None, list[tuple[float, Attempt]]]:
        """The idempotency key of each request → when it checked its lease, and in which attempt; the last one last."""
        checks: dict[str | None, list[tuple[float, Attempt]]] = defaultdict(list)
        for attempt in self.attempts:
            trace = attempt.spec.path("trace")
            for line in trace.read_text().splitlines() if trace.exists() else ():
                key, moment = line.split()
                checks[key].append((float(moment), attempt))
        for each in checks.values():
            each.sort(key=lambda check: check[0])
        return checks
