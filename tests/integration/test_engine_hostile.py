"""Runs over records and answers of any shape: nobody is lost, nobody is created twice, and no run is aborted."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import pytest
from engine_bench import QUICK, people

CARD = "4111 1111 1111 1111"


def recursive():
    value: list[object] = []
    value.append(value)
    return value


def nested():
    value: object = "x"
    for _ in range(50_000):
        value = {"a": value}
    return value


HOSTILE = [
    10**100_000, Decimal("1E+999999"), float("nan"), b"\xff", "\ud800", "a\x00b", recursive(), nested(),
    "e\u0301" * 50_000, CARD, {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("column", ["id", "name"])
def test_each_hostile_value_is_one_rejected_record_and_all_others_are_created(sqlite_bench, column):
    hostile = [{"id": 1000 + number, "name": "John Smith", column: value} for number, value in enumerate(HOSTILE)]
    rows = [*people(2), *hostile, *people(2, first=2), None, 7, "text"]
    outcome = sqlite_bench.run(rows).ok()
    assert len(outcome.ids) == len(sqlite_bench.sandbox.customers()) == 4
    assert outcome.counts["rejected"] == len(HOSTILE) + 3
    assert "4111" not in str(outcome.results.summary)
    again = sqlite_bench.run(rows, run_id="run 2").ok()
    assert again.requests == {}
    assert (again.ids, again.counts["rejected"]) == (outcome.ids, outcome.counts["rejected"])


ANSWERS = [
    '{"data": {"customer_id": 110}}',
    '{"data": {"customer_id": "../charges"}}',
    '{"data": {"customer_id": "' + "9" * 4000 + '"}}',
    '{"data": {"customer_id": ' + "9" * 4000 + "}}",
    '{"data": {"customer_id": ' + "9" * 5000 + "}}",
    '{"data": {"customer_id": "a\\u0000b"}}',
    '{"data": {"customer_id": ["x"], "id": true}}',
    '{"data": {"customer_id": ""}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("body", ANSWERS, ids=lambda body: body[:40])
def test_an_answer_without_a_usable_id_is_looked_up_and_the_customer_found(sqlite_bench, body):
    sqlite_bench.sandbox.faults([{"kind": "garbage_after", "status": 201, "body": body}])
    outcome = sqlite_bench.run(people(3)).ok()
    assert len(set(outcome.ids)) == len(sqlite_bench.sandbox.customers()) == 3
    assert outcome.counts["unknown"] == 1
    assert outcome.requests["POST"] == 3


def test_a_lookup_reads_past_customers_of_any_shape(sqlite_bench):
    odd = {"name": "\ud800", "email": "e" + "\u0301" * 50_000, "description": "x" * 100_000, "city": "a\x00b"}
    sqlite_bench.sandbox.seed([odd] * 3)
    sqlite_bench.sandbox.faults([{"kind": "lost_after"}])
    outcome = sqlite_bench.run(people(3), dataclasses.replace(QUICK, match_existing="email")).ok()
    assert len(set(outcome.ids)) == 3
    assert len(sqlite_bench.sandbox.customers()) == 6


def test_local_rules_can_be_left_to_payarc(sqlite_bench):
    rows = [*people(1), {"id": 7, "name": "Ana Park", "zip": "K1A 0B1"}, {"id": 8, "name": "Ana Park", "zip": CARD}]
    outcome = sqlite_bench.run(rows).ok()
    assert (outcome.requests["POST"], outcome.counts["rejected"]) == (1, 2)
    trusting = dataclasses.replace(QUICK, validation="payarc")
    outcome = sqlite_bench.run(rows, trusting, run_id="run 2").ok()
    assert outcome.requests["POST"] == 1, "PayArc alone decides about the letters, and never sees the card number"
    assert [one["key"] for one in outcome.results.rejected()] == ["7", "8"]
    assert "The zip" in str(outcome.results.rejected()[0])


def test_a_bare_message_from_payarc_is_a_rejection_and_a_gateways_is_looked_up(sqlite_bench):
    quota = {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "29"}
    body = '{"message": "The email is invalid."}'
    sqlite_bench.sandbox.faults([{"kind": "foreign_before", "status": 422, "body": body, "headers": quota}])
    outcome = sqlite_bench.run(people(1)).ok()
    assert (outcome.counts["rejected"], outcome.counts["unknown"]) == (1, 0)
    sqlite_bench.sandbox.faults([{"kind": "foreign_after", "status": 422, "body": body}])
    outcome = sqlite_bench.run(people(1, first=1)).ok()
    assert (outcome.counts["rejected"], outcome.counts["unknown"], len(outcome.ids)) == (0, 1, 1)
    assert len(sqlite_bench.sandbox.customers()) == 1
