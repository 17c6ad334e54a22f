"""Experiments in bad weather: the list misleads, references are damaged, the ledger loses rows, its clock steps.

Run it in the folder ``tests``: ``python -m crash.weather``, with the names of experiments to run only those. It prints
how many customers were created for how many people, how the runs ended, and what was not as expected. `test_weather`
runs some of the experiments.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from network import SERVER_ADDRESS, Network, skip_without_namespaces

from .attempts import Attempt
from .cases import Lab
from .conftest import database_urls
from .world import MachineTooSlow, Record, World

SETTINGS = {
    "timeout": 1.0,
    "settle": 2.0,
    "lease": 5.0,
    "concurrency": 4,
    "batch_size": 20,
    "max_connection_failures_in_a_row": 5,
}
LOST = ({"kind": "lost_after", "every": 5, "times": 6}, {"kind": "lost_before", "every": 6, "times": 4})
LONGEST = 75.0  # seconds; a run that takes longer is killed and counts as endless
PARALLEL = 4
DAY = 86_400


def customers_before(count: int = 120, *, seconds_ago: float = DAY) -> list[Record]:
    """Customers that PayArc had before."""
    return [
        {"name": "Old Customer", "email": f"old{number}@old.example", "created_at": time.time() - seconds_ago - number}
        for number in range(count)
    ]


def records(count: int = 40) -> list[Record]:
    """Different people, with descriptions that leave room for a reference."""
    return [
        {"id": number, "name": "Ada Weather", "email": f"w{number}@w.example", "description": "Donut shop customer"}
        for number in range(1, count + 1)
    ]


@dataclass
class Outcome:
    """What became of one experiment.

    :param ends: how each run ended
    :param missing: people without a customer although the last run said success
    :param late: requests that were committed later than ``settle`` after their lease check
    """

    people: int
    customers: int
    duplicates: int
    missing: int
    ends: list[str]
    late: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Experiment:
    """One kind of weather.

    :param sandbox: settings of the sandbox while the weather lasts
    :param faults: fault rules besides the lost responses
    :param play: what happens; by default, runs until one succeeds, the same error comes twice, or three have ended
    :param before: customers that PayArc has before
    :param ending: how the last run in this weather ends
    :param calm: how the run in calm weather ends that follows
    :param network: whether there is a router between the runs and PayArc, which can stop forwarding
    :param limit_patience: how long a run waits while the rate limit lets nothing through
    """

    name: str
    sandbox: Mapping[str, Any] = field(default_factory=dict)
    faults: Sequence[Mapping[str, Any]] = LOST
    play: Callable[[World, list[str]], None] | None = None
    before: Sequence[Record] = ()
    count: int = 40
    database: str = "sqlite"
    settings: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[World], None] | None = None
    ending: str = "success"
    calm: str = "success"
    network: bool = False
    limit_patience: float | None = None

    def run(self, lab: Lab, name: str, _numbers: Random) -> None:
        """Fail unless nobody has two customers or none, and the runs ended as expected."""
        outcome = self.try_out(lab, name)
        problems = self.problems(outcome)
        if problems and outcome.late and not self.network:
            raise MachineTooSlow("\n".join(problems))
        assert not problems, "\n".join([*problems, *outcome.ends])

    def problems(self, outcome: Outcome) -> list[str]:
        """What was not as expected."""
        *_, last, calm = outcome.ends
        found = [f"{outcome.duplicates} customers too many"] * bool(outcome.duplicates)
        found += [f"{outcome.missing} customers are missing"] * bool(outcome.missing)
        found += [f"the last run should have ended with: {self.ending}"] * (self.ending not in last)
        found += [f"the run in calm weather should have ended with: {self.calm}"] * (self.calm not in calm)
        return found

    def try_out(self, lab: Lab, name: str) -> Outcome:
        """Play it, then let a run in calm weather follow, and count the customers.

        :param name: a unique name
        """
        rows, ends, began = records(self.count), [], time.monotonic()
        database = in_schema(lab.database("postgresql"), name) if self.database != "sqlite" else "sqlite"
        options: dict[str, Any] = {
            "settings": SETTINGS | dict(self.settings),
            "common": {"limit_patience": self.limit_patience},
        }
        with contextlib.ExitStack() as stack:
            if self.network:
                skip_without_namespaces()
                network = Network(stack)
                options["sandbox"] = {"host": SERVER_ADDRESS}
                options["common"]["namespace"] = network.names["client"]
                world = network.inside("server", lambda: lab.world(name, database, rows, **options))
                world.network = network
            else:
                world = lab.world(name, database, rows, **options)
            stack.enter_context(world)
            world.sandbox.seed(self.before)
            if self.prepare:
                self.prepare(world)
            world.sandbox.faults(self.faults)
            world.sandbox.settings(**self.sandbox)
            (self.play or repeat)(world, ends)
            world.sandbox.clear_faults()
            calm = {name: value for name, value in CALM.items() if name in self.sandbox}
            world.sandbox.settings(**calm)
            ends.append(f"calm: {ended(world.start())}")
            made = Counter(customer["email"] for customer in world.customers())
            have = {customer["email"] for customer in world.sandbox.customers()}
            missing = sum(row["email"] not in have for row in rows) if ends[-1].startswith("calm: success") else 0
            late = len(world.late_commits())
        duplicates = sum(made.values()) - len(made)
        return Outcome(len(rows), sum(made.values()), duplicates, missing, ends, late, time.monotonic() - began)


CALM: dict[str, Any] = {
    "list_order": "newest",
    "list_lag": 0.0,
    "list_only": None,
    "list_shift": 0,
    "list_times": "shown",
    "list_seeded": "shown",
    "list_cache": 0.0,
    "latency": 0.0,
}
"""What a person would see end by itself; altered descriptions and merged emails stay."""


def ended(attempt: Attempt, longest: float = LONGEST) -> str:
    """Wait for an attempt, and say in a few words how it ended."""
    began = time.monotonic()
    if is_endless := attempt.wait(longest) is None:
        attempt.signal(signal.SIGKILL)
        attempt.wait()
    words = "endless" if is_endless else "success" if attempt.exit == 0 else attempt.error or f"exit {attempt.exit}"
    return f"{words} ({time.monotonic() - began:.0f} s, {len(attempt.log().splitlines())} lines in the log)"


def repeat(world: World, ends: list[str], most: int = 3) -> None:
    """Run until a run succeeds or stops with the same error as the last, at most three times."""
    for _ in range(most):
        ends.append(ended(world.start()))
        words = [end.rpartition(" (")[0] for end in ends]
        if words[-1] == "success" or words[-1].startswith("endless") or words[-2:-1] == words[-1:]:
            return


# ---- The ledger loses what it has committed.


def in_schema(url: str, name: str) -> str:
    """The URL for a schema of its own, whose ``clock_timestamp()`` can be set ahead."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in (
            f"CREATE SCHEMA {name}",
            f"CREATE TABLE {name}.step (ahead interval)",
            f"INSERT INTO {name}.step VALUES ('0')",
            f"CREATE FUNCTION {name}.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS "
            f"'SELECT pg_catalog.clock_timestamp() + (SELECT ahead FROM {name}.step)'",
        ):
            connection.execute(sa.text(statement))
    engine.dispose()
    given = sa.make_url(url)
    path = {"options": f"-csearch_path={name},pg_catalog"}
    return given.update_query_dict(path).render_as_string(hide_password=False)


def sql(world: World, *statements: str) -> None:
    """Run statements in one transaction of the ledger's database; ``{rows}`` is the ledger's table."""
    engine = sa.create_engine(world.database)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement.format(rows=f"led_{world.name}")))
    engine.dispose()


def lose(*statements: str) -> Callable[[World, list[str]], None]:
    """Everybody gets a customer; then the statements are run; then the runs are repeated."""

    def play(world: World, ends: list[str]) -> None:
        repeat(world, ends)
        sql(world, *statements)
        later: list[str] = []
        repeat(world, later)
        ends += [f"then {end}" for end in later]

    return play


def restore(world: World, ends: list[str]) -> None:
    """A backup of the time when half of the records had customers."""
    ends.append(ended(world.start(rows=world.records[: len(world.records) // 2])))
    sql(world, "CREATE TABLE backup AS SELECT * FROM {rows}")
    ends.append(ended(world.start()))
    sql(world, "DELETE FROM {rows}", "INSERT INTO {rows} SELECT * FROM backup")
    repeat(world, ends, most=2)


def failover(world: World, ends: list[str]) -> None:
    """In the middle of a run, the ledger goes back by the last thirty customers."""
    first = world.start()
    wait_for_customers(world, 30)
    sql(world, "CREATE TABLE backup AS SELECT * FROM {rows}")
    wait_for_customers(world, 60)
    sql(
        world,
        "LOCK TABLE {rows} IN ACCESS EXCLUSIVE MODE",
        "DELETE FROM {rows}",
        "INSERT INTO {rows} SELECT * FROM backup",
    )
    ends.append(ended(first))
    repeat(world, ends, most=2)


def rebuild(world: World, ends: list[str]) -> None:
    """The table is dropped; a run stops; a person rebuilds the ledger."""
    lose("DROP TABLE {rows}")(world, ends)
    keys = world.folder / "keys.txt"
    keys.write_text("".join(f"{row['id']}\n" for row in world.records))
    ledger = {"conn_type": "sqlite", "host": sa.make_url(world.database).database}
    connections = {
        "AIRFLOW_CONN_LEDGER": json.dumps(ledger),
        "AIRFLOW_CONN_PAYARC_DEFAULT": world.sandbox.connection_json(),
    }
    command = [sys.executable, "-m", "payarc_provider.ledger", "--ledger-conn-id", "ledger"]
    command += ["--ledger-table", f"led_{world.name}", "rebuild", "--keys-from", str(keys), "--source", "task crm"]
    done = subprocess.run(command, env=os.environ | connections, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends.append(f"rebuilt, then {ended(world.start())}")


def wait_until(world: World, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, world.report()
        time.sleep(0.02)


def wait_for_customers(world: World, count: int) -> None:
    """Wait until requests have created as many customers."""
    wait_until(world, lambda: len(world.customers()) >= count)


def open_leases(world: World) -> datetime.datetime:
    """Until when the latest lease lasts."""
    return max(row.lease_until for row in world.rows().values() if row.lease_until is not None)


def step(seconds: int) -> Callable[[World, list[str]], None]:
    """The ledger's clock steps while two runs work on the same records, just after the leases were renewed."""

    def play(world: World, ends: list[str]) -> None:
        first = world.start()
        wait_for_customers(world, 1)
        second = world.start(run_id="other")
        second.wait_for_log("Waiting for")
        leases = open_leases(world)
        wait_until(world, lambda: open_leases(world) > leases)
        sql(world, f"UPDATE step SET ahead = '{seconds} seconds'")
        ends += [ended(first), ended(second)]

    return play


# ---- The network between the runs and PayArc is cut.

PARTITION = 7.0
AFTERWARDS = 14.5
"""Seconds since the partition began. The kernel repeats unanswered bytes after 0.2, 0.6, 1.5, 3.2, 6.6 and 13.3 s."""


def partition(*, stop: bool) -> Callable[[World, list[str]], None]:
    """The network is cut for longer than a request and ``settle`` take.

    :param stop: whether the task is stopped meanwhile, and only runs again when the network has healed
    """

    def play(world: World, ends: list[str]) -> None:
        first = world.start()
        wait_for_customers(world, len(world.records) - 60)
        world.network.forward(False)
        began = time.monotonic()
        if stop:
            first.wait(1.0)
            first.signal(signal.SIGTERM)
        time.sleep(began + PARTITION - time.monotonic())
        world.network.forward(True)
        ends.append(ended(first))
        repeat(world, ends)
        time.sleep(max(0.0, began + AFTERWARDS - time.monotonic()))  # for bytes that arrive late

    return play


def fill_cache(world: World) -> None:
    """Somebody has read the first page before."""
    world.sandbox.settings(list_cache=25.0)
    url = f"{world.sandbox.url}/customers?limit=100&page=1"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {world.sandbox.token}"})
    urllib.request.urlopen(request, timeout=5).close()


def known_emails(world: World) -> None:
    """Five of the people are customers already, and PayArc merges by email."""
    a_day_ago = time.time() - DAY
    world.sandbox.seed(
        {"name": "Known Before", "email": row["email"], "created_at": a_day_ago} for row in world.records[:5]
    )


def merged_twice(world: World) -> None:
    """Two customers have the email of one record."""
    world.sandbox.seed({"name": name, "email": world.records[0]["email"]} for name in ("One", "Two"))


RECENT = [*customers_before(5, seconds_ago=0), *customers_before()]
REJECTION = "exit 3"
GONE = "is gone, and had customers"
CLOCK: dict[str, Any] = {
    "sandbox": {"latency": 0.6},
    "settings": {"timeout": 1.5, "lease": 6.0, "concurrency": 2, "batch_size": 24},
    "database": "postgresql",
    "count": 24,
}

EXPERIMENTS = [
    Experiment("calm"),
    *(
        Experiment(f"description_{how}", {"alter": {"description": how}})
        for how in ("cut", "no_hash", "alphanumeric", "upper", "trim", "append", "drop")
    ),
    *(
        Experiment(f"list_{how}", sandbox, ending="PayArc's list does not show customer", before=before)
        for how, sandbox, before in (
            ("empty", {"list_only": 0}, ()),
            ("lags", {"list_lag": 30.0}, ()),
            ("capped", {"list_only": 20}, customers_before()),
            ("shifted", {"list_shift": -5 * 3600}, customers_before()),
        )
    ),
    *(
        Experiment(f"list_{order}", {"list_order": order}, before=customers_before(), ending="is not newest first")
        for order in ("oldest", "random", "id")
    ),
    Experiment(
        "list_ahead", {"list_shift": 5 * 3600}, before=customers_before(), ending="do not agree with PayArc's clock"
    ),
    Experiment("list_cached", {"list_cache": 25.0}, prepare=fill_cache, ending="is an old copy"),
    Experiment("list_null", {"list_seeded": "null"}, before=RECENT, ending="an entry without an id"),
    Experiment("list_no_id", {"list_seeded": "no_id"}, before=RECENT, ending="an entry without an id"),
    Experiment("times_missing", {"list_times": "missing"}, before=customers_before()),
    Experiment("times_unreadable", {"list_times": "unreadable"}, before=customers_before()),
    *(
        Experiment(f"{kind}_{status}", faults=[{"kind": f"{kind}_after", "status": status, "every": 9, "times": 4}])
        for kind in ("html", "foreign")
        for status in (400, 401, 422, 429)
    ),
    Experiment("emails_merged", {"shared_email": "merged"}, prepare=known_emails),
    Experiment(
        "email_twice", prepare=merged_twice, settings={"match_existing": "email"}, ending=REJECTION, calm=REJECTION
    ),
    Experiment("table_dropped", play=lose("DROP TABLE {rows}"), database="postgresql", ending=GONE, calm=GONE),
    Experiment(
        "table_truncated",
        play=lose("TRUNCATE {rows}"),
        database="postgresql",
        ending="has lost all customers",
        calm="has lost all customers",
    ),
    Experiment("table_rebuilt", play=rebuild),
    Experiment("backup", play=restore, database="postgresql", ending="has lost rows", calm="has lost rows"),
    Experiment(
        "failover",
        {"latency": 0.2},
        play=failover,
        database="postgresql",
        count=120,
        ending="has lost rows",
        calm="has lost rows",
    ),
    Experiment("clock_170", play=step(170), **CLOCK),
    Experiment("clock_3600", play=step(3600), **CLOCK),
    Experiment("clock_back", play=step(-170), **CLOCK),
    Experiment("partition", play=partition(stop=False), count=200, network=True, settings={"concurrency": 16}),
    Experiment("partition_stopped", play=partition(stop=True), count=200, network=True, settings={"concurrency": 16}),
    Experiment(
        "always_429",
        faults=[{"kind": "rate_limited", "seconds": 1, "every": 1}],
        limit_patience=12.0,
        ending="rate limit has let no request through",
    ),
    Experiment(
        "always_503",
        faults=[*LOST, {"kind": "html_before", "status": 503, "method": "GET", "route": "/customers", "every": 1}],
        settings={"max_connection_failures_in_a_row": 3},
        ending="PayarcUnknownOutcome",
    ),
]


def run_all(lab: Lab, names: Sequence[str]) -> dict[Experiment, Outcome | str]:
    """Run the experiments with these names, or all; a text says why an experiment could not be run."""

    def run(experiment: Experiment) -> Outcome | str:
        try:
            return experiment.try_out(lab, f"w_{experiment.name}")
        except (Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - the other experiments continue
            return f"{type(error).__name__}: {error}"

    chosen = [experiment for experiment in EXPERIMENTS if not names or experiment.name in names]
    with ThreadPoolExecutor(PARALLEL) as pool:
        return dict(zip(chosen, pool.map(run, chosen), strict=True))


def test_weather(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Print the table, and fail if anything was not as expected."""
    lab = Lab(tmp_path_factory.mktemp("weather"), database_urls(request))
    try:
        outcomes = run_all(lab, json.loads(os.environ.get("PAYARC_WEATHER", "[]")))
    finally:
        lab.close()
    failed = 0
    print("\nexperiment               people customers duplicates missing late seconds")
    for experiment, found in outcomes.items():
        if isinstance(found, str):
            print(f"{experiment.name:24} could not be run: {found}")
            continue
        counts = f"{found.people:6} {found.customers:9} {found.duplicates:10} {found.missing:7} {found.late:4}"
        print(f"{experiment.name:24} {counts} {found.seconds:7.0f}")
        problems = experiment.problems(found)
        failed += bool(problems)
        for line in (*found.ends, *(f"NOT AS EXPECTED: {problem}" for problem in problems)):
            print(f"    {line[:230]}")
    assert not failed, f"{failed} experiments were not as expected"


def main() -> int:
    """Run pytest on this file, with the names in an environment variable."""
    parser = argparse.ArgumentParser(prog="python -m crash.weather", description=__doc__)
    parser.add_argument("names", nargs="*", help="experiments to run (default: all)")
    names = parser.parse_args().names
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", f"{__file__}::test_weather"]
    return subprocess.call(command, env=os.environ | {"PAYARC_WEATHER": json.dumps(names)})


if __name__ == "__main__":
    sys.exit(main())
