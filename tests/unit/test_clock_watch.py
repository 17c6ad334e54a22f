"""Whether the clock of the ledger's database is evidence that a lease has ended."""

from __future__ import annotations

import asyncio
import datetime
import json
from types import SimpleNamespace

import pytest

from payarc_provider.sync.clock import PAYARC_TOLERANCE, ClockWatch, Offset, PayarcClock

LEASE, SETTLE = 120.0, 60.0
OWN = LEASE + SETTLE


class Clocks:
    """This machine's clock, and how far the database's and PayArc's are ahead of it."""

    def __init__(self, database: float = 10.0, payarc: float = 100.0) -> None:
        self.seconds, self.database, self.payarc = 1_000_000.0, database, payarc

    def now(self) -> float:
        return self.seconds

    def read_database(self, took: float = 0.0) -> datetime.datetime:
        self.seconds += took
        return datetime.datetime.fromtimestamp(self.seconds + self.database, datetime.UTC)

    def offset_of_payarc(self, width: float = 1.0) -> Offset:
        return Offset(self.payarc, self.payarc + width)


def watch_of(clocks, took=0.0, **options):
    watch = ClockWatch(clocks.now, **options)
    watch.measure(lambda: clocks.read_database(took))
    return watch


def row(claim="c", until=0, lease=LEASE, settle=SETTLE):
    moment = datetime.datetime.fromtimestamp(until, datetime.UTC)
    return SimpleNamespace(key="k", claim=claim, lease_until=moment, lease=lease, settle=settle)


def compare(watch, clocks, fact=None, longest=0.0, payarc="shown"):
    """What `compare` returns, and whether a row may be taken over at once then."""
    stored = watch.compare(fact, clocks.offset_of_payarc() if payarc == "shown" else payarc, longest, OWN)
    return stored, watch.proves_end(row())


def test_no_row_is_taken_over_before_the_clocks_were_compared():
    watch = watch_of(Clocks())
    assert not watch.must_compare
    assert not watch.proves_end(row())
    assert watch.must_compare


# ---- the first comparison of an account -----------------------------------------------------------------------------


def test_without_open_rows_the_first_comparison_is_believed_and_stored():
    clocks = Clocks()
    stored, may_take_over = compare(watch_of(clocks), clocks)
    assert may_take_over
    assert json.loads(stored) == {"offset": [-91.0, -90.0], "since": 1_000_100, "wait": 0.0}


def test_rows_that_were_open_before_the_first_comparison_have_to_be_observed():
    clocks = Clocks()
    stored, may_take_over = compare(watch_of(clocks), clocks, longest=OWN)
    assert not may_take_over
    clocks.seconds += OWN - 1
    assert not compare(watch_of(clocks), clocks, stored)[1]
    clocks.seconds += 2
    assert compare(watch_of(clocks), clocks, stored) == (None, True)


@pytest.mark.parametrize(("took", "width"), [(5.0, 1.0), (0.0, 5.0)], ids=["database", "payarc"])
@pytest.mark.parametrize("fact", [None, json.dumps({"offset": [500.0, 501.0], "since": 1, "wait": 0.0})])
def test_a_comparison_that_took_long_proves_nothing_and_is_not_stored(took, width, fact):
    clocks = Clocks()
    watch = watch_of(clocks, took)
    assert watch.compare(fact, clocks.offset_of_payarc(width), 0.0, OWN) is None
    assert not watch.proves_end(row())
    assert not watch.must_compare, "another comparison would show no more"


# ---- later comparisons ----------------------------------------------------------------------------------------------


def stored_offset(clocks):
    return compare(watch_of(clocks), clocks)[0]


@pytest.mark.parametrize("moved", [-3, -0.5, 0, 0.5, 3])
def test_clocks_that_agree_with_the_stored_comparison_are_believed(moved):
    clocks = Clocks()
    fact = stored_offset(clocks)
    clocks.database += moved
    stored, may_take_over = compare(watch_of(clocks), clocks, fact)
    assert may_take_over
    assert (stored is not None) == (abs(moved) > 2), "a slow drift is followed, so that it never counts as a step"


@pytest.mark.parametrize("moved", [-3600, -170, -PAYARC_TOLERANCE - 1, PAYARC_TOLERANCE + 1, 170, 3600])
@pytest.mark.parametrize("whose", ["database", "payarc"])
def test_a_step_since_an_earlier_run_is_noticed(caplog, moved, whose):
    """It makes no difference which of the two clocks has stepped."""
    clocks = Clocks()
    fact = stored_offset(clocks)
    setattr(clocks, whose, getattr(clocks, whose) + moved)
    stored, may_take_over = compare(watch_of(clocks), clocks, fact, longest=300.0)
    assert not may_take_over
    assert "has been changed" in caplog.text
    assert json.loads(stored)["wait"] == 300.0 + PAYARC_TOLERANCE
    clocks.seconds += 300 + PAYARC_TOLERANCE + 1
    assert compare(watch_of(clocks), clocks, stored)[1], "leases that were given before the step have ended"


@pytest.mark.parametrize("moved", [-100, 100])
def test_this_machines_clock_may_differ_from_that_of_the_earlier_run(moved):
    clocks = Clocks()
    fact = stored_offset(clocks)
    other = Clocks(clocks.database - moved, clocks.payarc - moved)
    other.seconds += moved
    assert compare(watch_of(other), other, fact) == (None, True)


# ---- PayArc shows no time -------------------------------------------------------------------------------------------


def test_without_a_date_from_payarc_the_databases_clock_is_all_there_is():
    clocks = Clocks()
    assert compare(watch_of(clocks), clocks, payarc=None) == (None, True)


def test_without_a_date_from_payarc_a_stored_comparison_cannot_be_repeated():
    clocks = Clocks()
    fact = stored_offset(clocks)
    watch = watch_of(clocks)
    assert compare(watch, clocks, fact, payarc=None) == (None, False)
    clocks.seconds += OWN + 1
    assert watch.proves_end(row()), "the lease was seen unchanged for its whole length"


@pytest.mark.parametrize("payarc_time", [None, 1_000_100.0])
def test_payarcs_clock_is_read_from_the_date_of_a_response(payarc_time):
    clocks = Clocks()
    clock = PayarcClock(clocks.now)
    assert clock.earliest() is None

    async def request():
        clocks.seconds += 0.5
        return SimpleNamespace(date=payarc_time)

    assert asyncio.run(clock.read(request)).date == payarc_time
    if payarc_time is None:
        assert (clock.offset, clock.earliest()) == (None, None)
    else:  # it shows whole seconds
        assert clock.offset == Offset(99.5, 101.0)
        assert clock.earliest() == clocks.seconds + 99.5


# ---- steps while a run works ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [-170, -4, 4, 170])
@pytest.mark.parametrize("compared", ["before", "after"])
def test_a_step_while_the_run_works_ends_the_trust_in_the_clock(caplog, moved, compared):
    clocks, steps = Clocks(), []
    watch = watch_of(clocks, on_step=lambda: steps.append(clocks.now()))
    fact = stored_offset(clocks)
    if compared == "before":
        assert compare(watch, clocks, fact)[1]
    clocks.database += moved
    watch.measure(clocks.read_database)
    assert (watch.steps, len(steps)) == (1, 1)
    assert ("forward" if moved > 0 else "back") in caplog.text
    if compared == "after":
        compare(watch, clocks, fact)
    assert not watch.proves_end(row())
    watch.measure(clocks.read_database)
    assert watch.steps == 1, "the same step is noticed once"


def test_a_slow_transaction_is_no_step_and_no_evidence():
    clocks, steps = Clocks(), []
    watch = watch_of(clocks, on_step=lambda: steps.append(1))
    assert compare(watch, clocks)[1]
    watch.measure(lambda: clocks.read_database(took=600.0))
    assert not watch.proves_end(row())
    watch.measure(clocks.read_database)
    assert watch.proves_end(row())
    assert not steps


def test_the_databases_time_is_read_again_if_that_took_long():
    clocks, took = Clocks(), [5.0, 0.1, 5.0]
    watch = ClockWatch(clocks.now)
    watch.measure(lambda: clocks.read_database(took.pop(0)))
    assert took == [5.0]
    assert compare(watch, clocks)[1]


@pytest.mark.parametrize("change", [{"claim": "d"}, {"until": 60}])
def test_a_lease_that_changes_has_to_be_observed_anew(change):
    clocks = Clocks()
    watch = watch_of(clocks)
    compare(watch, clocks, stored_offset(clocks), payarc=None)
    assert watch.remaining(row()) == OWN
    clocks.seconds += 100
    assert watch.remaining(row()) == OWN - 100
    assert watch.remaining(row(**change)) == OWN


def test_a_row_without_a_lease_need_not_be_observed():
    clocks = Clocks()
    watch = watch_of(clocks)
    compare(watch, clocks, stored_offset(clocks), payarc=None)
    assert watch.remaining(row(lease=None)) == 0.0
