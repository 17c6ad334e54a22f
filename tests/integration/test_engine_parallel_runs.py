"""Runs after a killed run, suspended runs, and runs in parallel."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine_bench import ACCOUNT, LONG, QUICK, WATCHDOG, people

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sandbox import make_token
from payarc_provider.sync.ledger import Claimant, Ledger, LedgerUnavailable
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.reference import reference, with_reference
from payarc_provider.sync.settings import Settings


def leave_behind(bench, rows, *, lease=0.3, settle=0.3):
    """Leave the ledger as a run that was killed after its claim does; return the references by key."""
    ledger = bench.open()
    reader = RecordReader("id", None, ledger.ledger_id)
    records = [reader.read(index, row) for index, row in enumerate(rows)]
    me = Claimant(ACCOUNT, uuid.uuid4().hex, "table people", lease, settle, "dag", "run 0", "task")
    codes = {
        record.key: code
        for record in records
        if with_reference(record.fields.get("description"), code := reference(ledger.ledger_id, ACCOUNT, record.key))
    }
    ledger.claim(
        me, f"{me.owner}.1", records, codes, datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=300)
    )
    return codes


def commit(bench, rows, codes):
    """Create the customers of the killed run's requests; return their ids."""
    return [
        customer["customer_id"]
        for customer in bench.sandbox.seed(
            {**row, "description": with_reference(row.get("description"), codes[str(row["id"])])}
            if str(row["id"]) in codes
            else row
            for row in rows
        )
    ]


@pytest.mark.parametrize("description", ["Donut shop", LONG], ids=["by reference", "by fields"])
def test_a_killed_runs_customers_are_found_and_its_other_records_are_sent(bench, description):
    rows = people(10, description=description)
    codes = leave_behind(bench, rows)
    now = int(time.time())
    bench.sandbox.seed(people(130, first=1000, created_at=now - 90))  # more than a page of others before and after
    customer_ids = commit(bench, [{**row, "created_at": now - 60} for row in rows[:6]], codes)
    bench.sandbox.seed(people(130, first=2000, created_at=now - 30))
    outcome = bench.run(rows, run_id="run 1").ok()
    assert outcome.ids[:6] == customer_ids
    assert outcome.requests["POST"] == 4
    assert len(bench.sandbox.customers()) == 270
    assert outcome.statuses == {"known": 6, "created": 4}
    assert bench.states() == {"created": 10}
    assert outcome.recorded == {"created": 10}, "metrics count each customer once, whatever its status"
    assert bench.run(rows).ok().requests == {}


def test_a_killed_runs_rows_are_resolved_even_if_the_records_have_changed(sqlite_bench):
    rows = people(4)
    codes = leave_behind(sqlite_bench, rows)
    customer_ids = commit(sqlite_bench, rows[:2], codes)
    now = [
        {**rows[0], "name": "Mary Jones"},
        {**rows[1], "name": "Jo"},
        {**rows[2], "name": "Mary Jones"},
        {**rows[3], "name": "Jo"},
    ]
    outcome = sqlite_bench.run(now).ok()
    assert outcome.ids[0] == customer_ids[0]
    assert {customer["name"] for customer in sqlite_bench.sandbox.customers()} == {"John Smith", "Mary Jones"}
    assert len(sqlite_bench.sandbox.customers()) == 3
    assert [one["key"] for one in outcome.results.rejected()] == ["1", "3"]
    assert sqlite_bench.rows()["1"].customer_id == customer_ids[1], "a rejection by our rules leaves the row alone"


@pytest.mark.parametrize("at", [0, 1])
def test_a_run_with_one_of_a_killed_runs_records_creates_its_customer(sqlite_bench, at):
    """No customer can check PayArc's list yet. So one record is sent unchecked, and it is one that this run has."""
    rows = people(2)
    leave_behind(sqlite_bench, rows)
    outcome = sqlite_bench.run([rows[at]]).ok()
    assert outcome.requests["POST"] == len(sqlite_bench.sandbox.customers()) == 1


def test_a_killed_runs_rows_are_resolved_by_any_later_run_of_the_account(sqlite_bench):
    codes = leave_behind(sqlite_bench, people(3))
    customer_ids = commit(sqlite_bench, people(1), codes)
    sqlite_bench.run(people(5, first=50)).ok()  # the leases may not have ended yet
    outcome = sqlite_bench.run([*people(1), *people(5, first=50)]).ok()
    assert outcome.ids[0] == customer_ids[0]
    rows = sqlite_bench.rows()
    assert rows["0"].customer_id == customer_ids[0]
    assert len(sqlite_bench.sandbox.customers()) == 6
    assert [rows[key].unsent for key in ("1", "2")] == [True, True]


BRIEF = dataclasses.replace(QUICK, timeout=0.5, settle=0.5, lease=0.75, concurrency=1, max_unknown_in_a_row=1)
"""Short leases, and a look-up after the first unknown outcome, while the other claims wait to be sent."""


def suspend_before_takeover(bench, listen, rows, sent):
    """Suspend the next run before its first takeover, while another run takes its rows over, sends some and dies.

    :param sent: the rows for which the other run creates a customer
    """
    suspended = []

    def suspend(point):
        if point != "before_takeover" or suspended:
            return
        suspended.append(point)
        ledger = bench.open()
        other = Claimant(ACCOUNT, uuid.uuid4().hex, "table people", 5.0, 5.0)
        claims = {str(row["id"]): f"{other.owner}.1" for row in rows}
        give_up_at = time.monotonic() + 10
        while ledger.take_over(other, f"{other.owner}.1").keys() != claims.keys():
            assert time.monotonic() < give_up_at, "the suspended run's leases do not lapse"
            time.sleep(0.05)
        ledger.record_absence(other, claims)
        commit(bench, sent, leave_behind(bench, rows))
        _, free_in = ledger.waiting(other, set())
        time.sleep(free_in + 0.1)

    listen(suspend)
    bench.sandbox.faults([{"kind": "lost_before", "method": "POST"}])
    return suspended


def test_a_suspended_run_looks_up_what_others_sent_for_its_lapsed_claims(sqlite_bench, listen):
    rows = people(2)
    suspended = suspend_before_takeover(sqlite_bench, listen, rows, sent=rows[1:])
    outcome = sqlite_bench.run(rows, BRIEF).ok()
    assert suspended
    assert len(sqlite_bench.sandbox.customers()) == 2
    sqlite_bench.check(rows, outcome)


@pytest.mark.parametrize("stopped", [False, True], ids=["and goes on", "and is told to stop"])
def test_a_suspended_run_whose_takeover_loses_its_answer_sends_nothing_under_its_old_claims(bench, listen, stopped):
    """The run owns the rows again, and another run has sent requests for them since it claimed them.

    Its renewal must not extend its first claims, and its end must not release them as unsent. If
    `RunState.new_claim_id` returns the owner, so that all claims of a run have the same name, the second case fails;
    the first fails if, besides, the look-up does not mark the rows that it takes over as lost.
    """
    rows, calls, terminate = people(3), [], []
    suspended = suspend_before_takeover(bench, listen, rows, sent=rows)

    class LosesTakeover(Ledger):
        """Commits the first takeover and loses the answer; takes over again only after a renewal."""

        def take_over(self, me, claim, clock=None):
            if "take_over" in calls:
                if "renew" not in calls:
                    raise LedgerUnavailable("the database is unavailable")
                return super().take_over(me, claim, clock)
            super().take_over(me, claim, clock)
            calls[:] = ["take_over"]
            if stopped:
                terminate[0]()
            raise LedgerUnavailable("the answer was lost")

        def renew(self, me, claims, clock=None):
            renewed = super().renew(me, claims, clock)
            calls.append("renew")
            return renewed

    outcome = bench.run(rows, BRIEF, ledger=LosesTakeover, on_start=terminate.append)
    assert suspended
    assert calls[:2] == ["take_over", "renew"]
    if stopped:
        assert isinstance(outcome.error, PayarcRunStopped)
        assert not any(row.unsent for row in bench.rows().values())
        outcome = bench.run(rows)
    bench.check(rows, outcome.ok())


def test_two_matching_customers_leave_only_their_record_undecided(sqlite_bench):
    rows = people(4, description=LONG)
    codes = leave_behind(sqlite_bench, rows[:1])
    assert codes == {}
    sqlite_bench.sandbox.seed([rows[0], rows[0]])
    outcome = sqlite_bench.run(rows)
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "1 record is left pending: 0: it may be " in str(outcome.error)
    assert "Record the right customer: python -m payarc_provider.ledger resolve" in str(outcome.error)
    assert outcome.counts["created"] == 3
    assert sqlite_bench.rows()["0"].state == "pending"
    again = sqlite_bench.run(rows, run_id="run 2")
    assert isinstance(again.error, PayarcRunStopped)
    assert len(sqlite_bench.sandbox.customers()) == 5, "an undecided record is never sent"


def test_equal_records_of_several_killed_runs_are_resolved_together(bench):
    rows = [{**row, "email": "same@example.com"} for row in people(6, description=LONG)]
    for share in (rows[:1], rows[1:3], rows[3:]):
        assert leave_behind(bench, share) == {}
        time.sleep(0.15)
    customer_ids = commit(bench, rows[:4], {})
    outcome = bench.run(rows).ok()
    assert len(bench.sandbox.customers()) == 6
    assert len(set(outcome.ids)) == 6
    assert set(customer_ids) < set(outcome.ids)


def test_customers_with_altered_values_are_recognized_once_a_response_has_shown_that_payarc_alters_them(
    sqlite_bench, caplog
):
    sqlite_bench.sandbox.settings(alter={"name": "upper"})
    rows = [*people(1, description="Donut shop"), *people(1, first=1, description=LONG)]
    codes = leave_behind(sqlite_bench, rows)
    assert set(codes) == {"0"}
    customer_ids = commit(sqlite_bench, rows, codes)
    first = sqlite_bench.run(rows)
    assert isinstance(first.error, PayarcRunStopped)
    assert re.search(r"it may be .* \(key 0\)", caplog.text), "its name contradicts its reference"
    time.sleep(2 * QUICK.settle)
    second = sqlite_bench.run([*rows, *people(1, first=2)], run_id="run 2")
    assert sqlite_bench.rows()["0"].customer_id == customer_ids[0], "it was found by its reference"
    assert isinstance(second.error, PayarcRunStopped), "the other may exist with altered values"
    assert len(sqlite_bench.sandbox.customers()) == 3


def test_customers_that_a_look_up_finds_for_a_dead_run_are_counted_apart(sqlite_bench):
    """They were created in that run, so this run's records are known, and its own are told from them in the log."""
    rows = people(3)
    commit(sqlite_bench, rows[:2], leave_behind(sqlite_bench, rows[:2]))
    outcome = sqlite_bench.run(rows[1:]).ok()
    assert outcome.statuses == {"known": 1, "created": 1}
    assert (outcome.counts["recorded_created"], outcome.counts["recorded_for_others"]) == (3, 2)


def test_a_run_says_which_other_run_it_waits_for_and_until_when(sqlite_bench, caplog):
    caplog.set_level(logging.INFO)
    rows = people(3)
    leave_behind(sqlite_bench, rows[:1])
    sqlite_bench.run(rows).ok()
    (line,) = [message for message in caplog.messages if message.startswith("Waiting for")]
    assert re.fullmatch(
        r"Waiting for 1 record claimed by another run \(dag\.task, run 0\), until \d\d:\d\d:\d\d UTC unless it renews "
        "its lease",
        line,
    )


def test_a_run_that_gives_up_waiting_names_the_other_run(sqlite_bench):
    rows = people(1)
    leave_behind(sqlite_bench, rows, lease=60)
    outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, held_patience=0.0))
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "1 record still claimed by other runs" in str(outcome.error)
    assert "Run again when those have ended (dag.task, run 0)" in str(outcome.error)


def test_a_customer_without_a_reference_is_not_taken_from_a_record_of_another_run(sqlite_bench):
    """The list hides the first record's own customer, and shows an equal one that another run has just created."""
    first, second = people(1), people(1, first=1, description=LONG)
    second[0]["email"] = first[0]["email"]
    codes = leave_behind(sqlite_bench, first)
    assert not leave_behind(sqlite_bench, second, lease=60)
    commit(sqlite_bench, first, codes)
    commit(sqlite_bench, second, {})
    sqlite_bench.sandbox.settings(list_only=1)
    time.sleep(0.7)
    outcome = sqlite_bench.run(first)
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "may belong to a record of another run" in str(outcome.error)
    sqlite_bench.sandbox.settings(list_only=None)
    time.sleep(QUICK.settle)
    assert sqlite_bench.run(first, run_id="run 2").ok().ids == [sqlite_bench.sandbox.customers()[0]["customer_id"]]
    assert len(sqlite_bench.sandbox.customers()) == 2


def test_parallel_runs_share_the_work_and_both_return_every_id(bench):
    bench.sandbox.settings(latency=0.01)
    rows = people(80)
    settings = Settings(timeout=2, settle=2, lease=3.2, batch_size=10, concurrency=4)
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(bench.run, given, settings, run_id=name) for given, name in ((rows, "a"), (rows[::-1], "b"))
        ]
        first, second = [future.result(WATCHDOG).ok() for future in futures]
    bench.check(rows, first)
    assert second.ids == first.ids[::-1]
    assert first.counts["created"] + second.counts["created"] == 80


def test_a_look_up_does_not_see_customers_of_another_merchant(sqlite_bench):
    codes = leave_behind(sqlite_bench, people(1))
    sqlite_bench.sandbox.seed([{**people(1)[0], "description": with_reference(None, codes["0"]), "merchant": "2"}])
    outcome = sqlite_bench.run(people(1), token=make_token("1")).ok()
    assert outcome.requests["POST"] == 1
    assert len(sqlite_bench.sandbox.customers("1")) == 1
