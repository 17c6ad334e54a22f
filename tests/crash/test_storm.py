"""Lost responses, random kills, parallel runs, two sources with the same keys, and keys that are nearly equal."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest

from .cases import DATABASES, POINTS, Lab, ParallelCases, Scenario
from .changing import ChangingWorld, first_generation
from .world import content_of, people, twins

LOST = ("lost_after", "status_after", "html_after", "cut_after", "hang_after")
"""The customer is created and the response lost: a reset, a 500, a proxy's 502, half a body, or a hanging request."""
NOTHING_DONE = ("lost_before", "status_before", "html_before", "cut_before")
STOPS = ("after_claim", "before_send", "sending", "after_response", "before_record", "after_record")
UPDATE_STOPS = ("after_update_claim", "before_update", "sending_update", "after_update_response")
VERSIONED = {"on_changed": "update", "version": "v"}
SUSPENDED = {"stop_by": "SIGSTOP", "stop_pause": 0.15}
"""The pause lets an open transaction end. A suspended one keeps its locks, which blocks the other runs but is safe."""


def lost_answers(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The cost: one POST for each customer, one for each POST that created nothing, and one look-up for all of them."""
    patient = {"timeout": 3.0, "settle": 3.0, "lease": 6.0, "batch_size": 30}
    with lab.world(name, database, people(90, numbers), settings=patient) as world:
        world.sandbox.faults(
            [{"kind": kind, "skip": numbers.randrange(10), "every": 11, "times": 1, "seconds": 4} for kind in LOST]
            + [{"kind": kind, "skip": numbers.randrange(10), "every": 11, "times": 1} for kind in NOTHING_DONE]
        )
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)
        assert done.result["counts"]["unknown"] == len(LOST) + len(NOTHING_DONE), world.report()
        assert world.sandbox.stats()["posts"]["received"] == 90 + len(NOTHING_DONE), world.report()
        # One call before the first claim, and one page of the list for all nine unknown outcomes.
        assert done.result["requests"] == {"GET": 2, "POST": 90 + len(NOTHING_DONE)}, world.report()


def lost_answers_and_kills(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """2 % of the requests for each kind of lost response, 1 % for each kind that creates nothing, and four kills."""
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
            point = numbers.choice(POINTS)
            world.run(stop_at=point, stop_nth=numbers.randint(1, 15), stop_after=numbers.uniform(0, 0.05))
        done = world.run_until_done()
        again = world.run()
        assert again.exit == 0, world.report()
        world.check(done, again)
        posts = world.sandbox.stats()["posts"]
        assert posts["created"] == 120, world.report()
        assert posts["received"] == 120 + posts["not_created"], world.report()
        assert again.result["requests"] == {}, "everything is known, so no request is needed"


def three_at_once(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Three runs with the same records; one is suspended until the others have ended, and then resumed."""
    world = lab.world(name, database, people(40, numbers), sandbox={"latency": 0.05}, seed=numbers.randrange(10**6))
    with world:
        point = numbers.choice(STOPS)
        nth = numbers.randint(1, 4) if point in ("before_send", "sending", "after_response") else 1
        suspended = world.start(stop_at=point, stop_nth=nth, **SUSPENDED)
        world.wait_for_claims()  # so that the others leave records to it
        others = [world.start(), world.start()]
        assert suspended.wait_until_stopped(), world.report()
        # They end after its lease, when they have taken its records over. If it stopped within a transaction, its
        # locks block them, and it has to be resumed first.
        deadline = time.monotonic() + 8
        for other in others:
            other.wait(max(0.0, deadline - time.monotonic()))
        suspended.resume()
        for attempt in (suspended, *others):
            attempt.wait()
        assert [attempt.exit for attempt in (suspended, *others)] == [0, 0, 0], world.report()
        world.check(suspended, *others)
        assert suspended.result["ids"] == others[0].result["ids"] == others[1].result["ids"]


def suspended_before_sending(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """A run is suspended between its lease check and its request, whose connection is already open."""
    _suspended(lab, database, name, numbers, "sending", numbers.randint(2, 6))


def suspended_before_the_lease_check(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """A run is suspended after a claim, or directly before it sends."""
    _suspended(lab, database, name, numbers, *numbers.choice((("after_claim", 1), ("before_send", 3))))


def _suspended(lab: Lab, database: str, name: str, numbers: Random, point: str, nth: int) -> None:
    world = lab.world(name, database, people(6, numbers), settings={"concurrency": 1}, seed=numbers.randrange(10**6))
    with world:
        suspended = world.start(stop_at=point, stop_nth=nth, **SUSPENDED)
        assert suspended.wait_until_stopped(), world.report()
        other = world.start()
        other.wait(8)
        suspended.resume()
        assert (suspended.wait(), other.wait()) == (0, 0), world.report()
        world.check(suspended, other)


def slow_but_alive(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """A run renews its lease several times; the other run waits for it, and takes no row over."""
    sandbox = {"latency": 0.15}
    with lab.world(name, database, people(20, numbers), sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        slow = world.start(settings={"concurrency": 1, "batch_size": 20})
        world.wait_for_claims()
        other = world.start()
        assert (slow.wait(), other.wait()) == (0, 0), world.report()
        world.check(slow, other)
        assert slow.result["counts"]["created"] == 20, "rows of a live run were taken over"


def committed_after_the_lease(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """PayArc commits requests long after their sender was killed: after its lease, but within ``settle``."""
    records = people(18, numbers)
    with lab.world(name, database, records, settings={"settle": 3.0}, seed=numbers.randrange(10**6)) as world:
        world.sandbox.faults([{"kind": "hang_before", "skip": 3, "times": 3, "seconds": 2.3}])
        killed = world.run(stop_at="sending", stop_nth=6, stop_after=0.2)
        assert killed.killed, world.report()
        assert world.sandbox.stats()["faults"] == {"hang_before": 3}, world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)


def committed_after_the_answer(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """PayArc commits requests long after it answered 500 or closed the connection, but within ``settle``."""
    records = people(18, numbers)
    with lab.world(name, database, records, settings={"settle": 2.0}, seed=numbers.randrange(10**6)) as world:
        late = {"kind": "late_commit", "skip": numbers.randint(0, 5), "seconds": 1.4}
        world.sandbox.faults([{**late, "times": 2}, {**late, "status": 500}])
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)
        assert done.result["counts"]["unknown"] >= 3, world.report()


def times_without_a_zone(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """PayArc's list has the guide's form, whose times have no time zone, and several pages."""
    sandbox = {"time_style": "guide", "id_style": "guide"}
    with lab.world(name, database, people(18, numbers), sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        hour_ago = time.time() - 3600
        older = people(150, numbers, tag="older")
        world.sandbox.seed({**one, "created_at": hour_ago + index} for index, one in enumerate(older))
        killed = world.run(stop_at="sending", stop_nth=numbers.randint(3, 15))
        assert killed.killed, world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)


def equal_records(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Records that differ only in their keys, without references: each gets a customer and an id of its own."""
    records = twins(20)
    sandbox = {"latency": 0.03, "shuffle_same_second": True}
    with lab.world(name, database, records, sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        world.sandbox.faults([{"kind": "lost_after", "probability": 0.1}, {"kind": "lost_before", "probability": 0.1}])
        for point in numbers.sample(("sending", "after_response", "before_record", "in_lookup"), 2):
            world.run(stop_at=point, stop_nth=1 if point == "in_lookup" else numbers.randint(1, 5))
        done = world.run_until_done()
        world.check(done, interchangeable=True)


def two_sources_in_one_ledger(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Two sources that both count from 1: the second record with a key is rejected, and never gets the other's id."""
    ours, theirs = people(18, numbers, tag="ours"), people(18, numbers, tag="theirs")
    sandbox = {"latency": 0.05}
    with lab.world(name, database, ours, sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        allowed = {"max_rejected": len(ours)}
        point = numbers.choice(("after_claim", "sending", "after_response"))
        killed = world.run(stop_at=point, stop_nth=numbers.randint(1, 3), stop_after=0.02)
        assert killed.killed, world.report()
        second = world.run(rows=theirs, source="other", **allowed)
        first = world.run(**allowed)
        assert (first.exit, second.exit) == (0, 0), world.report()
        assert len(first.result["ids"]) + len(second.result["ids"]) == len(ours), world.report()
        kept = {one["key"] for one in first.result["customers"]}
        created = [record for record in ours if str(record["id"]) in kept]
        created += [record for record in theirs if str(record["id"]) not in kept]
        world.check(first, second, records=created)
        rejected = [one["errors"] for one in first.result["rejected"] + second.result["rejected"]]
        assert all("another source" in errors["key"][0] for errors in rejected), rejected


def two_sources_in_two_ledgers(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Two sources that both count from 1, each with its own ledger table: two customers for each key."""
    ours, theirs = people(18, numbers, tag="ours"), people(18, numbers, tag="theirs")
    sandbox = {"latency": 0.05}
    with lab.world(name, database, ours, sandbox=sandbox, seed=numbers.randrange(10**6)) as world:
        apart = {"rows": theirs, "source": "other", "table": f"led2_{name}"}
        for which in ({}, apart):
            point = numbers.choice(("sending", "after_response", "before_record"))
            killed = world.run(stop_at=point, stop_nth=numbers.randint(1, 3), stop_after=0.02, **which)
            assert killed.killed, world.report()
        first, second = world.start(), world.start(**apart)
        assert (first.wait(), second.wait()) == (0, 0), world.report()
        world.check(first, second, records=ours + theirs)


def nearly_equal_keys(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Keys that differ only in case, accents, spaces or Unicode form are different keys."""
    keys = ["anna", "Anna", "ANNA", "änna", "a\u0308nna", "an na", " anna", "éclair", "eclair", "Éclair", "straße"]
    keys += ["strasse", "fi", "ﬁ", "1", "01", "Ⅰ", "١"]
    records = [record | {"id": key} for record, key in zip(people(len(keys), numbers), keys, strict=True)]
    with lab.world(name, database, records, sandbox={"latency": 0.03}, seed=numbers.randrange(10**6)) as world:
        assert world.run(stop_at="after_response", stop_nth=numbers.randint(1, 15)).killed, world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)
        assert len({content_of(customer) for customer in world.customers()}) == len(keys)


def _changing(lab: Lab, database: str, name: str, numbers: Random, count: int, **options: Any) -> ChangingWorld:
    records, seed = first_generation(count), numbers.randrange(10**6)
    return lab.world(name, database, records, kind=ChangingWorld, seed=seed, **options)


def lost_answers_to_changes(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The cost: one PATCH for each changed record, and one more for each without a usable response."""
    patient = {"timeout": 3.0, "settle": 3.0, "lease": 6.0, "batch_size": 30}
    with _changing(lab, database, name, numbers, 60, settings=VERSIONED | patient) as world:
        assert world.run().exit == 0, world.report()
        late = [{"kind": "late_commit", "seconds": 1.5}, {"kind": "late_commit", "seconds": 1.5, "status": 500}]
        kinds = [{"kind": kind, "seconds": 4} for kind in (*LOST, *NOTHING_DONE)]
        rules = [{**rule, "method": "PATCH", "skip": numbers.randrange(4), "times": 1} for rule in late + kinds]
        world.sandbox.faults(rules)
        world.change(numbers, 1.0)
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)
        assert done.result["counts"]["unknown"] == len(rules), world.report()
        assert done.result["requests"] == {"GET": 1, "PATCH": 60 + len(rules)}, world.report()
        assert world.run().result["requests"] == {}, "everything is known, so no request is needed"


def changed_after_the_lease(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """PayArc applies changes long after their sender was killed: after its lease, but within ``settle``."""
    settings = {"on_changed": "update", "version": numbers.choice((None, "v")), "settle": 3.0}
    with _changing(lab, database, name, numbers, 18, settings=settings) as world:
        assert world.run().exit == 0, world.report()
        world.change(numbers, 1.0)
        world.sandbox.faults([{"kind": "hang_before", "method": "PATCH", "skip": 3, "times": 3, "seconds": 2.3}])
        killed = world.run(stop_at="sending_update", stop_nth=6, stop_after=0.2)
        assert killed.killed, world.report()
        assert world.sandbox.stats()["faults"] == {"hang_before": 3}, world.report()
        world.change(numbers, 1.0)
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)


def older_run_suspended(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """A run with older data is suspended until a run with newer data has taken its customers over, then resumed."""
    point = numbers.choice(UPDATE_STOPS)
    nth = 1 if point == "after_update_claim" else numbers.randint(1, 6)
    with _changing(lab, database, name, numbers, 6, settings=VERSIONED, sandbox={"latency": 0.03}) as world:
        assert world.run().exit == 0, world.report()
        world.change(numbers, 1.0)
        older = world.start(stop_at=point, stop_nth=nth, **SUSPENDED)
        assert older.wait_until_stopped(), world.report()
        world.change(numbers, 1.0)
        newer = world.start()
        was_first = newer.wait(8) == 0  # unless the suspended run has locked the rows
        older.resume()
        has_failed = older.wait() != 0
        assert newer.wait() == 0, world.report()
        world.check(newer)
        if has_failed:  # while it waited for the locked rows, the newer run's lease has ended
            assert not was_first, world.report()
            assert "another run has sent newer data" in older.error, world.report()
            return
        assert older.result["counts"]["stale"] >= was_first, world.report()


def older_run_unversioned(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """The same without a version: the run that claims last wins, and the next run brings the newest data again."""
    settings, point = {"on_changed": "update"}, numbers.choice(UPDATE_STOPS)
    with _changing(lab, database, name, numbers, 6, settings=settings, sandbox={"latency": 0.03}) as world:
        assert world.run().exit == 0, world.report()
        world.change(numbers, 1.0)
        older = world.start(stop_at=point, **SUSPENDED)
        assert older.wait_until_stopped(), world.report()
        world.change(numbers, 1.0)
        newer = world.start()
        newer.wait(8)
        older.resume()
        assert (older.wait(), newer.wait()) == (0, 0), world.report()
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done, ordered=False)


def three_versions_at_once(lab: Lab, database: str, name: str, numbers: Random) -> None:
    """Three runs with different versions of the same records, one of which is killed; some responses are lost."""
    sandbox = {"latency": 0.03, "jitter": 0.03}
    with _changing(lab, database, name, numbers, 18, settings=VERSIONED, sandbox=sandbox) as world:
        assert world.run().exit == 0, world.report()
        lost = [{"kind": kind, "probability": 0.03, "seconds": 0.5} for kind in (*LOST, "late_commit", *NOTHING_DONE)]
        world.sandbox.faults([{**rule, "method": "PATCH"} for rule in lost])
        versions = [world.records]
        for _ in range(3):
            world.change(numbers, 0.7, new=3)
            versions.append(world.records)
        killed = {"stop_at": numbers.choice(UPDATE_STOPS), "stop_nth": numbers.randint(1, 3)}
        order = numbers.sample((1, 2, 3), 3)
        stops = [killed if number == order[1] else {} for number in order]
        runs = [world.start(rows=versions[number], **stop) for number, stop in zip(order, stops, strict=True)]
        for attempt in runs:
            attempt.wait()
        world.sandbox.clear_faults()
        done = world.run_until_done()
        world.check(done)


ALWAYS = [lost_answers_and_kills, three_at_once, suspended_before_sending, slow_but_alive, nearly_equal_keys]
ALWAYS += [lost_answers_to_changes, older_run_suspended, three_versions_at_once]
ONCE = [changed_after_the_lease, older_run_unversioned]
ONCE += [lost_answers, equal_records, two_sources_in_one_ledger, two_sources_in_two_ledgers]
ONCE += [times_without_a_zone, suspended_before_the_lease_check, committed_after_the_lease, committed_after_the_answer]
CASES = [Scenario(play, database) for play in ALWAYS for database in DATABASES]
CASES += [Scenario(play, DATABASES[number % 3]) for number, play in enumerate(ONCE)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_record_gets_one_customer(parallel_cases: ParallelCases, case: Scenario) -> None:
    """Each case is named after its function."""
    parallel_cases.check(case)
