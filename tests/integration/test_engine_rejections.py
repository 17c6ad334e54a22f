"""Records that PayArc or the package rejects, and keys that appear twice."""

from __future__ import annotations

import dataclasses

import pytest
from engine_bench import QUICK, people

from payarc_provider.sync import runner


def test_a_rejection_is_reported_by_field_and_repeated_without_a_request(bench):
    rows = people(6)
    bench.sandbox.settings(taken={"email": ["j2@example.com", "j4@example.com"]})
    outcome = bench.run(rows).ok()
    rejected = [{"key": key, "errors": {"email": ["The email has already been taken."]}} for key in ("2", "4")]
    assert outcome.results.rejected() == rejected
    assert len(outcome.ids) == len(bench.sandbox.customers()) == 4
    again = bench.run(rows, run_id="run 2").ok()
    assert again.results.rejected() == rejected
    assert again.requests == {}
    assert (outcome.counts["rejected_new"], again.counts["rejected_new"]) == (2, 0)


def test_a_rejection_is_still_new_in_a_retry(sqlite_bench):
    sqlite_bench.sandbox.settings(taken={"email": ["j0@example.com"]})
    rows = [*people(1), {"id": "bad", "name": "Jo"}]
    assert sqlite_bench.run(rows).ok().counts["rejected_new"] == 2
    assert sqlite_bench.run(rows).ok().counts["rejected_new"] == 2
    assert sqlite_bench.run(rows, run_id="run 2").ok().counts["rejected_new"] == 0


@pytest.mark.parametrize("envelope", ["422", "409-message", "409-list"])
def test_every_form_of_payarcs_rejections_is_recognized(sqlite_bench, envelope):
    sqlite_bench.sandbox.settings(envelope=envelope, taken={"email": ["j1@example.com"]})
    outcome = sqlite_bench.run(people(3)).ok()
    ((rejected,),) = [outcome.results.rejected()]
    assert rejected["key"] == "1"
    assert "already been taken" in str(rejected["errors"])
    assert outcome.counts["unknown"] == 0


def test_a_rejected_record_is_sent_again_if_it_has_changed_or_on_request(sqlite_bench):
    sqlite_bench.sandbox.settings(taken={"email": ["j0@example.com"]})
    sqlite_bench.run(people(1)).ok()
    changed = sqlite_bench.run([{"id": 0, "name": "John Smith", "email": "other@example.com"}]).ok()
    assert len(changed.ids) == 1

    sqlite_bench.run([{"id": 9, "name": "John Smith", "email": "j0@example.com"}]).ok()
    sqlite_bench.sandbox.settings(taken={})
    same = [{"id": 9, "name": "John Smith", "email": "j0@example.com"}]
    assert sqlite_bench.run(same).ok().requests == {}
    assert len(sqlite_bench.run(same, dataclasses.replace(QUICK, retry_rejected=True)).ok().ids) == 1


def test_records_that_break_the_rules_cost_no_request(sqlite_bench):
    rows = people(5)
    rows[2] = {"id": 2, "name": "Jo", "phone": "12345678901234"}
    rows.append({"name": "No Key"})
    rows.append({"id": 7.5, "name": "Float Key"})
    outcome = sqlite_bench.run(rows).ok()
    assert [(one["key"], list(one["errors"])) for one in outcome.results.rejected()] == [
        ("2", ["name", "phone"]),
        (None, ["id"]),
        (None, ["id"]),
    ]
    assert outcome.requests["POST"] == len(outcome.ids) == 4
    assert sqlite_bench.states() == {"created": 4, "rejected": 1}, "records without a key are not stored"


def test_a_key_of_another_source_with_different_data_is_rejected(bench):
    bench.run([{"id": 42, "name": "John Smith"}], source="table a").ok()
    same = bench.run([{"id": 42, "name": "John Smith"}], source="table b", run_id="run 2").ok()
    assert same.statuses == {"known": 1}
    other = bench.run([{"id": 42, "name": "Mary Jones"}], source="table b", run_id="run 2").ok()
    (rejected,) = other.results.rejected()
    assert (rejected["key"], other.ids) == ("42", [])
    assert "table a" in str(rejected["errors"])
    assert "ledger_table" in str(rejected["errors"])
    assert len(bench.sandbox.customers()) == 1


def test_changed_data_of_the_same_source_keeps_the_id_and_is_marked(sqlite_bench):
    first = sqlite_bench.run(people(3)).ok()
    rows = people(3)
    rows[1]["name"] = "Mary Jones"
    outcome = sqlite_bench.run(rows, run_id="run 2").ok()
    assert outcome.ids == first.ids
    assert [one["changed"] for one in outcome.results.customers()] == [False, True, False]
    assert outcome.counts["changed"] == 1


def test_a_record_repeated_in_a_batch_counts_once(sqlite_bench):
    outcome = sqlite_bench.run([*people(3), *people(3)]).ok()
    assert len(outcome.ids) == len(sqlite_bench.sandbox.customers()) == 3
    assert outcome.end.repeated == 3


def test_a_key_repeated_with_different_data_in_a_batch_is_rejected(sqlite_bench):
    rows = [*people(2), {"id": 0, "name": "Mary Jones"}]
    outcome = sqlite_bench.run(rows).ok()
    (rejected,) = outcome.results.rejected()
    assert rejected["key"] == "0"
    assert "same key" in rejected["errors"]["id"][0]
    sqlite_bench.check(people(2), outcome)
    assert sqlite_bench.states() == {"created": 2}, "the first record's row is unchanged"


def test_an_equal_record_in_another_batch_counts_once(bench, monkeypatch):
    monkeypatch.setattr(runner, "PAGE", 2)
    outcome = bench.run([*people(4), *people(4)]).ok()
    assert len(outcome.ids) == len(bench.sandbox.customers()) == 4


def test_a_repeated_key_is_rejected_also_if_its_first_record_was(sqlite_bench, monkeypatch):
    """Otherwise it would depend on PayArc's answer which of two people gets the key."""
    monkeypatch.setattr(runner, "PAGE", 2)
    sqlite_bench.sandbox.settings(taken={"email": ["j0@example.com"]})
    rows = [*people(1), {"id": "bad", "name": "Jo"}, {"id": 0, "name": "Mary Jones"}, {"id": "bad", "name": "Joe"}]
    outcome = sqlite_bench.run(rows).ok()
    assert sqlite_bench.sandbox.customers() == []
    assert [one["key"] for one in outcome.results.rejected()] == ["0", "bad", "0", "bad"]


@pytest.mark.parametrize("size", [7, 500])
def test_different_records_with_one_key_are_rejected_wherever_they_stand(sqlite_bench, size, monkeypatch):
    """A later record never gets the customer of an earlier one, and nobody is lost without a word."""
    monkeypatch.setattr(runner, "PAGE", size)
    rows = [{"id": number % 50, "name": f"Person {number}", "email": f"p{number}@example.com"} for number in range(120)]
    rows += rows[:30]
    outcome = sqlite_bench.run(rows).ok()
    assert len(outcome.ids) == len(set(outcome.ids)) == 50
    assert outcome.counts["rejected"] == 70
    again = sqlite_bench.run(rows, run_id="run 2").ok()
    assert (again.ids, again.counts["rejected"]) == (outcome.ids, 70)
    assert len(sqlite_bench.sandbox.customers()) == 50
