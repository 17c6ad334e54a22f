"""The clock of the ledger's database steps while runs work; PayArc's clock and this machine's go on."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import engine_bench
import pytest
from engine_bench import people

from payarc_provider.api import http
from payarc_provider.sync.ledger import database, facts, ledger
from payarc_provider.sync.settings import Settings

SETTINGS = Settings(timeout=2, settle=2, lease=12, batch_size=20, concurrency=2)


class Clock:
    """The database's clock, ahead by ``ahead`` seconds."""

    def __init__(self, monkeypatch):
        self.ahead = 0.0
        real = database.database_now
        for module in (ledger, facts):
            monkeypatch.setattr(
                module, "database_now", lambda connection: real(connection) + datetime.timedelta(seconds=self.ahead)
            )


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(engine_bench, "WATCHDOG", 60)  # leases are observed for their whole length
    return Clock(monkeypatch)


def wait_for(condition):
    give_up_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


@pytest.mark.parametrize(("seconds", "shows_date"), [(170, True), (3600, False)])
def test_a_step_while_two_runs_work_makes_no_duplicate(sqlite_bench, clock, monkeypatch, seconds, shows_date):
    if not shows_date:
        monkeypatch.setattr(http.Response, "date", None)
    sqlite_bench.sandbox.settings(latency=1.0)
    rows = people(20)
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(sqlite_bench.run, given, SETTINGS, run_id=name) for given, name in ((rows, "a"), (rows, "b"))
        ]
        wait_for(lambda: len(sqlite_bench.sandbox.log()) >= 9)
        clock.ahead = seconds
        for run in runs:
            sqlite_bench.check(rows, run.result().ok())


@pytest.mark.parametrize("seconds", [3600])
def test_a_run_that_starts_after_the_step_makes_no_duplicate(sqlite_bench, clock, seconds):
    sqlite_bench.sandbox.settings(latency=1.0)
    rows = people(20)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sqlite_bench.run, rows, SETTINGS, run_id="a")
        wait_for(lambda: len(sqlite_bench.sandbox.log()) >= 9)
        clock.ahead = seconds
        second = pool.submit(sqlite_bench.run, rows, SETTINGS, run_id="b")
        for run in (first, second):
            sqlite_bench.check(rows, run.result().ok())


def test_a_run_without_the_date_header_takes_over_what_a_dead_run_left(sqlite_bench, monkeypatch):
    """It has nothing to compare, and must not wait for evidence for ever."""
    monkeypatch.setattr(http.Response, "date", None)
    rows = people(20)
    sqlite_bench.sandbox.settings(latency=0.5)
    settings = dataclasses.replace(SETTINGS, lease=3)

    class Dying(ledger.Ledger):
        def release(self, *_):
            """Leave the rows claimed, as a killed process does."""

    def stop_soon(terminate):
        wait_for(lambda: len(sqlite_bench.sandbox.log()) >= 3)
        terminate()

    sqlite_bench.run(
        rows,
        settings,
        ledger=Dying,
        on_start=lambda terminate: threading.Thread(target=stop_soon, args=(terminate,)).start(),
    )
    assert not sqlite_bench.nothing_is_leased()
    sqlite_bench.check(rows, sqlite_bench.run(rows, settings).ok())
