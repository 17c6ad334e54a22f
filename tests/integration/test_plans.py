"""Plans and guards: a run sends what was approved or nothing, and a guard stops it before its first request."""

from __future__ import annotations

import dataclasses

import pytest
from engine_bench import QUICK, people

from payarc_provider.exceptions import PayarcGuardStopped, PayarcRunStopped
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.reference import without_reference
from payarc_provider.sync.sources import ListSource

UPDATE = dataclasses.replace(QUICK, on_changed="update")


class Rereadable(ListSource):
    """A source that has other rows each time it is read; the last ones stay."""

    def __init__(self, *readings):
        super().__init__(readings[0], "table people")
        self.left = list(readings)

    def pages(self):
        self._rows = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return super().pages()


def planned(bench, rows, settings=UPDATE):
    """The results of a dry run."""
    return bench.run(rows, dataclasses.replace(settings, dry_run=True), run_id="plan").ok().results


def approved(digest, settings=UPDATE, **changes):
    return dataclasses.replace(settings, approved_plan=digest, **changes)


def names(bench):
    return {customer["email"]: customer["name"] for customer in bench.sandbox.customers()}


def writes(bench):
    """The requests that the sandbox got, except GETs."""
    sent = bench.sandbox.stats()["requests"]
    return sum(count for name, count in sent.items() if not name.startswith("GET"))


def requests(bench):
    return sum(bench.sandbox.stats()["requests"].values())


@pytest.fixture
def mixed(sqlite_bench):
    """A known, a changed, a new and a wrong record."""
    sqlite_bench.run(people(4), UPDATE, run_id="before").ok()
    rows = people(6)
    rows[2] |= {"name": "Ana Park", "city": "Springfield"}
    rows[3]["phone"] = "2025550101"
    return [*rows, {"id": "bad", "name": "Jo", "zip": "x"}]


# ---- dry runs -------------------------------------------------------------------------------------------------------


def test_a_plan_names_each_action_and_the_fields(sqlite_bench, mixed):
    results = planned(sqlite_bench, mixed)
    assert results.plan == [
        {"key": "2", "action": "update", "fields": ["city", "name"]},
        {"key": "3", "action": "update", "fields": ["phone"]},
        {"key": "4", "action": "create", "fields": ["email", "name"]},
        {"key": "5", "action": "create", "fields": ["email", "name"]},
        {"key": "bad", "action": "reject", "fields": ["name", "zip"]},
    ]


def test_the_digest_depends_only_on_what_would_be_done(sqlite_bench, mixed):
    digest = planned(sqlite_bench, mixed).summary["plan"]
    small = dataclasses.replace(UPDATE, batch_size=2, keep_results=False)
    assert planned(sqlite_bench, mixed[::-1], small).summary["plan"] == digest
    assert planned(sqlite_bench, [mixed[0], *mixed]).summary["plan"] == digest, "repeated"
    without_known = [row for row in mixed if row["id"] not in (0, 1)]
    assert planned(sqlite_bench, without_known).summary["plan"] == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[4].update(name="Ana Parc"),
        lambda rows: rows[2].update(name="Ana Parc"),
        lambda rows: rows[2].update(zip="10469"),
        lambda rows: rows[0].update(city="Springfield"),
        lambda rows: rows[5].update(id=50),
        lambda rows: rows.pop(5),
        lambda rows: rows.extend(people(1, first=6)),
        lambda rows: rows[6].update(zip="10469"),
        lambda rows: rows[5].update(email="no address"),
    ],
    ids=["new", "changed", "one more field", "known", "key", "gone", "added", "rejected", "becomes rejected"],
)
def test_a_plan_of_other_data_is_refused_before_the_first_request(sqlite_bench, mixed, change):
    digest, before = planned(sqlite_bench, mixed).summary["plan"], requests(sqlite_bench)
    rows_before = sqlite_bench.rows()
    change(mixed)
    outcome = sqlite_bench.run(mixed, approved(digest))
    assert isinstance(outcome.error, PayarcGuardStopped)
    assert "approved_plan" in str(outcome.error)
    assert (requests(sqlite_bench), sqlite_bench.rows()) == (before, rows_before)
    assert planned(sqlite_bench, mixed).summary["plan"] != digest


def test_an_approved_plan_is_carried_out(sqlite_bench, mixed):
    results, before = planned(sqlite_bench, mixed), writes(sqlite_bench)
    outcome = sqlite_bench.run(mixed, approved(results.summary["plan"])).ok()
    assert outcome.statuses == {"known": 2, "updated": 2, "created": 2}
    assert writes(sqlite_bench) - before == 4
    expected = {row["email"]: row["name"] for row in mixed[:6]}
    assert names(sqlite_bench) == expected
    again = sqlite_bench.run(mixed, approved(results.summary["plan"])).ok()
    assert (again.requests, again.ids) == ({}, outcome.ids)
    assert sqlite_bench.run(mixed, approved(results.summary["plan"]), run_id="another").ok().requests == {}


def test_a_plan_made_before_there_is_a_ledger_can_be_approved(sqlite_bench):
    rows = people(3)
    dry_run = dataclasses.replace(UPDATE, dry_run=True)
    digest = sqlite_bench.run(rows, dry_run, ledger=None).ok().results.summary["plan"]
    assert sqlite_bench.run(rows, approved(digest)).ok().statuses == {"created": 3}


def test_a_plan_depends_on_how_changes_are_handled(sqlite_bench, mixed):
    digest = planned(sqlite_bench, mixed, QUICK).summary["plan"]
    assert isinstance(sqlite_bench.run(mixed, approved(digest)).error, PayarcGuardStopped)


def test_a_dry_run_counts_the_customers_that_would_be_created_without_an_email(sqlite_bench):
    sqlite_bench.run([{"id": 1, "name": "Known Person"}], UPDATE).ok()
    rows = [{"id": number, "name": "New Person"} for number in (1, 2, 3)] + people(2, first=10)
    rows += [{"id": 4, "name": "x"}]
    assert planned(sqlite_bench, rows).summary["without_email"] == 2


def test_a_dry_run_says_that_a_guard_would_stop_a_run(sqlite_bench, mixed):
    guarded = dataclasses.replace(UPDATE, max_new=1)
    results = planned(sqlite_bench, mixed, guarded)
    assert "max_new=1: this run would create 2 customers for 7 records" in str(results.refusal)
    assert len(results.plan) == 5
    assert planned(sqlite_bench, mixed).refusal is None


# ---- a source that changes between the two readings -----------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[4].update(name="Ana Parc"),
        lambda rows: rows[2].update(name="Ana Parc"),
        lambda rows: rows[0].update(city="Springfield"),
        lambda rows: rows.extend(people(1, first=6)),
    ],
    ids=["new", "changed", "known", "added"],
)
@pytest.mark.parametrize("batch_size", [1, 500])
def test_what_was_not_planned_is_not_sent(sqlite_bench, mixed, change, batch_size):
    digest, before = planned(sqlite_bench, mixed).summary["plan"], names(sqlite_bench)
    later = [dict(row) for row in mixed]
    change(later)
    stopped = sqlite_bench.run(Rereadable(mixed, later), approved(digest, batch_size=batch_size))
    assert isinstance(stopped.error, PayarcGuardStopped)
    assert "since the run began" in str(stopped.error)
    assert sqlite_bench.nothing_is_leased()
    allowed = {row["email"]: row["name"] for row in mixed[:6]}
    assert all(name in (before.get(email), allowed[email]) for email, name in names(sqlite_bench).items())
    assert all(
        customer["city"] != "Springfield" or customer["name"] == "Ana Park" for customer in customers(sqlite_bench)
    )


def customers(bench):
    return bench.sandbox.customers()


def test_a_planned_record_that_vanishes_fails_the_run(sqlite_bench, mixed):
    digest = planned(sqlite_bench, mixed).summary["plan"]
    stopped = sqlite_bench.run(Rereadable(mixed, [row for row in mixed if row["id"] != 5]), approved(digest))
    assert "1 record has changed or vanished" in str(stopped.error)
    assert len(customers(sqlite_bench)) == 5


def test_a_planned_record_that_becomes_invalid_fails_the_run(sqlite_bench, mixed):
    digest = planned(sqlite_bench, mixed).summary["plan"]
    later = [row | ({"email": "no address"} if row["id"] == 5 else {}) for row in mixed]
    assert isinstance(sqlite_bench.run(Rereadable(mixed, later), approved(digest)).error, PayarcGuardStopped)


def test_a_guard_holds_for_records_that_appear_later(sqlite_bench):
    guarded = dataclasses.replace(QUICK, max_new=12, batch_size=4)
    assert sqlite_bench.run(Rereadable(people(10), people(12)), guarded, run_id="a").ok().statuses == {"created": 12}
    stopped = sqlite_bench.run(Rereadable(people(10, first=20), people(40, first=20)), guarded, run_id="b")
    assert "max_new=12" in str(stopped.error)
    assert len(customers(sqlite_bench)) <= 24


def test_another_runs_customers_do_not_disturb_an_approved_run(sqlite_bench):
    """They are created between its two readings."""
    rows = people(6)
    digest = planned(sqlite_bench, rows).summary["plan"]
    source = Rereadable(rows, rows)
    pages = source.pages

    def create_some_first():
        if len(source.left) == 1:
            sqlite_bench.run(people(2), UPDATE, run_id="other").ok()
        return pages()

    source.pages = create_some_first
    assert sqlite_bench.run(source, approved(digest)).ok().statuses == {"known": 2, "created": 4}


# ---- retries --------------------------------------------------------------------------------------------------------


def stop_after(bench, requests, method="POST"):
    bench.sandbox.faults([{"kind": "unauthorized", "method": method, "skip": requests, "times": 1}])


SLOWLY = {"concurrency": 1, "batch_size": 3}


@pytest.mark.parametrize("run_id", ["run 1", "another run"])
def test_a_retry_continues_an_approved_plan(bench, run_id):
    bench.run(people(4), UPDATE, run_id="before").ok()
    rows = [row | {"name": "Ana Park", "zip": "10469"} for row in people(12)]
    digest = planned(bench, rows).summary["plan"]
    for method, count in (("PATCH", 2), ("POST", 3)):
        stop_after(bench, count, method)
        assert bench.run(rows, approved(digest, **SLOWLY)).error is not None
    assert 0 < sum(row["name"] == "Ana Park" for row in customers(bench)) < 12
    bench.run(rows, approved(digest, **SLOWLY), run_id=run_id).ok()
    assert {row["name"] for row in customers(bench)} == {"Ana Park"}
    assert len(customers(bench)) == 12


@pytest.mark.parametrize("number", [0, 3, 6, 11])
def test_a_retry_with_changed_data_is_refused(sqlite_bench, number):
    """Also if the record that changed is one that the first try has dealt with."""
    sqlite_bench.run(people(4), UPDATE, run_id="before").ok()
    rows = [row | {"name": "Ana Park"} for row in people(12)]
    digest = planned(sqlite_bench, rows).summary["plan"]
    stop_after(sqlite_bench, 5)
    assert sqlite_bench.run(rows, approved(digest, **SLOWLY)).error is not None
    before = requests(sqlite_bench)
    rows[number]["name"] = "Ana Parc"
    assert isinstance(sqlite_bench.run(rows, approved(digest)).error, PayarcGuardStopped)
    assert requests(sqlite_bench) == before


def test_lost_responses_are_looked_up_under_the_plan(bench):
    bench.run(people(2), UPDATE, run_id="before").ok()
    rows = [row | {"name": "Ana Park"} for row in people(8)]
    digest = planned(bench, rows).summary["plan"]
    bench.sandbox.faults(
        [
            {"kind": "lost_after", "every": 2},
            {"kind": "lost_before", "every": 3},
            {"kind": "lost_after", "method": "PATCH", "times": 1},
        ]
    )
    bench.run(rows, approved(digest)).ok()
    assert len(customers(bench)) == 8
    assert {customer["name"] for customer in customers(bench)} == {"Ana Park"}
    bench.check_posts()


@pytest.mark.parametrize("kind", ["lost_after", "lost_before"])
def test_rows_left_open_by_an_earlier_run_are_part_of_the_plan(bench, kind):
    """Their outcome is unknown when the plan is made: they count as to be created."""
    rows = people(6)
    once = dataclasses.replace(UPDATE, max_tries=1, concurrency=1, max_unknown_in_a_row=1, max_pauses=0)
    bench.sandbox.faults([{"kind": kind, "times": 1}])
    assert bench.run(rows[:2], once, run_id="dead").error is not None
    results = planned(bench, rows)
    assert bench.states()["pending"] >= 1
    assert [entry["action"] for entry in results.plan] == ["create"] * 6
    digest = results.summary["plan"]
    stop_after(bench, 2)
    assert bench.run(rows, approved(digest, **SLOWLY)).error is not None
    assert len(bench.run(rows, approved(digest)).ok().ids) == len(customers(bench)) == 6


def test_records_that_payarc_rejects_do_not_stop_a_retry(sqlite_bench):
    sqlite_bench.sandbox.settings(taken={"email": ["j1@example.com"]})
    rows = people(6)
    digest = planned(sqlite_bench, rows).summary["plan"]
    stop_after(sqlite_bench, 4)
    assert sqlite_bench.run(rows, approved(digest, **SLOWLY)).error is not None
    outcome = sqlite_bench.run(rows, approved(digest)).ok()
    assert (len(outcome.ids), len(outcome.results.rejected())) == (5, 1)
    again = sqlite_bench.run(rows, approved(digest, retry_rejected=True)).ok()
    assert again.requests["POST"] == 1


def test_adopted_customers_count_as_created(sqlite_bench):
    """PayArc is asked only when the plan is carried out; what differs is changed then."""
    settings = dataclasses.replace(UPDATE, match_existing="email", max_new=6, max_changed=0, **SLOWLY)
    sqlite_bench.sandbox.seed([row | {"name": "Old Name"} for row in people(3)])
    rows = people(6)
    digest = planned(sqlite_bench, rows, settings).summary["plan"]
    stop_after(sqlite_bench, 2, "PATCH")
    assert sqlite_bench.run(rows, approved(digest, settings)).error is not None
    sqlite_bench.run(rows, approved(digest, settings)).ok()
    assert len(customers(sqlite_bench)) == 6
    assert set(names(sqlite_bench).values()) == {"John Smith"}


def test_several_customers_with_the_records_email_do_not_stop_a_retry(sqlite_bench):
    settings = dataclasses.replace(UPDATE, match_existing="email", **SLOWLY)
    sqlite_bench.sandbox.seed([*people(1), *people(1)])
    rows = people(5)
    digest = planned(sqlite_bench, rows, settings).summary["plan"]
    stop_after(sqlite_bench, 2)
    assert sqlite_bench.run(rows, approved(digest, settings)).error is not None
    assert len(sqlite_bench.run(rows, approved(digest, settings)).ok().results.rejected()) == 1


def test_slices_of_a_deferred_run_carry_out_one_plan(sqlite_bench):
    rows = people(9)
    digest = planned(sqlite_bench, rows).summary["plan"]
    sqlite_bench.sandbox.settings(rate_limit=5, rate_window=1.0)
    settings = approved(digest, defer_after=0.05, max_new=9)
    outcomes = [sqlite_bench.run(rows, settings)]
    while isinstance(outcomes[-1].error, Deferral):
        outcomes.append(sqlite_bench.run(rows, settings))
    outcomes[-1].ok()
    assert len(outcomes) > 1
    assert len(customers(sqlite_bench)) == 9


# ---- guards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guard", "says"),
    [
        ({"min_records": 8}, "min_records=8: the source has 7 records, so nothing was sent"),
        ({"max_new": 1}, "max_new=1: this run would create 2 customers for 7 records, so nothing was sent"),
        ({"max_new": 0.25}, "max_new=0.25: this run would create 2 customers"),
        ({"max_changed": 1}, "max_changed=1: this run would change 2 customers"),
        ({"max_changed": 0.2}, "max_changed=0.2: this run would change 2 customers"),
        ({"on_changed": "report", "max_changed": 1}, "max_changed=1: this run would change 2 customers"),
    ],
)
def test_a_guard_stops_a_run_before_its_first_request(sqlite_bench, mixed, guard, says):
    before, rows_before = requests(sqlite_bench), sqlite_bench.rows()
    stopped = sqlite_bench.run(mixed, dataclasses.replace(UPDATE, **guard))
    assert isinstance(stopped.error, PayarcGuardStopped)
    assert says in str(stopped.error)
    assert (requests(sqlite_bench), sqlite_bench.rows()) == (before, rows_before)


def test_guards_at_their_limit_let_a_run_pass(sqlite_bench, mixed):
    guards = dataclasses.replace(UPDATE, min_records=7, max_new=2, max_changed=0.3)
    assert sqlite_bench.run(mixed, guards).ok().statuses == {"known": 2, "updated": 2, "created": 2}


def test_a_table_with_other_keys_costs_no_request(sqlite_bench):
    sqlite_bench.run(people(10), run_id="before").ok()
    before = requests(sqlite_bench)
    wrong = [row | {"id": f"x{row['id']}"} for row in people(10)]
    assert isinstance(sqlite_bench.run(wrong, dataclasses.replace(QUICK, max_new=0.5)).error, PayarcGuardStopped)
    assert requests(sqlite_bench) == before


def test_a_retry_counts_what_the_first_try_has_done(sqlite_bench):
    sqlite_bench.run(people(4), UPDATE, run_id="before").ok()
    rows = [row | {"name": "Ana Park"} for row in people(12)]
    guarded = dataclasses.replace(UPDATE, max_new=8, max_changed=4, **SLOWLY)
    stop_after(sqlite_bench, 5)
    assert sqlite_bench.run(rows, guarded).error is not None
    more = [*rows, *people(5, first=20)]
    stopped = sqlite_bench.run(more, guarded)
    assert "would create 13 customers for 17 records, 5 of them in an earlier try" in str(stopped.error)
    assert len(sqlite_bench.run(rows, guarded).ok().ids) == 12
    assert sqlite_bench.run(rows, guarded).ok().requests == {}
    none = dataclasses.replace(guarded, max_new=0, max_changed=0)
    assert sqlite_bench.run(rows, none, run_id="next day").ok().requests == {}


def test_without_guard_or_plan_the_source_is_read_once(sqlite_bench):
    source = Rereadable(people(3), people(5))
    assert len(sqlite_bench.run(source).ok().ids) == 3
    assert len(source.left) == 1
    assert all(row.plan is None for row in sqlite_bench.rows().values())


def test_a_stopped_planning_pass_ends_the_run(sqlite_bench):
    stopped = sqlite_bench.run(people(3), dataclasses.replace(QUICK, max_new=3), on_start=lambda terminate: terminate())
    assert isinstance(stopped.error, PayarcRunStopped)
    assert requests(sqlite_bench) == 0


def test_the_ledger_notes_no_values_with_the_plan(sqlite_bench, mixed):
    sqlite_bench.run(mixed, approved(planned(sqlite_bench, mixed).summary["plan"])).ok()
    marks = {key: (row.plan or "").partition(" ")[2] for key, row in sqlite_bench.rows().items()}
    assert marks == {
        "0": "",
        "1": "",
        "2": "update city,name",
        "3": "update phone",
        "4": "create",
        "5": "create",
        "bad": "create",
    }
    assert all(without_reference(customer["description"] or "") == "" for customer in customers(sqlite_bench))
