"""The ledger's database is unreachable, locked or full, or aborts transactions: at the start of a run, or during it."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable
from random import Random

import pytest
import sqlalchemy as sa

from .attempts import Attempt
from .cases import Lab, ParallelCases, Scenario
from .forking import FAILED
from .proxy import before_database, url_through
from .world import World, people

SERVERS = ("postgresql", "mariadb")
POINTS = ("after_claim", "before_send", "after_response", "before_record", "before_renewal", "before_takeover")
NOTICED = ("Trying again",)
IMPATIENT = {"ledger_patience": 0.3}
SUSPENDED = {"stop_by": "SIGSTOP", "stop_pause": 0.1}
LONGER = {"sandbox": {"latency": 0.05}}


def _start_and_interrupt(
    world: World, numbers: Random, fail: Callable[[], None], fix: Callable[[], None], **changes: object
) -> Attempt:
    """Start an attempt, make its ledger fail at one of the points, and fix it when the attempt has noticed."""
    point = numbers.choice(POINTS)
    nth = numbers.randint(1, 10) if point in ("before_send", "after_response") else 1
    attempt = world.start(stop_at=point, stop_nth=nth, **SUSPENDED, **changes)
    assert attempt.wait_until_stopped(), world.report()
    fail()
    attempt.resume()
    assert attempt.wait_for_log(*NOTICED), f"it did not notice\n{world.report()}"
    fix()
    return attempt


def unreachable(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The ledger is unreachable when a run starts, for the rest of a run, and for a moment during a run."""
    world = lab.world(name, database, people(24, numbers), **LONGER, seed=numbers.randrange(10**6))
    with world, before_database(world.database) as proxy:
        through = {"ledger": url_through(world.database, proxy)}
        proxy.cut()
        before = world.run(settings=IMPATIENT, **through)
        assert (before.exit, "ledger" in before.error) == (FAILED, True), world.report()
        assert world.sandbox.stats()["requests"] == {}
        proxy.restore()
        point = numbers.choice(POINTS[:4])
        attempt = world.start(stop_at=point, settings={"ledger_patience": 0.5}, release=0.3, **SUSPENDED, **through)
        assert attempt.wait_until_stopped(), world.report()
        proxy.cut()
        attempt.resume()
        assert attempt.wait() == FAILED, world.report()
        assert "ledger" in attempt.error, world.report()
        proxy.restore()
        done = _start_and_interrupt(world, numbers, proxy.cut, proxy.restore, **through)
        assert done.wait() == 0, world.report()
        world.check(done)


def frozen(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The ledger's connections hang for longer than the lease, while another run takes the records over."""
    world = lab.world(name, database, people(24, numbers), **LONGER, seed=numbers.randrange(10**6))
    with world, before_database(world.database) as proxy:
        point = numbers.choice(("after_claim", "before_send", "after_response", "before_record"))
        first = world.start(stop_at=point, ledger=url_through(world.database, proxy), **SUSPENDED)
        assert first.wait_until_stopped(), world.report()
        proxy.freeze()
        first.resume()
        second = world.start()
        second.wait(12)  # it ends unless a frozen transaction holds locks
        proxy.restore()
        assert (first.wait(), second.wait()) == (0, 0), world.report()
        world.check(first, second)


def aborted_transactions(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Some statements fail as they do after a deadlock, or in a transaction that cannot be serialized."""
    aborted = sorted(numbers.sample(range(1, 60), 10))
    with lab.world(name, database, people(24, numbers), **LONGER, seed=numbers.randrange(10**6)) as world:
        assert world.run(rows=[]).exit == 0, world.report()  # creates the tables
        engine = sa.create_engine(world.database)
        with engine.begin() as connection:
            for statement in _abort(database, name, aborted):
                connection.exec_driver_sql(statement)
        done = world.run()
        with engine.begin() as connection:
            for statement in _stop_aborting(database, name):
                connection.exec_driver_sql(statement)
        engine.dispose()
        assert done.exit == 0, world.report()
        assert re.search("40P01|40001|1213|1205", done.log()), "no transaction was aborted"
        world.check(done)


def _abort(database: str, name: str, aborted: list[int]) -> list[str]:
    # A rollback must not undo the count of statements: it is kept in a sequence, or in a table without transactions.
    deadlocks, others = (", ".join(map(str, part)) for part in (aborted[::2], aborted[1::2]))
    if database == "postgresql":
        return [
            f"CREATE SEQUENCE n_{name}",
            f"""CREATE FUNCTION f_{name}() RETURNS trigger LANGUAGE plpgsql AS $$
            DECLARE n bigint := nextval('n_{name}');
            BEGIN
                IF n IN ({deadlocks}) THEN RAISE 'aborted by the test' USING ERRCODE = '40P01'; END IF;
                IF n IN ({others}) THEN RAISE 'aborted by the test' USING ERRCODE = '40001'; END IF;
                RETURN NULL;
            END $$""",
            f"CREATE TRIGGER t_{name} AFTER INSERT OR UPDATE ON led_{name} EXECUTE FUNCTION f_{name}()",
        ]
    abort = f"""
        BEGIN
            UPDATE n_{name} SET n = n + 1;
            IF (SELECT n FROM n_{name}) IN ({deadlocks}) THEN
                SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'aborted by the test';
            END IF;
            IF (SELECT n FROM n_{name}) IN ({others}) THEN
                SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205, MESSAGE_TEXT = 'aborted by the test';
            END IF;
        END"""
    return [
        f"CREATE TABLE n_{name} (n INT) ENGINE=MyISAM",
        f"INSERT INTO n_{name} VALUES (0)",
        f"CREATE TRIGGER i_{name} BEFORE INSERT ON led_{name} FOR EACH ROW {abort}",
        f"CREATE TRIGGER u_{name} BEFORE UPDATE ON led_{name} FOR EACH ROW {abort}",
    ]


def _stop_aborting(database: str, name: str) -> list[str]:
    if database == "postgresql":
        return [f"DROP FUNCTION f_{name} CASCADE", f"DROP SEQUENCE n_{name}"]
    return [f"DROP TRIGGER i_{name}", f"DROP TRIGGER u_{name}"]


def locked(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Another connection locks SQLite for longer than a run waits."""
    world = lab.world(name, database, people(24, numbers), **LONGER, seed=numbers.randrange(10**6))
    impatient = {"busy": 0.1}
    with world, contextlib.closing(_connect(world)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        before = world.run(settings=IMPATIENT, **impatient)
        assert (before.exit, "SQLITE_BUSY" in before.error) == (FAILED, True), world.report()
        connection.execute("ROLLBACK")
        done = _start_and_interrupt(
            world,
            numbers,
            lambda: connection.execute("BEGIN EXCLUSIVE"),
            lambda: connection.execute("ROLLBACK"),
            **impatient,
        )
        assert done.wait() == 0, world.report()
        world.check(done)


def _connect(world: World) -> sqlite3.Connection:
    path = sa.make_url(world.database).database
    return sqlite3.connect(path or "", isolation_level=None, timeout=30, check_same_thread=False)


def full(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """SQLite's disk is full: the customers created by then are found once there is room again."""
    world = lab.world(name, database, people(120, numbers), settings={"batch_size": 20}, seed=numbers.randrange(10**6))
    with world:
        assert world.run(rows=[]).exit == 0, world.report()
        with contextlib.closing(_connect(world)) as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        patience = {"ledger_patience": 0.3}
        for more in sorted(numbers.sample(range(10), 3)):
            attempt = world.run(max_pages=pages + more, settings=patience, release=0.3)
            assert (attempt.exit, "SQLITE_FULL" in attempt.error) == (FAILED, True), world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)


CASES = [Scenario(play, database) for play in (unreachable, frozen, aborted_transactions) for database in SERVERS]
CASES += [Scenario(locked, "sqlite"), Scenario(full, "sqlite")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_ledger_failure_costs_no_customer(parallel_cases: ParallelCases, case: Scenario) -> None:
    """Each case is named after its function."""
    parallel_cases.check(case)
