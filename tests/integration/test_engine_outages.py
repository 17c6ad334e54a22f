"""The source or the ledger fails during a run."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
from engine_bench import QUICK, WATCHDOG, people

from payarc_provider.exceptions import PayarcLedgerError, PayarcSourceError
from payarc_provider.sync import engine, runner
from payarc_provider.sync.ledger import Ledger, LedgerUnavailable
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.sources import ListSource


class BrokenSource(ListSource):
    """Fails after its first page, when ``ready`` says so; before that, it gives the rows of a ``late`` page."""

    ready = staticmethod(lambda: True)
    late = ()

    def pages(self):
        yield from super().pages()
        deadline = time.monotonic() + WATCHDOG / 2
        while not self.ready() and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.late:
            yield self.late
        raise PayarcSourceError("the source broke")


@pytest.fixture
def batches_of_three(monkeypatch):
    """So that the first records are sent before the source breaks."""
    monkeypatch.setattr(runner, "PAGE", 3)


@pytest.mark.usefixtures("batches_of_three")
def test_a_failing_source_stops_the_run_and_a_later_one_completes(sqlite_bench):
    rows = people(30)
    sqlite_bench.sandbox.settings(latency=0.05)
    outcome = sqlite_bench.run(BrokenSource(rows[:20], "table people"), dataclasses.replace(QUICK, batch_size=3))
    assert isinstance(outcome.error, PayarcSourceError)
    assert outcome.counts["created"] > 0
    assert sqlite_bench.nothing_is_leased()
    assert outcome.counts["created"] == len(sqlite_bench.sandbox.customers()), "requests in flight are recorded"
    assert "pending" not in sqlite_bench.states()
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


@pytest.mark.usefixtures("batches_of_three")
def test_a_failure_ends_waits_for_the_rate_limit(sqlite_bench):
    rows = people(6)
    sqlite_bench.sandbox.settings(rate_limit=2, rate_window=2 * WATCHDOG)
    source = BrokenSource(rows, "table people")
    source.ready = lambda: sqlite_bench.sandbox.stats()["rate_limited"] > 0  # a 429 shows how long the window is
    outcome = sqlite_bench.run(source, dataclasses.replace(QUICK, batch_size=3))
    assert isinstance(outcome.error, PayarcSourceError)
    assert outcome.counts["rate_limited"] == 1
    assert sqlite_bench.nothing_is_leased()
    sqlite_bench.sandbox.settings(rate_limit=None)
    for name in sqlite_bench.ledger.facts("rate_limit:"):  # or the next run would wait for the window's end
        sqlite_bench.ledger.replace_fact(name, None)
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


@pytest.mark.usefixtures("batches_of_three")
def test_a_failure_ends_waits_for_the_rate_limit_that_later_records_began(sqlite_bench):
    """No response arrives any more that would tell the engine that the senders have taken the last batch."""
    rows = people(9)
    sqlite_bench.sandbox.settings(rate_limit=2, rate_window=2 * WATCHDOG)
    source = BrokenSource(rows[:6], "table people")
    source.ready = lambda: sqlite_bench.sandbox.stats()["rate_limited"] > 0
    source.late = rows[6:]
    outcome = sqlite_bench.run(source, dataclasses.replace(QUICK, batch_size=3, concurrency=9))
    assert isinstance(outcome.error, PayarcSourceError)
    assert outcome.counts["rate_limited"] > 0
    assert sqlite_bench.nothing_is_leased()


def failing(names, outage):
    """A kind of ledger whose named methods fail during the outage."""

    def fails(name):
        def method(self, *args, **options):
            if outage.is_set() and outage.left > 0:
                outage.left -= 1
                raise LedgerUnavailable
            return getattr(Ledger, name)(self, *args, **options)

        return method

    return type("Failing", (Ledger,), {name: fails(name) for name in names})


class Outage(threading.Event):
    """Set while the ledger's database is unavailable; ends by itself after ``calls`` calls."""

    def __init__(self, calls=float("inf")):
        super().__init__()
        self.left = calls


def test_a_run_waits_for_a_ledger_that_is_briefly_unavailable(sqlite_bench):
    outage = Outage(calls=3)
    outage.set()
    rows = people(12)
    every = ("rows", "claim", "record", "take_over", "record_absence", "renew", "waiting")
    sqlite_bench.sandbox.faults([{"kind": "lost_before", "every": 4}])
    outcome = sqlite_bench.run(rows, ledger=failing(every, outage)).ok()
    sqlite_bench.check(rows, outcome)
    assert outage.left == 0


def test_a_run_stops_if_the_ledger_stays_unavailable_and_a_later_one_completes(sqlite_bench, listen, monkeypatch):
    monkeypatch.setattr(engine, "RELEASE_SECONDS", 0.2)
    outage = Outage()
    listen(lambda point: outage.set() if point == "before_record" else None)
    rows = people(12)
    settings = dataclasses.replace(QUICK, ledger_patience=0.5, lease=16)
    ledger = failing(("rows", "record", "renew", "release", "take_over", "waiting"), outage)
    outcome = sqlite_bench.run(rows, settings, ledger=ledger)
    assert isinstance(outcome.error, PayarcLedgerError)
    assert sqlite_bench.states()["pending"] > 0
    for row in sqlite_bench.rows().values():
        assert row.lease_until is not None
    sqlite_bench.database.execute(f"UPDATE {sqlite_bench.table} SET lease_until = '2020-01-01 00:00:00.000000'")
    listen(None)
    sqlite_bench.check(rows, sqlite_bench.run(rows, run_id="run 2").ok())


def test_a_run_stops_if_the_ledger_stays_unavailable_while_it_has_nothing_to_record(sqlite_bench, listen, monkeypatch):
    """The run would only have to send, but its leases have ended and cannot be renewed."""
    monkeypatch.setattr(engine, "RELEASE_SECONDS", 0.2)
    outage = Outage()
    listen(lambda point: outage.set() if point == "after_claim" else None)
    sqlite_bench.sandbox.faults([{"kind": "rate_limited", "seconds": 1}])
    settings = Settings(timeout=0.4, settle=0.5, lease=0.8, concurrency=1, ledger_patience=1.5)
    ledger = failing(("record", "renew", "release", "take_over", "waiting"), outage)
    outcome = sqlite_bench.run(people(2), settings, ledger=ledger)
    assert isinstance(outcome.error, PayarcLedgerError)
    assert sqlite_bench.sandbox.customers() == [], "a second POST would have created one"
