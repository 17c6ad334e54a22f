"""SIGTERM while the ledger hangs or is locked, at the start of a run or during it: five seconds are enough."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from random import Random

import pytest
import sqlalchemy as sa

from .attempts import Attempt
from .cases import DATABASES, Lab, ParallelCases, Scenario
from .forking import FAILED, OBEYS_SIGTERM
from .proxy import before_database, url_through
from .world import World, people

SECONDS = 5.0
"""It takes 4.3 at most; then Airflow sends SIGKILL."""
POINTS = ("after_claim", "before_send", "after_response", "before_record")
LOCK = {
    "postgresql": "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
    "mariadb": "LOCK TABLES {table} WRITE",
    "sqlite": "BEGIN EXCLUSIVE",
}


def _terminate(world: World, attempt: Attempt) -> None:
    """Send SIGTERM; the attempt has to leave in time, although its ledger does not answer."""
    began = time.monotonic()
    attempt.signal(signal.SIGTERM)
    assert attempt.wait(SECONDS) == FAILED, f"it does not leave in {SECONDS} s\n{world.report()}"
    assert "was stopped" in attempt.error, world.report()
    print(f"{world.name}: left {time.monotonic() - began:.1f} s after SIGTERM")


@contextlib.contextmanager
def _lock(world: World, database: str) -> Iterator[None]:
    """Another connection holds a lock on the whole table."""
    engine = sa.create_engine(world.database)
    with contextlib.closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute(LOCK[database].format(table=f"led_{world.name}"))
        yield
        cursor.execute("UNLOCK TABLES" if database == "mariadb" else "ROLLBACK")
    engine.dispose()


def terminated_hung_ledger(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The ledger's connections are open, and nothing comes back."""
    world = lab.world(name, database, people(12, numbers), seed=numbers.randrange(10**6))
    with world, before_database(world.database) as proxy:
        through = {"ledger": url_through(world.database, proxy)}
        attempt = world.start(stop_at=numbers.choice(POINTS), stop_by="SIGSTOP", stop_pause=0.1, **through)
        assert attempt.wait_until_stopped(), world.report()
        proxy.freeze()
        attempt.resume()
        attempt.wait(1.0)  # until it waits for the ledger
        _terminate(world, attempt)
        at_start = world.start(**through)
        assert at_start.wait_for_log(OBEYS_SIGTERM)
        at_start.wait(1.0)
        _terminate(world, at_start)
        proxy.restore()
        world.check(world.run_until_done())


def terminated_locked_ledger(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Another connection has locked the ledger's table."""
    world = lab.world(name, database, people(12, numbers), seed=numbers.randrange(10**6))
    with world:
        attempt = world.start(stop_at=numbers.choice(POINTS), stop_by="SIGSTOP", stop_pause=0.1)
        assert attempt.wait_until_stopped(), world.report()
        with _lock(world, database):
            attempt.resume()
            attempt.wait(1.0)
            _terminate(world, attempt)
            at_start = world.start()
            assert at_start.wait_for_log(OBEYS_SIGTERM)
            at_start.wait(1.0)
            _terminate(world, at_start)
        world.check(world.run_until_done())


CASES = [Scenario(terminated_hung_ledger, database) for database in DATABASES[1:]]
CASES += [Scenario(terminated_locked_ledger, database) for database in DATABASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_run_without_its_ledger_obeys_sigterm(parallel_cases: ParallelCases, case: Scenario) -> None:
    """Each case is named after its function."""
    parallel_cases.check(case)
