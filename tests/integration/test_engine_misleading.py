"""PayArc's list misleads, or PayArc alters or merges customers: a run stops or rejects, and creates nobody twice."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine_bench import ACCOUNT, QUICK, people

from payarc_provider.exceptions import PayarcAuthError, PayarcError, PayarcRunStopped
from payarc_provider.sync.ledger import Ledger, LedgerUnavailable
from payarc_provider.sync.reference import reference

MISLEADING = {
    "empty": {"list_only": 0},
    "cut short": {"list_only": 5},
    "late": {"list_lag": 60},
    "oldest first": {"list_order": "oldest"},
    "random": {"list_order": "random"},
    "times behind": {"list_shift": -18_000},
    "times ahead": {"list_shift": 18_000},
}
LOST = [{"kind": "lost_after", "every": 7}, {"kind": "lost_before", "every": 5}]


@pytest.mark.parametrize("references", [True, False])
@pytest.mark.parametrize("how", MISLEADING)
def test_a_misleading_list_stops_the_run_before_anything_is_sent_twice(sqlite_bench, how, references):
    rows = people(40)
    settings = dataclasses.replace(QUICK, reference=references, concurrency=4)
    sqlite_bench.sandbox.settings(**MISLEADING[how])
    sqlite_bench.sandbox.faults(LOST)
    outcome = sqlite_bench.run(rows, settings)
    customers = sqlite_bench.sandbox.customers()
    assert len({customer["email"] for customer in customers}) == len(customers), "nobody was created twice"
    if outcome.error is not None:
        assert isinstance(outcome.error, PayarcError)
    sqlite_bench.sandbox.settings(list_only=None, list_lag=0, list_order="newest", list_shift=0)
    sqlite_bench.sandbox.faults([])
    rows.append({"id": "later", "name": "Later Person", "email": "later@example.com"})
    sqlite_bench.check(rows, sqlite_bench.run(rows, settings, run_id="run 2").ok())


@pytest.mark.parametrize("shown", ["null", "no_id"])
def test_an_entry_without_an_id_leaves_open_only_what_it_may_be(sqlite_bench, shown):
    rows = people(20)
    sqlite_bench.sandbox.seed([{"name": "Somebody Else", "created_at": time.time() + 60}])  # at the top of the list
    sqlite_bench.sandbox.settings(list_seeded=shown)
    sqlite_bench.sandbox.faults(LOST)
    outcome = sqlite_bench.run(rows)
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "without an id" in str(outcome.error)
    assert sqlite_bench.states()["created"] == len(sqlite_bench.sandbox.customers()) - 1, "what is listed is recorded"
    sqlite_bench.sandbox.settings(list_seeded="shown")
    sqlite_bench.sandbox.faults([])
    sqlite_bench.run([*rows, {"id": "later", "name": "Later Person", "email": "later@example.com"}]).ok()
    assert len(sqlite_bench.sandbox.customers()) == 22
    sqlite_bench.check_posts()


@pytest.mark.parametrize("times", ["missing", "unreadable"])
def test_a_long_list_without_times_can_be_read(sqlite_bench, times):
    rows = people(140)
    sqlite_bench.sandbox.settings(list_times=times)
    sqlite_bench.sandbox.faults(LOST)
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


def test_a_lone_lost_record_is_sent_once_more_and_not_for_ever(sqlite_bench):
    rows = people(1)
    sqlite_bench.sandbox.faults([{"kind": "lost_before", "times": 1}])
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("references", [True, False])
def test_a_record_that_payarc_merges_with_another_is_rejected_and_the_others_have_their_ids(
    sqlite_bench, references, equal
):
    rows = people(6)
    rows[4] = {"id": 4, "name": rows[1]["name"] if equal else "Ann Other", "email": rows[1]["email"]}
    sqlite_bench.sandbox.settings(shared_email="merged")
    settings = dataclasses.replace(QUICK, reference=references, concurrency=1, max_tries=2)
    outcome = sqlite_bench.run(rows, settings)
    assert outcome.error is None
    assert outcome.counts["rejected"] == 1
    assert outcome.counts["created"] == 5
    [errors] = [row.errors for row in sqlite_bench.rows().values() if row.state == "rejected"]
    assert "one customer per email" in errors["email"][0]


def test_a_customer_with_the_reference_of_another_key_is_not_recorded_for_this_one(sqlite_bench):
    """The response to the first request is lost, and PayArc answers the second one with the first one's customer."""
    rows = people(3)
    rows[1]["email"] = rows[0]["email"]
    sqlite_bench.sandbox.settings(shared_email="merged")
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "times": 1}])
    outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, concurrency=1))
    assert outcome.error is None
    found = {row.key: (row.state, row.customer_id) for row in sqlite_bench.rows().values()}
    first, last = sorted(sqlite_bench.sandbox.customers(), key=lambda customer: customer["email"] != rows[0]["email"])
    assert found == {
        "0": ("created", first["customer_id"]),
        "1": ("rejected", None),
        "2": ("created", last["customer_id"]),
    }
    assert " of 0)" in sqlite_bench.rows()["1"].errors["email"][0]


@pytest.mark.parametrize("max_tries", [1, 3])
def test_an_equal_record_whose_customer_another_row_got_is_not_taken_for_a_merged_one(sqlite_bench, listen, max_tries):
    first, second = people(2, email="same@example.com")
    settings = dataclasses.replace(QUICK, reference=False, max_tries=max_tries)
    sqlite_bench.sandbox.faults([{"kind": "lost_before"}, {"kind": "unauthorized", "method": "GET", "skip": 1}])
    assert isinstance(sqlite_bench.run([first], settings).error, PayarcAuthError), "it cannot look up its record"
    sqlite_bench.sandbox.clear_faults()

    def let_another_run_look_up_the_first(checkpoint):
        if checkpoint == "after_response":
            listen(None)
            with ThreadPoolExecutor(1) as other:
                other.submit(sqlite_bench.run, [first], settings, run_id="run 2").result().ok()

    listen(let_another_run_look_up_the_first)
    outcome = sqlite_bench.run([second], settings, run_id="run 3")
    assert outcome.counts["rejected"] == 0
    assert outcome.counts["created"] == (max_tries > 1), "else it is left pending"
    ids = sqlite_bench.run([first, second], settings, run_id="run 4").ok().ids
    assert len(set(ids)) == len(sqlite_bench.sandbox.customers()) == 2


# ---- damaged references ---------------------------------------------------------------------------------------------

DESCRIPTIONS = {
    "short": None,
    "long": "A customer of the donut shop",
    "without room": "A description that leaves no room for more",
}


@pytest.mark.parametrize("description", DESCRIPTIONS)
@pytest.mark.parametrize("how", ["cut", "append", "drop", "alphanumeric", "upper", "trim"])
def test_a_damaged_description_makes_no_duplicate(sqlite_bench, how, description):
    rows = people(30, **{"description": text} if (text := DESCRIPTIONS[description]) else {})
    sqlite_bench.sandbox.settings(alter={"description": how})
    sqlite_bench.sandbox.faults(LOST)
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


def test_damage_to_long_descriptions_only_makes_no_duplicate(sqlite_bench):
    """The short descriptions show intact references, which proves nothing about the long ones."""
    rows = people(30)
    for row in rows[::3]:
        row["description"] = "A customer of the donut shop"
    sqlite_bench.sandbox.settings(alter={"description": "cut"})
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "every": 3}, *LOST])
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


def test_a_customer_whose_reference_is_damaged_is_not_recognized_by_a_name_alone(sqlite_bench):
    rows = [{"id": number, "name": f"Jane Smith {number}"} for number in range(12)]
    sqlite_bench.sandbox.settings(alter={"description": "drop"})
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "every": 4}])
    outcome = sqlite_bench.run(rows)
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "3 records are left pending" in str(outcome.error)
    assert len(sqlite_bench.sandbox.customers()) == 12


def test_the_first_damaged_reference_of_all_makes_no_duplicate(sqlite_bench):
    """Every response is lost, so that only the list shows what PayArc does to descriptions."""
    rows = people(4)
    sqlite_bench.sandbox.settings(alter={"description": "append"})
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "every": 1}])
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


def test_altered_values_and_damaged_references_leave_the_record_to_a_person(sqlite_bench):
    rows = people(4)
    sqlite_bench.sandbox.settings(alter={"description": "append", "name": "upper"})
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "every": 1}])
    outcome = sqlite_bench.run(rows)
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "it may be " in str(outcome.error)
    assert len(sqlite_bench.sandbox.customers()) == 4


@pytest.mark.parametrize("references", [True, False])
@pytest.mark.parametrize(("field", "how"), [("phone", "drop"), ("name", "title")])
def test_the_first_altered_value_of_all_makes_no_duplicate(sqlite_bench, field, how, references):
    """Nothing is altered in the customers whose responses arrive. They may still show that references are damaged."""
    rows = people(6)
    rows[2] |= {"name": "JANE DOE", "email": "Jane.Doe@Example.com", "phone": "+1-212-555-0142"}
    sqlite_bench.sandbox.settings(alter={"description": "drop", field: how})
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "times": 1, "match": {"name": "JANE DOE"}}])
    settings = dataclasses.replace(QUICK, reference=references, concurrency=1)
    outcome = sqlite_bench.run(rows, settings)
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "1 record is left pending: 2: it may be the customer" in str(outcome.error)
    assert len(sqlite_bench.sandbox.customers()) == 6


@pytest.mark.parametrize("references", [True, False])
def test_a_namesake_leaves_no_record_open(sqlite_bench, references):
    rows = people(4)
    sqlite_bench.sandbox.seed([{"name": rows[1]["name"], "email": "namesake@example.com"}])
    sqlite_bench.sandbox.settings(alter={"description": "drop"})
    sqlite_bench.sandbox.faults([{"kind": "lost_before", "times": 1, "match": {"email": rows[1]["email"]}}])
    settings = dataclasses.replace(QUICK, reference=references, concurrency=1)
    sqlite_bench.run(rows, settings).ok()
    assert len(sqlite_bench.sandbox.customers()) == 5


def test_what_payarc_alters_is_noted_before_a_customer_that_shows_it_is_recorded(sqlite_bench):
    """Otherwise a run that is killed in between leaves a customer that can check the list, and not what it showed."""
    sqlite_bench.sandbox.settings(alter={"name": "upper"})
    done = []

    class UnreliableLedger(Ledger):
        def note_alterations(self, account, seen):
            done.append("noting")
            if len(done) < 3:
                time.sleep(0.1)
                raise LedgerUnavailable("not now")
            super().note_alterations(account, seen)
            done.append("noted")

        def record(self, *args, **options):
            done.append("recorded")
            return super().record(*args, **options)

    rows = people(8)
    settings = dataclasses.replace(QUICK, concurrency=8)
    sqlite_bench.check(rows, sqlite_bench.run(rows, settings, ledger=UnreliableLedger).ok())
    assert done.index("noted") < done.index("recorded")


def test_what_another_run_learns_while_the_list_is_read_makes_no_duplicate(sqlite_bench):
    lost, control = people(2)
    sqlite_bench.sandbox.settings(alter={"description": "append", "name": "upper"})
    sqlite_bench.sandbox.faults([{"kind": "lost_after"}, {"kind": "unauthorized", "method": "GET", "skip": 1}])
    assert isinstance(sqlite_bench.run([lost]).error, PayarcAuthError), "it cannot look up its record"
    sqlite_bench.sandbox.clear_faults()
    others = [control]

    class LedgerWithAnotherRun(Ledger):
        def alterations(self, account):
            known = super().alterations(account)
            while others:
                sqlite_bench.run([others.pop()], run_id="run 2")
            return known

    sqlite_bench.run([lost], run_id="run 3", ledger=LedgerWithAnotherRun)
    assert len(sqlite_bench.sandbox.customers()) == 2


def test_a_description_that_ends_in_the_reference_of_another_record_confuses_nobody(sqlite_bench):
    """The second record has no room for a reference of its own, and its customer seems to be the first record's."""
    code = reference(sqlite_bench.open().ledger_id, ACCOUNT, "0")
    rows = people(2)
    rows[1] |= {"name": "Jane Doe", "description": f"{'x' * (49 - len(code))} {code}"}
    sqlite_bench.sandbox.faults(
        [
            {"kind": "lost_before", "times": 1, "match": {"email": rows[0]["email"]}},
            {"kind": "lost_after", "times": 1, "match": {"email": rows[1]["email"]}},
        ]
    )
    outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, concurrency=1))
    sqlite_bench.check(rows, outcome.ok())


def test_a_customer_that_payarc_had_before_and_merges_is_adopted(sqlite_bench):
    rows = people(6)
    old = {"name": "Known Before", "email": rows[2]["email"], "created_at": time.time() - 86_400}
    [known] = sqlite_bench.sandbox.seed([old])
    sqlite_bench.sandbox.settings(shared_email="merged")
    outcome = sqlite_bench.run(rows).ok()
    assert outcome.ids[2] == known["customer_id"]
    assert (outcome.counts["created"], outcome.counts["adopted"]) == (5, 1)
    assert len(sqlite_bench.sandbox.customers()) == 6
    ledger = sqlite_bench.open()
    assert not any(ledger.alterations(ACCOUNT)), "the old customer says nothing about what PayArc alters"
