"""What a reading of PayArc's list proves about customers that it does not show."""

from __future__ import annotations

import datetime

import pytest

from payarc_provider.api.client import CustomerPage
from payarc_provider.sync.ledger import Control
from payarc_provider.sync.proof import ListProof

NOW = 1_800_000_000
SINCE = NOW - 100_000
CUSTOMERS = [{"customer_id": f"c{place}", "created_at": NOW - 60 * place} for place in range(150)]
CLAIMED = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)


def read(customers, *, controls=("c3",), newest=(), date=NOW, not_before=None, unreadable=()):
    proof = ListProof(SINCE, dict.fromkeys(controls, Control(CLAIMED, None)), newest, not_before)
    for number in range(1, -(-len(customers) // 100) + 1 or 2):
        part = customers[100 * (number - 1) : 100 * number]
        proof.see(CustomerPage(part, number, len(customers), 2, date, unreadable if number == 1 else ()))
    return proof


def without_zone(customer):
    moment = datetime.datetime.fromtimestamp(customer["created_at"], datetime.UTC)
    return customer | {"created_at": f"{moment:%Y-%m-%d %H:%M:%S}"}


def test_a_list_that_shows_what_must_be_there_proves_absence():
    for shown in (CUSTOMERS, [without_zone(customer) for customer in CUSTOMERS]):
        proof = read(shown, controls=("c3", "c120"), newest=("c149",), not_before=NOW - 2)
        assert proof.problem is None
        assert proof.missing() == []
        assert proof.reaches(CLAIMED, [])


@pytest.mark.parametrize("shape", [lambda customer: customer, without_zone])
@pytest.mark.parametrize("customers", [CUSTOMERS[::-1], CUSTOMERS[75:] + CUSTOMERS[:75]])
def test_a_list_that_is_not_newest_first_proves_nothing(customers, shape):
    assert "not newest first" in read([shape(customer) for customer in customers]).problem


def test_customers_that_new_ones_push_to_the_next_page_are_not_out_of_order():
    proof = ListProof(SINCE, {}, (), None)
    proof.see(CustomerPage(CUSTOMERS[:100], 1, 150, 2, NOW))
    proof.see(CustomerPage(CUSTOMERS[99:], 2, 151, 2, NOW))
    assert proof.problem is None


def test_a_list_without_a_known_customer_proves_nothing():
    assert read([]).missing() == ["c3"]
    assert read(CUSTOMERS[10:]).missing() == ["c3"]
    proof = read(CUSTOMERS, controls=())
    assert not proof.reaches(CLAIMED, [])
    assert proof.reaches(CLAIMED, [CLAIMED]), "the reading has found the customer of a row that was claimed as late"


def test_a_customer_claimed_earlier_proves_nothing_about_a_later_claim():
    proof = read(CUSTOMERS)
    assert not proof.reaches(CLAIMED + datetime.timedelta(seconds=1), [CLAIMED])


def test_only_the_whole_list_has_to_show_older_customers():
    older = [*CUSTOMERS, {"customer_id": "old", "created_at": SINCE - 1}]
    assert read(older, newest=("older",)).missing() == []
    assert read(CUSTOMERS, newest=("older",)).missing() == ["older"]


def test_times_that_run_ahead_or_behind_prove_nothing():
    ahead = [customer | {"created_at": customer["created_at"] + 18_000} for customer in CUSTOMERS]
    assert "do not agree" in read(ahead).problem
    behind = [customer | {"created_at": customer["created_at"] - 180_000} for customer in CUSTOMERS]
    assert read(behind).missing() == ["c3"], "the reading ends before it"


def test_an_old_copy_proves_nothing():
    assert "old copy" in read(CUSTOMERS, not_before=NOW + 1).problem
    assert read(CUSTOMERS, date=None, not_before=NOW + 1).problem is None


def test_an_entry_without_an_id_may_be_any_customer_unless_it_is_too_old():
    older = [*CUSTOMERS[:50], {"customer_id": "old", "created_at": SINCE - 1}]
    assert "without an id" in read(older, unreadable=(50,)).problem
    assert read(older, unreadable=(51,)).problem is None
    assert "without an id" in read(CUSTOMERS[:50], unreadable=(50,)).problem
