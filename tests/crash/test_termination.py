"""SIGTERM, Airflow's way to stop a task: it leaves within seconds, its rows are free, and the next run goes on.

Airflow waits 5 seconds before it kills. Here an attempt that does not leave by itself is waited for much longer and
then fails the test, so that a slow machine does not.
"""

from __future__ import annotations

import signal
from random import Random

import pytest
import sqlalchemy as sa

from payarc_provider.sync.ledger.database import database_now

from .attempts import Attempt
from .cases import DATABASES, Lab, Scenario, Together
from .forking import FAILED
from .world import World, people

LEAVES = 15.0  # seconds; it takes three, and a request's deadline is longer where that matters
SENDING = ("after_claim", "before_send", "sending", "after_answer", "before_record", "after_record", "before_renewal")
SETTLING = ("before_takeover", "after_takeover", "in_lookup", "before_lookup_record", "after_lookup_record")


def _left(world: World, attempt: Attempt) -> None:
    """It ended by itself, says why, and holds nothing any more."""
    assert attempt.wait(LEAVES) is not None, f"it does not leave\n{world.report()}"
    assert attempt.exit == FAILED, world.report()
    assert "told to stop" in attempt.error, world.report()
    engine = sa.create_engine(world.database)
    with engine.connect() as connection:
        now = database_now(connection)
    engine.dispose()
    held = [row.key for row in world.rows().values() if row.state == "pending" and row.owner and row.lease_until > now]
    assert not held, f"rows are held by who has left: {held}\n{world.report()}"


def terminated(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """At a point while it sends, then at one while it looks up what the first left open."""
    sandbox = {"latency": 0.06}
    with lab.world(name, database, people(24, numbers), sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        point = numbers.choice(SENDING)
        nth = numbers.randint(1, 12) if point in ("before_send", "sending", "after_answer") else 1
        _left(world, world.start(stop_at=point, stop_nth=nth, stop_by="SIGTERM"))
        world.sandbox.faults([{"kind": "lost_after"}, {"kind": "lost_before"}])  # there is something to look up
        _left(world, world.start(stop_at=numbers.choice(SETTLING), stop_by="SIGTERM"))
        done = world.run()
        assert done.exit == 0, world.report()
        world.prove(done)


def terminated_while_a_request_hangs(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The request's deadline is far: it is not waited for, and its record is looked up by the next run."""
    patient = {"timeout": 60.0, "settle": 60.0, "lease": 90.0}
    with lab.world(name, database, people(12, numbers), seed=numbers.randrange(10**6)) as world:
        world.sandbox.faults([{"kind": "hang_before", "skip": 4, "seconds": 40.0}])
        attempt = world.start(settings=patient)
        for _ in range(2000):  # the others are done, one hangs
            if len(world.customers()) == 11 or attempt.wait(0.02) is not None:
                break
        attempt.signal(signal.SIGTERM)
        _left(world, attempt)
        open_ = [row for row in world.rows().values() if row.state == "pending"]
        assert [row.settle for row in open_] == [60.0], "the next run would not wait for the request that hangs"


def terminated_while_a_list_is_slow(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """In a look-up whose pages take their time."""
    patient = {"timeout": 60.0, "settle": 60.0, "lease": 90.0}
    with lab.world(name, database, people(12, numbers), seed=numbers.randrange(10**6)) as world:
        assert world.run(stop_at="after_answer", stop_nth=numbers.randint(1, 10)).killed, world.report()
        attempt = world.start(settings=patient, stop_at="in_lookup", stop_by="SIGSTOP", stop_pause=0.1)
        assert attempt.wait_until_stopped(), world.report()
        world.sandbox.settings(delay_list=40.0)
        attempt.go_on()
        attempt.signal(signal.SIGTERM)
        _left(world, attempt)
        world.sandbox.settings(delay_list=0.0)


def terminated_while_reading_is_limited(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """In a look-up that waits for the rate limit of reading."""
    with lab.world(name, database, people(12, numbers), seed=numbers.randrange(10**6)) as world:
        assert world.run(stop_at="after_answer", stop_nth=numbers.randint(1, 10)).killed, world.report()
        attempt = world.start(stop_at="in_lookup", stop_by="SIGSTOP", stop_pause=0.1)
        assert attempt.wait_until_stopped(), world.report()
        world.sandbox.faults([{"kind": "rate_limited", "method": "GET", "times": None, "seconds": 40}])
        attempt.go_on()
        for _ in range(500):
            if world.sandbox.stats()["rate_limited"]:
                break
            attempt.wait(0.02)
        attempt.signal(signal.SIGTERM)
        _left(world, attempt)
        world.sandbox.clear_faults()
        done = world.run()
        assert done.exit == 0, world.report()
        world.prove(done)


ONCE = [terminated_while_a_request_hangs, terminated_while_a_list_is_slow, terminated_while_reading_is_limited]
CASES = [Scenario(terminated, database) for database in DATABASES]
CASES += [Scenario(tell, DATABASES[number % 3]) for number, tell in enumerate(ONCE)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_terminated(together: Together, case: Scenario) -> None:
    """See the function that each case is named after."""
    together(case)
