"""The ledger's database cannot be reached, is locked, is full, or refuses: before, in the middle and at the end."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from random import Random

import pytest
import sqlalchemy as sa

from .attempts import Attempt
from .cases import Lab, Scenario, Together
from .forking import FAILED
from .proxy import before_database, url_through
from .world import World, people

SERVERS = ("postgresql", "mariadb")
POINTS = ("after_claim", "before_send", "after_answer", "before_record", "before_renewal", "before_takeover")
NOTICED = ("trying again", "could not be renewed")
SUSPENDED = {"stop_by": "SIGSTOP", "stop_pause": 0.1}
LONGER = {"sandbox": {"latency": 0.05}}


def _hold_up(
    world: World, numbers: Random, fail: Callable[[], None], mend: Callable[[], None], **how: object
) -> Attempt:
    """An attempt whose ledger fails at one of the points, and works again once that is noticed."""
    point = numbers.choice(POINTS)
    nth = numbers.randint(1, 10) if point in ("before_send", "after_answer") else 1
    attempt = world.start(stop_at=point, stop_nth=nth, **SUSPENDED, **how)
    assert attempt.wait_until_stopped(), world.report()
    fail()
    attempt.go_on()
    assert attempt.wait_until_said(*NOTICED), f"it did not notice\n{world.report()}"
    mend()
    return attempt


def unreachable(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Before a run, in the middle of one that then goes on, and for good."""
    world = lab.world(name, database, people(24, numbers), **LONGER, seed=numbers.randrange(10**6))
    with world, before_database(world.database) as proxy:
        through = {"ledger": url_through(world.database, proxy)}
        proxy.cut()
        before = world.run(**through)
        assert (before.exit, "ledger" in before.error) == (FAILED, True), world.report()
        assert world.sandbox.stats()["requests"] == {}
        proxy.restore()
        point = numbers.choice(POINTS[:4])
        attempt = world.start(stop_at=point, settings={"ledger_patience": 0.5}, release=0.3, **SUSPENDED, **through)
        assert attempt.wait_until_stopped(), world.report()
        proxy.cut()
        attempt.go_on()
        assert attempt.wait() == FAILED, world.report()
        assert "ledger" in attempt.error, world.report()
        proxy.restore()
        done = _hold_up(world, numbers, proxy.cut, proxy.restore, **through)
        assert done.wait() == 0, world.report()
        world.prove(done)


def frozen(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Its connections hang, past the lease, while another run takes its records over; then they come back."""
    world = lab.world(name, database, people(24, numbers), **LONGER, seed=numbers.randrange(10**6))
    with world, before_database(world.database) as proxy:
        point = numbers.choice(("after_claim", "before_send", "after_answer", "before_record"))
        first = world.start(stop_at=point, ledger=url_through(world.database, proxy), **SUSPENDED)
        assert first.wait_until_stopped(), world.report()
        proxy.freeze()
        first.go_on()
        second = world.start()
        second.wait(12)  # it ends, unless a frozen transaction holds locks
        proxy.restore()
        assert (first.wait(), second.wait()) == (0, 0), world.report()
        world.prove(first, second)


def refused_transactions(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The server answers some statements as it does for a deadlock, or a transaction that it cannot serialize."""
    refused = sorted(numbers.sample(range(1, 60), 10))
    with lab.world(name, database, people(24, numbers), **LONGER, seed=numbers.randrange(10**6)) as world:
        assert world.run(rows=[]).exit == 0, world.report()  # makes the tables
        engine = sa.create_engine(world.database)
        with engine.begin() as connection:
            for statement in _refusing(database, name, refused):
                connection.exec_driver_sql(statement)
        done = world.run()
        with engine.begin() as connection:
            for statement in _no_more_refusing(database, name):
                connection.exec_driver_sql(statement)
        engine.dispose()
        assert done.exit == 0, world.report()
        assert "refused" in done.log(), "nothing was refused"
        world.prove(done)


def _refusing(database: str, name: str, refused: list[int]) -> list[str]:
    # What counts the statements must not be undone with them: a sequence, and a table without transactions.
    deadlocks, others = (", ".join(map(str, part)) for part in (refused[::2], refused[1::2]))
    if database == "postgresql":
        return [
            f"CREATE SEQUENCE n_{name}",
            f"""CREATE FUNCTION f_{name}() RETURNS trigger LANGUAGE plpgsql AS $$
            DECLARE n bigint := nextval('n_{name}');
            BEGIN
                IF n IN ({deadlocks}) THEN RAISE 'refused' USING ERRCODE = '40P01'; END IF;
                IF n IN ({others}) THEN RAISE 'refused' USING ERRCODE = '40001'; END IF;
                RETURN NULL;
            END $$""",
            f"CREATE TRIGGER t_{name} AFTER INSERT OR UPDATE ON led_{name} EXECUTE FUNCTION f_{name}()",
        ]
    refuse = f"""
        BEGIN
            UPDATE n_{name} SET n = n + 1;
            IF (SELECT n FROM n_{name}) IN ({deadlocks}) THEN
                SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'refused';
            END IF;
            IF (SELECT n FROM n_{name}) IN ({others}) THEN
                SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205, MESSAGE_TEXT = 'refused';
            END IF;
        END"""
    return [
        f"CREATE TABLE n_{name} (n INT) ENGINE=MyISAM",
        f"INSERT INTO n_{name} VALUES (0)",
        f"CREATE TRIGGER i_{name} BEFORE INSERT ON led_{name} FOR EACH ROW {refuse}",
        f"CREATE TRIGGER u_{name} BEFORE UPDATE ON led_{name} FOR EACH ROW {refuse}",
    ]


def _no_more_refusing(database: str, name: str) -> list[str]:
    if database == "postgresql":
        return [f"DROP FUNCTION f_{name} CASCADE", f"DROP SEQUENCE n_{name}"]
    return [f"DROP TRIGGER i_{name}", f"DROP TRIGGER u_{name}"]


def locked(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """SQLite, locked by another connection for longer than anybody waits."""
    world = lab.world(name, database, people(24, numbers), **LONGER, seed=numbers.randrange(10**6))
    impatient = {"busy": 0.1}
    with world, contextlib.closing(_connect(world)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        before = world.run(**impatient)
        assert (before.exit, "locked" in before.error) == (FAILED, True), world.report()
        connection.execute("ROLLBACK")
        done = _hold_up(
            world,
            numbers,
            lambda: connection.execute("BEGIN EXCLUSIVE"),
            lambda: connection.execute("ROLLBACK"),
            **impatient,
        )
        assert done.wait() == 0, world.report()
        world.prove(done)


def _connect(world: World) -> sqlite3.Connection:
    path = sa.make_url(world.database).database
    return sqlite3.connect(path or "", isolation_level=None, timeout=10, check_same_thread=False)


def full(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """SQLite on a full disk: what was made is found again when there is room."""
    world = lab.world(name, database, people(120, numbers), settings={"batch_size": 20}, seed=numbers.randrange(10**6))
    with world:
        assert world.run(rows=[]).exit == 0, world.report()
        with contextlib.closing(_connect(world)) as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        patience = {"ledger_patience": 0.3}
        for more in sorted(numbers.sample(range(10), 3)):
            attempt = world.run(max_pages=pages + more, settings=patience, release=0.3)
            assert (attempt.exit, "full" in attempt.error) == (FAILED, True), world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.prove(done)


CASES = [Scenario(tell, database) for tell in (unreachable, frozen, refused_transactions) for database in SERVERS]
CASES += [Scenario(locked, "sqlite"), Scenario(full, "sqlite")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ledger_fails(together: Together, case: Scenario) -> None:
    """See the function that each case is named after."""
    together(case)
