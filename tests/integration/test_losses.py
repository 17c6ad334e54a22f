"""A ledger whose database loses what it had committed: runs notice it and stop, instead of creating customers twice."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time

import pytest
from engine_bench import ACCOUNT, QUICK, Bench, people

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.ledger import Claimant, Evidence, Ledger, LedgerLost, Resolution, Row, UpdateClaim
from payarc_provider.sync.ledger.repair import LedgerUnchanged, Repair
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.row_memory import MOST, SECONDS, RowMemory

SLOW = dataclasses.replace(QUICK, concurrency=4, batch_size=10)


def emails(bench: Bench) -> list[str]:
    return [customer["email"] for customer in bench.sandbox.customers()]


def has_no_duplicates(bench: Bench) -> bool:
    return len(emails(bench)) == len(set(emails(bench)))


def lose(bench: Bench, how: str) -> None:
    """Another connection deletes rows, or the whole table."""
    truncate = "DELETE FROM" if bench.database.kind == "sqlite" else "TRUNCATE TABLE"
    statements = {
        "drop": f"DROP TABLE {bench.table}",
        "truncate": f"{truncate} {bench.table}",
        "delete some": f"DELETE FROM {bench.table} WHERE customer_id IS NOT NULL OR owner IS NOT NULL",
    }
    for attempt in range(50):
        try:
            bench.database.execute(statements[how])
        except Exception:  # SQLite's table is locked for a moment
            if attempt == 49:
                raise
            time.sleep(0.02)
        else:
            return


def claim(bench: Bench, me: Claimant) -> Row:
    """Claim the first record; returns its row."""
    record = RecordReader("id", None, bench.ledger.ledger_id).read(0, people(1)[0])
    return bench.ledger.claim(me, f"{me.owner}.1", [record], {}, datetime.datetime.now(datetime.UTC))["0"]


# ---- between runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drop", "truncate"])
def test_a_ledger_that_had_customers_and_has_none_stops_the_next_run(bench, how):
    bench.run(people(20)).ok()
    posts = len(bench.sandbox.log())
    lose(bench, how)
    with pytest.raises(LedgerLost, match=r"stop its DAGs|Stop its DAGs.*python -m payarc_provider.ledger rebuild"):
        bench.run(people(20), run_id="run 2").ok()
    assert len(bench.sandbox.log()) == posts, "nothing is sent"


def test_a_dry_run_notices_it_too_and_writes_nothing(bench):
    bench.run(people(5)).ok()
    lose(bench, "truncate")
    with pytest.raises(LedgerLost):
        bench.run(people(5), dataclasses.replace(QUICK, dry_run=True)).ok()
    assert bench.ledger.facts("rows_lost:") == {}


def test_the_first_customer_of_an_account_is_noted_once(bench):
    bench.run(people(3)).ok()
    assert bench.ledger.facts("has_customers:") == {f"has_customers:{ACCOUNT}": "yes"}


def test_a_run_that_was_rejected_or_stopped_before_its_first_customer_is_no_loss(bench):
    bench.sandbox.faults([{"kind": "unauthorized", "times": None}])
    assert bench.run(people(3)).error is not None
    bench.sandbox.clear_faults()
    bench.check(people(3), bench.run(people(3), run_id="run 2").ok())


def test_forgetting_the_last_key_is_no_loss(bench):
    bench.run(people(2)).ok()
    Repair(bench.ledger, ACCOUNT).forget("0")
    assert bench.ledger.facts("has_customers:")
    Repair(bench.ledger, ACCOUNT).forget("1")
    assert bench.ledger.facts("has_customers:") == {}
    bench.run(people(2), run_id="run 2").ok()
    assert len(bench.sandbox.customers()) == 4, "two new customers, as asked"


# ---- during a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drop", "truncate", "delete some"])
@pytest.mark.parametrize("recorded", [0, 12])
def test_rows_lost_during_a_run_stop_it_and_the_retry(bench, listen, how, recorded):
    bench.sandbox.settings(latency=0.05)
    points = {"before_record": 0, "done": False}
    lock = threading.Lock()

    def on(point: str) -> None:
        with lock:
            enough = len(bench.sandbox.customers()) > recorded
            if point != "before_record" or points["done"] or not enough:
                return
            points["done"] = True
            lose(bench, how)

    listen(on)
    rows = people(40)
    outcome = bench.run([*rows, *rows], SLOW)
    assert isinstance(outcome.error, LedgerLost), outcome.error
    assert has_no_duplicates(bench)
    sent = len(bench.sandbox.log())
    listen(None)
    for _ in range(2):  # Airflow's retries, should the error not have ended them
        with pytest.raises(PayarcConfigError, match="rebuild"):
            bench.run(rows).ok()
    assert len(bench.sandbox.log()) == sent, "nothing more is sent"


@pytest.mark.parametrize("renewals", ["before a renewal", "before the end"])
def test_a_failover_that_loses_the_latest_commits_stops_the_run(bench, listen, renewals):
    """The rows come back as they were 1.5 s before: the run has got the responses itself and must not send again."""
    bench.sandbox.settings(latency=0.05)
    lease, timeout = (1.2, 0.6) if renewals == "before a renewal" else (20, 10)
    settings = dataclasses.replace(SLOW, lease=lease, timeout=timeout, settle=timeout, batch_size=5)
    copy = bench.database.name("copy")
    started: list[threading.Thread] = []

    def fail_over() -> None:
        bench.database.execute(f"CREATE TABLE {copy} AS SELECT * FROM {bench.table}")
        time.sleep(1.5)
        for statement in (f"DELETE FROM {bench.table}", f"INSERT INTO {bench.table} SELECT * FROM {copy}"):
            bench.database.execute(statement)

    def on(point: str) -> None:
        if point == "after_record" and not started and len(bench.sandbox.customers()) > 8:
            started.append(threading.Thread(target=fail_over))
            started[0].start()

    listen(on)
    rows = people(150)
    outcome = bench.run([*rows, *rows], settings)
    started[0].join()
    assert isinstance(outcome.error, LedgerLost), outcome.error
    assert has_no_duplicates(bench)
    listen(None)
    with pytest.raises(LedgerLost):
        bench.run(rows).ok()
    assert has_no_duplicates(bench)


def test_a_key_forgotten_while_a_run_works_is_no_loss(bench, listen):
    forgotten: list[str | None] = []

    def on(point: str) -> None:
        if point == "after_record" and not forgotten:
            row = next(row for row in bench.rows().values() if row.customer_id)
            forgotten.append(Repair(bench.ledger, ACCOUNT).forget(row.key))

    listen(on)
    bench.run(people(10), dataclasses.replace(QUICK, batch_size=5)).ok()
    assert forgotten


def test_a_lost_row_is_noticed_even_if_an_equal_record_has_got_its_customer(bench):
    """A look-up of another run has taken the customer of one record for that of another, equal one."""
    bench.run([row | {"email": "equal@example.com", "name": "Ana Park"} for row in people(2)]).ok()
    taken = bench.rows()["1"].customer_id
    me = Claimant(ACCOUNT, "a" * 32, "list of people", 120, 60)
    known = {"0": Evidence(1, returned_id=taken)}
    bench.ledger.check_rows(me, known)
    bench.database.execute(f"DELETE FROM {bench.table} WHERE customer_id <> '{taken}'")
    with pytest.raises(LedgerLost):
        bench.ledger.check_rows(me, known)


@pytest.mark.parametrize("rejected_by", ["the rules", "PayArc"])
def test_a_lost_row_is_noticed_even_if_its_record_was_rejected_since(bench, rejected_by):
    """The number of a row that was inserted again may be higher, although nothing has resolved an earlier request."""
    bench.open()
    me = Claimant(ACCOUNT, "a" * 32, "list of people", 120, 60)
    sent = claim(bench, me)
    bench.database.execute(f"DELETE FROM {bench.table}")
    for value in ("a", "b") if rejected_by == "the rules" else ("Nowh3re", "N0where"):
        bench.run([people(1)[0] | {"country": value}]).ok()
    row = bench.rows()["0"]
    assert (row.state, row.attempt) == ("rejected", 2)
    with pytest.raises(LedgerLost):
        bench.ledger.check_rows(me, {"0": Evidence(1, inserted_at=sent.inserted_at)})


def test_a_customer_is_not_changed_for_a_row_that_was_lost_and_inserted_again(bench):
    """The new row looks the same and has another customer."""
    bench.run(people(1)).ok()
    me = Claimant(ACCOUNT, "a" * 32, "list of people", 120, 60)
    [before] = bench.ledger.rows(me, ["0"]).values()
    change = UpdateClaim("a.1", before, before.fingerprints, before.version)
    again = before.inserted_at + datetime.timedelta(seconds=1)
    bench.database.execute(
        f"UPDATE {bench.table} SET customer_id = 'another', inserted_at = '{again:%Y-%m-%d %H:%M:%S.%f}'"
    )
    assert bench.ledger.claim_updates(me, [change])["0"].claim is None


def test_a_row_that_was_forgotten_and_rejected_since_is_no_loss(bench):
    bench.open()
    me = Claimant(ACCOUNT, "a" * 32, "list of people", 120, 60)
    sent = claim(bench, me)
    bench.ledger.record(me, [Resolution("0", sent.claim, errors={"name": ["no"]})])
    Repair(bench.ledger, ACCOUNT).forget("0")
    bench.run([people(1)[0] | {"name": "J"}]).ok()
    bench.ledger.check_rows(me, {"0": Evidence(1, inserted_at=sent.inserted_at)})


def test_losses_cost_one_query_at_the_end_and_none_for_runs_that_recorded_nothing(sqlite_bench):
    calls: list[int] = []

    class Counting(Ledger):
        def check_rows(self, me, evidence):
            calls.append(len(evidence))
            super().check_rows(me, evidence)

    sqlite_bench.run(people(30), ledger=Counting).ok()
    assert calls == [30]
    sqlite_bench.run(people(30), ledger=Counting, run_id="run 2").ok()
    assert calls == [30]


def test_the_memory_of_a_run_is_bounded():
    now = [0.0]
    memory = RowMemory(lambda: now[0])
    for number in range(MOST + 500):
        memory.note_recorded(str(number), 1, f"c{number}")
        memory.note_sent(f"sent {number}", 1)
    assert len(memory.all()) == 2 * MOST
    now[0] = SECONDS + 1
    assert len(memory.all()) == MOST, "recorded rows are compared for some minutes"


# ---- leases in the future -------------------------------------------------------------------------------------------


def test_a_lease_too_far_in_the_future_is_shortened_by_hand(bench):
    from test_engine_parallel_runs import leave_behind

    rows = people(3)
    leave_behind(bench, rows, lease=0.3, settle=0.3)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    text = f"{until:%Y-%m-%d %H:%M:%S.%f}" + ("+00:00" if bench.database.kind == "postgresql" else "")
    bench.database.execute(f"UPDATE {bench.table} SET lease_until = '{text}'")
    repair = Repair(bench.ledger, ACCOUNT)
    assert repair.release(["0"]) == 1
    assert repair.release(None) == 2
    with pytest.raises(LedgerUnchanged):
        repair.release(["0"])
    bench.check(rows, bench.run(rows, run_id="run 2").ok())


def test_a_lease_that_ends_by_itself_is_not_released(bench):
    from test_engine_parallel_runs import leave_behind

    leave_behind(bench, people(1), lease=120, settle=60)
    with pytest.raises(LedgerUnchanged, match="ends by itself"):
        Repair(bench.ledger, ACCOUNT).release(["0"])
    assert Repair(bench.ledger, ACCOUNT).release(None) == 0
