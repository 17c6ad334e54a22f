"""Each run leaves one fact about itself: what it has done, whether it created something or not."""

from __future__ import annotations

import dataclasses

import pytest
from engine_bench import ACCOUNT, QUICK
from sqlalchemy.event import listen

from payarc_provider.sync.ledger import Ledger, runs
from payarc_provider.sync.ledger.runs import RunLog, TaskRunFact
from payarc_provider.sync.sources import ListSource

PEOPLE = [{"id": number, "name": f"Person {number}", "email": f"{number}@example.com"} for number in range(5)]
REJECTED = [{"id": "bad", "name": "Zo"}]


def logged(bench):
    return RunLog(bench.ledger, ACCOUNT).latest()


def test_a_run_that_creates_nothing_is_recorded_like_one_that_does(bench):
    bench.run(PEOPLE + REJECTED, run_id="first").ok()
    bench.run(PEOPLE + REJECTED, run_id="second").ok()

    second, first = logged(bench)
    assert (first.dag_id, first.run_id, first.sources) == ("dag", "first", ("table people",))
    assert (first.created, first.updated, first.known, first.rejected) == (5, 0, 0, 1)
    assert (second.created, second.updated, second.known, second.rejected) == (0, 0, 5, 1)
    assert first.counts["records"] == second.counts["records"] == 6
    assert not first.stopped
    assert first.began <= first.ended <= second.began <= second.ended


def test_an_update_counts(sqlite_bench):
    sqlite_bench.run(PEOPLE, run_id="first").ok()
    changed = [PEOPLE[0] | {"name": "Another Person"}, *PEOPLE[1:]]

    sqlite_bench.run(changed, dataclasses.replace(QUICK, on_changed="update"), run_id="second").ok()

    assert (logged(sqlite_bench)[0].updated, logged(sqlite_bench)[0].known) == (1, 4)


def test_another_try_replaces_the_first_and_counts_what_the_dag_run_has_created(sqlite_bench):
    stopped = sqlite_bench.run(PEOPLE, token="wrong")
    assert stopped.error is not None
    [before] = logged(sqlite_bench)
    assert (before.stopped, before.created) == (True, 0)
    assert before.ended is not None

    sqlite_bench.run(PEOPLE).ok()

    [after] = logged(sqlite_bench)
    assert (after.stopped, after.created) == (False, 5)


def test_a_dry_run_is_not_recorded(sqlite_bench):
    sqlite_bench.run(PEOPLE, dataclasses.replace(QUICK, dry_run=True)).ok()

    assert logged(sqlite_bench) == []


def test_a_run_has_not_ended_while_it_is_under_way(sqlite_bench):
    seen = []

    class Watched(ListSource):
        def pages(self):
            seen.extend(logged(sqlite_bench))
            return super().pages()

    sqlite_bench.run(PEOPLE, run_id="first").ok()
    sqlite_bench.run(Watched(PEOPLE, "table people"), run_id="second").ok()

    assert [(run.run_id, run.ended is None, run.counts) for run in seen[:1]] == [("second", True, {})]


def test_a_run_writes_no_more_for_more_records(sqlite_bench):
    statements = []

    class Listening(Ledger):
        def open(self, **given):
            listen(self.database.engine, "before_cursor_execute", lambda *seen: statements.append(seen[2]))
            return super().open(**given)

    many = [PEOPLE[0] | {"id": number, "email": f"{number}@x.org"} for number in range(200)]
    sqlite_bench.run(many, run_id="all").ok()
    writes = []
    for rows in (many[:1], many):
        statements.clear()
        sqlite_bench.run(rows, run_id=f"of {len(rows)}", ledger=Listening).ok()
        writes.append(sum(statement.startswith(("INSERT", "UPDATE", "DELETE")) for statement in statements))

    assert writes[0] == writes[1]


@pytest.mark.parametrize("account", [ACCOUNT, f"{ACCOUNT}:1"])
def test_only_the_latest_runs_of_an_account_are_kept(bench, monkeypatch, account):
    monkeypatch.setattr(runs, "KEPT", 5)
    monkeypatch.setattr(runs, "_SPARE", 2)
    bench.database.stop_clock()
    other = RunLog(bench.ledger, "other")
    other.begin(TaskRunFact("dag", "other", "task", -1, "s"))
    log = RunLog(bench.ledger, account)
    for number in range(12):
        bench.database.move_clock(1)
        log.begin(TaskRunFact("dag", f"run {number}", "task", -1, "s"))

    kept = [run.run_id for run in log.latest()]

    assert kept == [f"run {number}" for number in reversed(range(12 - len(kept), 12))]
    assert 5 <= len(kept) <= 7
    assert len(other.latest()) == 1
