"""Lost answers, kills at random, several runs at once, two sources with the same keys, keys that are nearly equal."""

from __future__ import annotations

import time
from random import Random
from typing import get_args

import pytest

from payarc_provider.sync.checkpoints import Checkpoint

from .cases import DATABASES, Lab, Scenario, Together
from .world import people, said_by, twins

LOST = ("lost_after", "status_after", "html_after", "cut_after", "hang_after")
"""The customer is made, and its answer is lost: by a reset, a 500, a proxy's 502, half a body, silence."""
NOTHING_DONE = ("lost_before", "status_before", "html_before", "cut_before")
TOLD_TO_STOP = ("after_claim", "before_send", "sending", "after_answer", "before_record", "after_record")
SUSPENDED = {"stop_by": "SIGSTOP", "stop_pause": 0.15}
"""A transaction that is suspended half-way keeps its locks, which is safe but holds the other runs up."""


def lost_answers(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """What it costs: one POST for each customer, one for each that created nothing, and one look-up for all of them."""
    patient = {"timeout": 3.0, "settle": 3.0, "lease": 6.0, "batch_size": 30}
    with lab.world(name, database, people(90, numbers), settings=patient) as world:
        world.sandbox.faults(
            [{"kind": kind, "skip": numbers.randrange(10), "every": 11, "times": 1, "seconds": 4} for kind in LOST]
            + [{"kind": kind, "skip": numbers.randrange(10), "every": 11, "times": 1} for kind in NOTHING_DONE]
        )
        done = world.run()
        assert done.exit == 0, world.report()
        world.prove(done)
        assert done.result["counts"]["unknown"] == len(LOST) + len(NOTHING_DONE), world.report()
        assert world.sandbox.stats()["posts"]["received"] == 90 + len(NOTHING_DONE), world.report()
        # One call before the first claim, and one page of the list; 99 POSTs took nine unknown outcomes along.
        assert done.result["requests"] == {"GET": 2, "POST": 90 + len(NOTHING_DONE)}, world.report()


def lost_answers_and_kills(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """2 % of each kind of lost answer, 1 % of each request that comes to nothing, and four kills."""
    settings = {"concurrency": 5, "batch_size": 30}
    sandbox = {"latency": 0.02, "jitter": 0.04, "shuffle_same_second": True}
    seed = numbers.randrange(10**6)
    world = lab.world(name, database, people(120, numbers), settings=settings, sandbox=sandbox, seed=seed)
    with world:
        world.sandbox.faults(
            [{"kind": kind, "probability": 0.02, "seconds": 0.7} for kind in LOST]
            + [{"kind": kind, "probability": 0.01} for kind in NOTHING_DONE]
            + [{"kind": "late_commit", "probability": 0.01, "seconds": 0.3}]
        )
        for _ in range(4):
            point = numbers.choice(get_args(Checkpoint))
            world.run(stop_at=point, stop_nth=numbers.randint(1, 15), stop_after=numbers.uniform(0, 0.05))
        done = world.run_until_done()
        again = world.run()
        assert again.exit == 0, world.report()
        world.prove(done, again)
        posts = world.sandbox.stats()["posts"]
        assert posts["created"] == 120, world.report()
        assert posts["received"] == 120 + posts["not_created"], world.report()
        assert again.result["requests"] == {}, "everything is known, so nothing is asked of PayArc"


def three_at_once(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Three runs over the same records; one is suspended until the others have ended, and then goes on."""
    world = lab.world(name, database, people(40, numbers), sandbox={"latency": 0.05}, seed=numbers.randrange(10**6))
    with world:
        point = numbers.choice(TOLD_TO_STOP)
        nth = numbers.randint(1, 4) if point in ("before_send", "sending", "after_answer") else 1
        suspended = world.start(stop_at=point, stop_nth=nth, **SUSPENDED)
        world.wait_for_claims()  # so that the others leave it something to be suspended with
        others = [world.start(), world.start()]
        assert suspended.wait_until_stopped(), world.report()
        # They end when they have taken its records over, so after its lease. If it stopped within a transaction, its
        # locks hold them up, and it has to go on first.
        together = time.monotonic() + 8
        for other in others:
            other.wait(max(0.0, together - time.monotonic()))
        suspended.go_on()
        for attempt in (suspended, *others):
            attempt.wait()
        assert [attempt.exit for attempt in (suspended, *others)] == [0, 0, 0], world.report()
        world.prove(suspended, *others, suspended=[suspended])
        assert suspended.result["ids"] == others[0].result["ids"] == others[1].result["ids"]


def suspended_before_sending(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Suspended between its lease check and its request, on a connection that is open already."""
    _suspended(lab, database, name, numbers, "sending", numbers.randint(2, 6))


def suspended_before_the_lease_check(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Suspended when it has claimed, or when it is about to send."""
    _suspended(lab, database, name, numbers, *numbers.choice((("after_claim", 1), ("before_send", 3))))


def _suspended(lab: Lab, database: str, name: str, numbers: Random, point: str, nth: int) -> None:
    world = lab.world(name, database, people(6, numbers), settings={"concurrency": 1}, seed=numbers.randrange(10**6))
    with world:
        suspended = world.start(stop_at=point, stop_nth=nth, **SUSPENDED)
        assert suspended.wait_until_stopped(), world.report()
        other = world.start()
        other.wait(8)
        suspended.go_on()
        assert (suspended.wait(), other.wait()) == (0, 0), world.report()
        world.prove(suspended, other, suspended=[suspended])


def slow_but_alive(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """A run that takes several leases over what it has claimed: the other one waits for it, and takes nothing."""
    sandbox = {"latency": 0.15}
    with lab.world(name, database, people(20, numbers), sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        slow = world.start(settings={"concurrency": 1, "batch_size": 20})
        world.wait_for_claims()
        other = world.start()
        assert (slow.wait(), other.wait()) == (0, 0), world.report()
        world.prove(slow, other)
        assert slow.result["counts"]["created"] == 20, "rows of a run that was alive were taken over"


def committed_after_the_lease(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """PayArc carries requests out long after their sender was killed: after its lease, but within ``settle``."""
    records = people(18, numbers)
    with lab.world(name, database, records, settings={"settle": 3.0}, seed=numbers.randrange(10**6)) as world:
        world.sandbox.faults([{"kind": "hang_before", "skip": 3, "times": 3, "seconds": 2.3}])
        killed = world.run(stop_at="sending", stop_nth=6, stop_after=0.2)
        assert killed.killed, world.report()
        assert world.sandbox.stats()["faults"] == {"hang_before": 3}, world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.prove(done)


def committed_after_the_answer(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """PayArc carries requests out long after it answered 500, or broke the connection off: within ``settle``."""
    records = people(18, numbers)
    with lab.world(name, database, records, settings={"settle": 2.0}, seed=numbers.randrange(10**6)) as world:
        late = {"kind": "late_commit", "skip": numbers.randint(0, 5), "seconds": 1.4}
        world.sandbox.faults([{**late, "times": 2}, {**late, "status": 500}])
        done = world.run()
        assert done.exit == 0, world.report()
        world.prove(done)
        assert done.result["counts"]["unknown"] >= 3, world.report()


def times_without_a_zone(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """PayArc's list in the guide's form, whose times may be of any hour, and over several pages."""
    sandbox = {"time_style": "guide", "id_style": "guide"}
    with lab.world(name, database, people(18, numbers), sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        hour_ago = time.time() - 3600
        older = people(150, numbers, tag="older")
        world.sandbox.seed({**one, "created_at": hour_ago + place} for place, one in enumerate(older))
        killed = world.run(stop_at="sending", stop_nth=numbers.randint(3, 15))
        assert killed.killed, world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.prove(done)


def equal_records(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Records that are equal but for their keys, without a reference: as many customers, and no id for two of them."""
    records = twins(20)
    sandbox = {"latency": 0.03, "shuffle_same_second": True}
    with lab.world(name, database, records, sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        world.sandbox.faults([{"kind": "lost_after", "probability": 0.1}, {"kind": "lost_before", "probability": 0.1}])
        for point in numbers.sample(("sending", "after_answer", "before_record", "in_lookup"), 2):
            world.run(stop_at=point, stop_nth=1 if point == "in_lookup" else numbers.randint(1, 5))
        done = world.run_until_done()
        world.prove(done, interchangeable=True)


def two_sources_in_one_ledger(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Two sources that both count from 1: whoever comes second to a key is refused, and nobody gets the other's id."""
    ours, theirs = people(18, numbers, tag="ours"), people(18, numbers, tag="theirs")
    sandbox = {"latency": 0.05}
    with lab.world(name, database, ours, sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        allowed = {"max_rejected": len(ours)}
        point = numbers.choice(("after_claim", "sending", "after_answer"))
        killed = world.run(stop_at=point, stop_nth=numbers.randint(1, 3), stop_after=0.02)
        assert killed.killed, world.report()
        second = world.run(rows=theirs, source="other", **allowed)
        first = world.run(**allowed)
        assert (first.exit, second.exit) == (0, 0), world.report()
        assert len(first.result["ids"]) + len(second.result["ids"]) == len(ours), world.report()
        kept = {one["key"] for one in first.result["customers"]}
        created = [record for record in ours if str(record["id"]) in kept]
        created += [record for record in theirs if str(record["id"]) not in kept]
        world.prove(first, second, records=created)
        refused = [one["errors"] for one in first.result["rejected"] + second.result["rejected"]]
        assert all("another source" in errors["key"][0] for errors in refused), refused


def two_sources_in_two_ledgers(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Two sources that both count from 1, each with a ledger table of its own: two customers for each key."""
    ours, theirs = people(18, numbers, tag="ours"), people(18, numbers, tag="theirs")
    sandbox = {"latency": 0.05}
    with lab.world(name, database, ours, sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        apart = {"rows": theirs, "source": "other", "table": f"led2_{name}"}
        for which in ({}, apart):
            point = numbers.choice(("sending", "after_answer", "before_record"))
            killed = world.run(stop_at=point, stop_nth=numbers.randint(1, 3), stop_after=0.02, **which)
            assert killed.killed, world.report()
        first, second = world.start(), world.start(**apart)
        assert (first.wait(), second.wait()) == (0, 0), world.report()
        world.prove(first, second, records=ours + theirs)


def nearly_equal_keys(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Keys that differ in case, in an accent, in a blank at the end, or in how Unicode writes them: different keys."""
    keys = ["anna", "Anna", "ANNA", "änna", "a\u0308nna", "anna ", " anna", "éclair", "eclair", "Éclair", "straße"]
    keys += ["strasse", "fi", "ﬁ", "1", "01", "Ⅰ", "١"]
    records = [record | {"id": key} for record, key in zip(people(len(keys), numbers), keys, strict=True)]
    with lab.world(name, database, records, sandbox={"latency": 0.03}, seed=numbers.randrange(10**6)) as world:
        assert world.run(stop_at="after_answer", stop_nth=numbers.randint(1, 15)).killed, world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.prove(done)
        assert len({said_by(customer) for customer in world.customers()}) == len(keys)


ALWAYS = [lost_answers_and_kills, three_at_once, suspended_before_sending, slow_but_alive, nearly_equal_keys]
ONCE = [lost_answers, equal_records, two_sources_in_one_ledger, two_sources_in_two_ledgers]
ONCE += [times_without_a_zone, suspended_before_the_lease_check, committed_after_the_lease, committed_after_the_answer]
CASES = [Scenario(tell, database) for tell in ALWAYS for database in DATABASES]
CASES += [Scenario(tell, DATABASES[number % 3]) for number, tell in enumerate(ONCE)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_storm(together: Together, case: Scenario) -> None:
    """See the function that each case is named after."""
    together(case)
