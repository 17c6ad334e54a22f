"""SIGTERM, by which Airflow stops a task: the run ends within seconds and releases its rows, and the next completes it.

Airflow sends SIGKILL 5 seconds later. These tests never do, and allow much more time, so that they also pass on a slow
machine.
"""

from __future__ import annotations

import signal
from random import Random

import pytest
import sqlalchemy as sa

from payarc_provider.sync.ledger.database import database_now

from .attempts import Attempt
from .cases import DATABASES, Lab, ParallelCases, Scenario
from .forking import FAILED
from .world import World, people

MAX_SECONDS = 15.0
"""It takes three seconds. Where a request hangs, its deadline is longer than this."""
SENDING = ("after_claim", "before_send", "sending", "after_response", "before_record", "after_record", "before_renewal")
RESOLVING = ("before_takeover", "after_takeover", "in_lookup", "before_lookup_record", "after_lookup_record")


def _check_ended(world: World, attempt: Attempt) -> None:
    """Check that the attempt ends by itself, reports the reason, and no longer holds a lease."""
    assert attempt.wait(MAX_SECONDS) is not None, f"it does not end\n{world.report()}"
    assert attempt.exit == FAILED, world.report()
    assert "task was stopped" in attempt.error, world.report()
    engine = sa.create_engine(world.database)
    with engine.connect() as connection:
        now = database_now(connection)
    engine.dispose()
    held = [row.key for row in world.rows().values() if row.state == "pending" and row.owner and row.lease_until > now]
    assert not held, f"rows are still leased: {held}\n{world.report()}"


def terminated(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Terminate a run while it sends, and the next while it looks up what the first left open."""
    sandbox = {"latency": 0.06}
    with lab.world(name, database, people(24, numbers), sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        point = numbers.choice(SENDING)
        nth = numbers.randint(1, 12) if point in ("before_send", "sending", "after_response") else 1
        _check_ended(world, world.start(stop_at=point, stop_nth=nth, stop_by="SIGTERM"))
        world.sandbox.faults([{"kind": "lost_after"}, {"kind": "lost_before"}])  # there is something to look up
        _check_ended(world, world.start(stop_at=numbers.choice(RESOLVING), stop_by="SIGTERM"))
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)


def terminated_while_a_request_hangs(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The request's deadline is far away: the run does not wait for it, and leaves its record to the next run."""
    patient = {"timeout": 60.0, "settle": 60.0, "lease": 90.0}
    with lab.world(name, database, people(12, numbers), seed=numbers.randrange(10**6)) as world:
        world.sandbox.faults([{"kind": "hang_before", "skip": 4, "seconds": 40.0}])
        attempt = world.start(settings=patient)
        for _ in range(2000):  # until all but the request that hangs are answered
            if len(world.customers()) == 11 or attempt.wait(0.02) is not None:
                break
        attempt.signal(signal.SIGTERM)
        _check_ended(world, attempt)
        open_ = [row for row in world.rows().values() if row.state == "pending"]
        assert [row.settle for row in open_] == [60.0], "the next run would not wait until the hanging request is over"


def terminated_while_a_list_is_slow(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Terminate a run during a look-up whose pages take long."""
    patient = {"timeout": 60.0, "settle": 60.0, "lease": 90.0}
    with lab.world(name, database, people(12, numbers), seed=numbers.randrange(10**6)) as world:
        assert world.run(stop_at="after_response", stop_nth=numbers.randint(1, 10)).killed, world.report()
        attempt = world.start(settings=patient, stop_at="in_lookup", stop_by="SIGSTOP", stop_pause=0.1)
        assert attempt.wait_until_stopped(), world.report()
        world.sandbox.settings(delay_list=40.0)
        attempt.resume()
        attempt.signal(signal.SIGTERM)
        _check_ended(world, attempt)
        world.sandbox.settings(delay_list=0.0)


def terminated_while_rate_limited(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Terminate a run during a look-up that waits for the rate limit."""
    with lab.world(name, database, people(12, numbers), seed=numbers.randrange(10**6)) as world:
        assert world.run(stop_at="after_response", stop_nth=numbers.randint(1, 10)).killed, world.report()
        attempt = world.start(stop_at="in_lookup", stop_by="SIGSTOP", stop_pause=0.1)
        assert attempt.wait_until_stopped(), world.report()
        world.sandbox.faults([{"kind": "rate_limited", "method": "GET", "times": None, "seconds": 40}])
        attempt.resume()
        for _ in range(500):
            if world.sandbox.stats()["rate_limited"]:
                break
            attempt.wait(0.02)
        attempt.signal(signal.SIGTERM)
        _check_ended(world, attempt)
        world.sandbox.clear_faults()
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)


ONCE = [terminated_while_a_request_hangs, terminated_while_a_list_is_slow, terminated_while_rate_limited]
CASES = [Scenario(terminated, database) for database in DATABASES]
CASES += [Scenario(play, DATABASES[number % 3]) for number, play in enumerate(ONCE)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_terminated_run_ends_within_seconds(parallel_cases: ParallelCases, case: Scenario) -> None:
    """Each case is named after its function."""
    parallel_cases.check(case)
