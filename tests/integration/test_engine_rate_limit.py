"""Runs under PayArc's rate limit."""

from __future__ import annotations

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
from engine_bench import QUICK, people

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync import limit_waits
from payarc_provider.sync.ledger import Ledger, LedgerUnavailable

RATE_FACT = "rate_limit:"


def test_a_run_waits_for_the_rate_limit(sqlite_bench):
    rows = people(20)
    sqlite_bench.sandbox.settings(rate_limit=12, rate_window=1)
    outcome = sqlite_bench.run(rows).ok()
    sqlite_bench.check(rows, outcome)
    assert sqlite_bench.sandbox.stats()["posts"]["created"] == 20


@pytest.mark.parametrize("concurrency", [8, 16])
def test_a_run_learns_the_window_from_one_429(sqlite_bench, concurrency):
    rows = people(90)
    sqlite_bench.sandbox.settings(rate_limit=30, rate_window=2.0, latency=0.02)
    with patch.object(Ledger, "update_fact", autospec=True, side_effect=Ledger.update_fact) as exchange:
        outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, concurrency=concurrency)).ok()
    sqlite_bench.check(rows, outcome)
    assert outcome.counts["rate_limited"] == sqlite_bench.sandbox.stats()["posts"]["rate_limited"]
    assert outcome.counts["rate_limited"] <= 2  # two on a slow machine
    assert exchange.call_count <= 4, "a single worker uses the ledger once per window"


def test_workers_with_one_token_share_windows_through_the_ledger(bench):
    """If nothing were shared, there would be more 429s after the first windows."""
    bench.sandbox.settings(rate_limit=20, rate_window=3.0, latency=0.02)
    parts = [people(30, first=1 + 30 * number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(bench.run, parts))
    for outcome in outcomes:
        outcome.ok()
    assert len(bench.sandbox.customers()) == 120
    assert bench.ledger.facts(RATE_FACT)
    rate_limited = [post for post in bench.sandbox.log() if post["outcome"] == "rate_limited"]
    first = bench.sandbox.log()[0]["arrived"]
    assert sum(post["arrived"] > first + 5.9 for post in rate_limited) <= 6


def test_a_run_continues_if_the_ledger_cannot_share_the_rate_limit(sqlite_bench):
    class Unable(Ledger):
        def update_fact(self, name, change):
            raise LedgerUnavailable("not now")

    sqlite_bench.sandbox.settings(rate_limit=20, rate_window=1.0)
    parts = [people(20, first=1 + 20 * number) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda rows: sqlite_bench.run(rows, ledger=Unable), parts))
    for rows, outcome in zip(parts, outcomes, strict=True):
        assert len(outcome.ok().ids) == len(rows)
    assert len(sqlite_bench.sandbox.customers()) == 40


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
def test_a_run_waits_after_a_429_in_any_form(sqlite_bench, form):
    rows = people(6)
    sqlite_bench.sandbox.settings(retry_after=form)
    sqlite_bench.sandbox.faults([{"kind": "rate_limited", "seconds": 1, "skip": 2}])
    outcome = sqlite_bench.run(rows).ok()
    sqlite_bench.check(rows, outcome)
    assert outcome.counts["rate_limited"] == 1
    assert outcome.counts["unknown"] == 0


@pytest.mark.parametrize(("method", "form"), [("POST", "seconds"), ("POST", "none"), ("GET", "seconds")])
def test_a_run_that_only_gets_429s_says_so_and_ends(sqlite_bench, monkeypatch, caplog, method, form):
    """The waits between them are short: one second each."""
    monkeypatch.setattr(limit_waits, "LONG_WAIT", 1.5)
    monkeypatch.setattr(limit_waits, "MAX_SECONDS", 2.5)
    monkeypatch.setattr(limit_waits, "MAX_WINDOWS", 0)
    caplog.set_level(logging.INFO, limit_waits.__name__)
    rows = people(6)
    sqlite_bench.sandbox.settings(retry_after=form)
    sqlite_bench.sandbox.faults([{"kind": "rate_limited", "method": method, "seconds": 0, "every": 1}])
    outcome = sqlite_bench.run(rows)
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "let no request through" in str(outcome.error)
    assert "let no request through" in caplog.text
    assert sqlite_bench.nothing_is_leased()
    assert not sqlite_bench.sandbox.customers()
    sqlite_bench.sandbox.clear_faults()
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())
