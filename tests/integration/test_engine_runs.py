"""Runs without faults: what they create, return and count; guards and dry runs."""

from __future__ import annotations

import dataclasses

import pytest
from engine_bench import ACCOUNT, LONG, QUICK, people

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.reference import reference
from payarc_provider.sync.results import Status


def test_each_record_becomes_one_customer_and_ids_are_in_input_order(bench):
    rows = people(60)[::-1]
    outcome = bench.run(rows).ok()
    bench.check(rows, outcome)
    assert outcome.requests == {"POST": 60, "GET": 1}
    assert outcome.statuses == {"created": 60}
    assert bench.states() == {"created": 60}
    assert bench.nothing_is_leased()


def test_a_second_run_sends_nothing_and_returns_the_same_ids(bench):
    rows = people(30)
    first = bench.run(rows).ok()
    again = bench.run(rows, run_id="run 2").ok()
    assert again.ids == first.ids
    assert again.requests == {}
    assert again.statuses == {"known": 30}
    assert len(bench.sandbox.customers()) == 30


def test_only_new_records_are_sent(bench):
    first = bench.run(people(20)).ok()
    rows = people(20, first=10)
    outcome = bench.run(rows, run_id="run 2").ok()
    assert outcome.requests["POST"] == 10
    assert outcome.ids[:10] == first.ids[10:]
    bench.check(people(30), bench.run(people(30)).ok())


def test_a_retry_reports_created_and_a_later_run_reports_known(bench):
    rows = people(3)
    bench.run(rows).ok()
    assert bench.run(rows).ok().statuses == {"created": 3}
    assert bench.run(rows, run_id="run 2").ok().statuses == {"known": 3}


def test_metrics_count_each_record_once_over_all_attempts(sqlite_bench):
    """A retry returns the same statuses as the first attempt, but has recorded nothing."""
    sqlite_bench.sandbox.settings(taken={"email": ["j0@example.com"]})
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "method": "POST"}, {"kind": "lost_before", "method": "POST"}])
    rows = [*people(8), {"id": "bad", "name": "Jo"}]
    first, retry = sqlite_bench.run(rows).ok(), sqlite_bench.run(rows).ok()
    assert first.recorded == {"created": 7, "rejected": 2, "unknown": 2}
    assert retry.statuses == {"created": 7}
    assert retry.recorded == {}
    third = sqlite_bench.run(rows, run_id="run 2").ok()
    assert third.recorded == {}
    assert (third.counts["known"], third.counts["known_rejected"]) == (7, 2)


def test_another_task_of_the_dag_run_knows_what_the_first_has_created(bench):
    """A repeated task reports its own customers again, and nobody reports those of another task."""
    rows = [*people(6), {"id": "bad", "name": "Jo"}]
    first = bench.run(rows[:4], task_id="first").ok()
    second = bench.run(rows, task_id="second").ok()
    repeated = bench.run(rows, task_id="first").ok()
    assert first.statuses == {"created": 4}
    assert second.statuses == {"known": 4, "created": 2}
    assert repeated.statuses == {"created": 4, "known": 2}
    assert (second.counts["rejected_new"], repeated.counts["rejected_new"]) == (1, 0)
    assert (repeated.counts["recorded_created"], repeated.counts["known_rejected"]) == (0, 1)
    for outcome in (first, second, repeated):
        summary = outcome.results.summary
        assert summary["records"] == sum(summary[name] for name in Status if name in summary) + summary["rejected"]


def test_adopted_customers_are_counted_as_adopted(sqlite_bench):
    sqlite_bench.sandbox.seed(people(2))
    settings = dataclasses.replace(QUICK, match_existing="email")
    assert sqlite_bench.run(people(3), settings).ok().recorded == {"adopted": 2, "created": 1}
    assert sqlite_bench.run(people(3), settings).ok().recorded == {}


def test_a_table_and_the_ledger_can_be_in_one_database(bench):
    name = bench.database.name("people")
    bench.database.execute(f"CREATE TABLE {name} (id INTEGER, name VARCHAR(50), email VARCHAR(50))")
    for row in people(25):
        bench.database.execute(f"INSERT INTO {name} VALUES ({row['id']}, '{row['name']}', '{row['email']}')")
    source = DatabaseSource(bench.database.engine(), ["id"], None, name="t", table_name=name, page_size=10)
    outcome = bench.run(source, dataclasses.replace(QUICK, batch_size=7)).ok()
    bench.check(people(25), outcome)


def test_a_key_is_the_same_as_a_number_and_as_a_string(bench):
    bench.run(people(5)).ok()
    texts = [{**row, "id": str(row["id"])} for row in people(5)]
    assert bench.run(texts, run_id="run 2").ok().requests == {}


def test_a_customers_description_contains_its_reference(sqlite_bench):
    rows = [*people(1), *people(1, first=1, description="Donut shop"), *people(1, first=2, description=LONG)]
    sqlite_bench.run(rows).ok()
    codes = [reference(sqlite_bench.ledger.ledger_id, ACCOUNT, str(number)) for number in range(3)]
    stored = {customer["email"]: customer["description"] for customer in sqlite_bench.sandbox.customers()}
    assert [stored[row["email"]] for row in rows] == [f"ref {codes[0]}", f"Donut shop {codes[1]}", LONG]
    assert {post["idempotency_key"] for post in sqlite_bench.sandbox.log()} == {f"{code}-1" for code in codes}


def test_references_can_be_turned_off(sqlite_bench):
    sqlite_bench.run(people(3), dataclasses.replace(QUICK, reference=False)).ok()
    assert {customer["description"] for customer in sqlite_bench.sandbox.customers()} == {None}


class CountingLedger(Ledger):
    """Notes how many records are looked up and claimed at a time."""

    looked_up: list[int]
    claimed: list[int]
    on_claim = staticmethod(lambda: None)

    def known(self, me, keys):
        self.looked_up.append(len(keys))
        return super().known(me, keys)

    def claim(self, me, claim, records, *others, **options):
        self.claimed.append(len(records))
        self.on_claim()
        return super().claim(me, claim, records, *others, **options)


@pytest.fixture
def counting():
    return type("Counting", (CountingLedger,), {"looked_up": [], "claimed": []})


def test_known_records_are_found_together_and_others_claimed_by_batch_size(sqlite_bench, counting):
    sqlite_bench.run(people(5)).ok()

    outcome = sqlite_bench.run(people(15), dataclasses.replace(QUICK, batch_size=4), run_id="run 2", ledger=counting)

    assert outcome.ok().statuses == {"known": 5, "created": 10}
    assert (counting.looked_up, counting.claimed) == ([15], [4, 4, 2])


def test_a_stopped_run_claims_no_further_part(sqlite_bench, counting):
    def stop_at_the_first_claim(terminate):
        counting.on_claim = staticmethod(terminate)

    settings = dataclasses.replace(QUICK, batch_size=4)
    stopped = sqlite_bench.run(people(15), settings, ledger=counting, on_start=stop_at_the_first_claim)

    assert isinstance(stopped.error, PayarcRunStopped)
    assert counting.claimed == [4]
    assert sqlite_bench.nothing_is_leased()
    assert sqlite_bench.run(people(15)).ok().statuses == {"created": 15}


def test_an_empty_input_succeeds_without_a_request(sqlite_bench):
    outcome = sqlite_bench.run([]).ok()
    assert (outcome.ids, outcome.requests) == ([], {})


@pytest.mark.parametrize("batch_size", [3, 500])
def test_max_new_stops_a_run_before_its_first_request(sqlite_bench, batch_size):
    rows = people(20)
    guarded = dataclasses.replace(QUICK, max_new=7, batch_size=batch_size)
    stopped = sqlite_bench.run(rows, guarded)
    assert isinstance(stopped.error, PayarcRunStopped)
    assert "max_new=7" in str(stopped.error)
    assert "20 customers" in str(stopped.error)
    assert sqlite_bench.sandbox.customers() == []
    assert sqlite_bench.states() == {}
    assert sqlite_bench.run(rows, dataclasses.replace(guarded, max_new=20)).ok().statuses == {"created": 20}


def test_max_new_counts_neither_known_nor_rejected_records(sqlite_bench):
    sqlite_bench.run(people(5)).ok()
    rows = [*people(8), {"id": "bad", "name": "Jo"}]
    outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, max_new=3), run_id="run 2").ok()
    assert outcome.statuses == {"known": 5, "created": 3}
    assert len(outcome.results.rejected()) == 1


def test_a_dry_run_counts_what_would_happen_and_changes_nothing(bench):
    bench.sandbox.settings(taken={"email": ["j1@example.com"]})
    bench.run(people(3)).ok()
    rows_before, posts_before = bench.database.rows(bench.table), len(bench.sandbox.log())
    rows = [*people(6), {"id": "bad", "name": "Jo"}]
    outcome = bench.run(rows, dataclasses.replace(QUICK, dry_run=True), run_id="run 2").ok()
    assert (outcome.counts["would_create"], outcome.counts["known"], outcome.counts["rejected"]) == (3, 2, 2)
    assert outcome.requests == {}
    assert bench.database.rows(bench.table) == rows_before
    assert len(bench.sandbox.log()) == posts_before
