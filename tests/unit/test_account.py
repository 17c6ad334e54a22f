"""Whose rows: when a connection is the merchant that a ledger knows, and when nobody can tell."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa

from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcAuthError, PayarcConfigError, PayarcNotFound
from payarc_provider.sync.account import find_scope, new_scope
from payarc_provider.sync.ledger import EPOCH, Claimant, Ledger, Resolution
from payarc_provider.sync.records import RecordReader

MERCHANT = Identity("test", None, "17")


class Payarc:
    """Reads customers as one token sees them, and counts the reads."""

    def __init__(self, *visible):
        self.visible = set(visible)
        self.reads = []

    def __call__(self, customer_id):
        self.reads.append(customer_id)
        if customer_id not in self.visible:
            raise PayarcNotFound(status=404)
        return {"customer_id": customer_id}


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(sa.create_engine(f"sqlite:///{tmp_path}/ledger.db", hide_parameters=True))
    opened.open()
    yield opened
    opened.database.engine.dispose()


def claim(ledger, scope, key):
    me = Claimant(scope, f"owner of {key}"[:32], "table people", lease=60, settle=60)
    record = RecordReader("id", None, ledger.ledger_id).read(0, {"id": key, "name": "John Smith"})
    ledger.claim(me, [record], {}, EPOCH)
    return me


def create(ledger, scope, *customer_ids):
    for customer_id in customer_ids:
        me = claim(ledger, scope, f"key of {customer_id}")
        assert ledger.record(me, [Resolution(f"key of {customer_id}", customer_id=customer_id)]).keys


def test_a_first_use_has_its_own_scope_and_reads_nothing(ledger):
    payarc = Payarc()
    assert find_scope(ledger, MERCHANT, payarc) == "test/17"
    assert payarc.reads == []


def test_the_same_identity_keeps_its_scope_without_reading_anything(ledger):
    create(ledger, find_scope(ledger, MERCHANT, Payarc()), "c1")
    payarc = Payarc()
    assert find_scope(ledger, MERCHANT, payarc) == "test/17"
    assert payarc.reads == []


def test_a_named_account_is_its_own_scope(ledger):
    assert find_scope(ledger, Identity("live", "acme", "17"), Payarc()) == "live/acme"


def test_a_token_of_another_user_that_sees_a_known_customer_is_the_same_merchant(ledger):
    create(ledger, find_scope(ledger, MERCHANT, Payarc()), "c1", "c2")
    rotated = dataclasses.replace(MERCHANT, user="99")
    assert find_scope(ledger, rotated, Payarc("c1")) == "test/17"
    payarc = Payarc()
    assert find_scope(ledger, rotated, payarc) == "test/17", "this is remembered"
    assert payarc.reads == []


def test_a_token_of_another_user_that_sees_no_known_customer_is_another_merchant(ledger):
    create(ledger, find_scope(ledger, MERCHANT, Payarc()), "c1", "c2")
    other = dataclasses.replace(MERCHANT, user="99")
    assert find_scope(ledger, other, Payarc("x1")) == "test/99"
    assert find_scope(ledger, MERCHANT, Payarc()) == "test/17"


def test_proving_costs_at_most_three_reads_per_known_merchant(ledger):
    create(ledger, find_scope(ledger, MERCHANT, Payarc()), *(f"c{number}" for number in range(10)))
    payarc = Payarc()
    find_scope(ledger, dataclasses.replace(MERCHANT, user="99"), payarc)
    assert len(payarc.reads) == 3


def test_a_customer_that_was_deleted_at_payarc_does_not_hide_the_others(ledger):
    create(ledger, find_scope(ledger, MERCHANT, Payarc()), "c1", "c2")
    assert find_scope(ledger, dataclasses.replace(MERCHANT, user="99"), Payarc("c1")) == "test/17"
    assert find_scope(ledger, dataclasses.replace(MERCHANT, user="98"), Payarc("c2")) == "test/17"


def test_an_account_that_is_named_later_keeps_the_scope_once_a_known_customer_is_seen(ledger):
    create(ledger, find_scope(ledger, MERCHANT, Payarc()), "c1")
    named = dataclasses.replace(MERCHANT, account="acme")
    assert find_scope(ledger, named, Payarc("c1")) == "test/17"
    both_new = dataclasses.replace(named, user="99")
    assert find_scope(ledger, both_new, Payarc("c1")) == "test/17"


@pytest.mark.parametrize("claim_to_be_it", [{"account": "acme"}, {"account": "acme", "user": "99"}])
def test_who_claims_to_be_a_known_merchant_and_does_not_see_its_customers_is_stopped(ledger, claim_to_be_it):
    create(ledger, find_scope(ledger, dataclasses.replace(MERCHANT, account="acme"), Payarc()), "c1")
    impostor = Identity("test", None, "17") if claim_to_be_it == {"account": "acme"} else Identity("test", "acme", "99")
    with pytest.raises(PayarcConfigError, match=r"does not see the customers .* test/acme.*another account"):
        find_scope(ledger, impostor, Payarc("x1"))


def test_tokens_that_name_no_user_are_told_apart_by_a_hash_that_is_not_the_token():
    one, other = Identity.of("test", None, "opaque-one"), Identity.of("test", None, "opaque-other")
    assert one == Identity.of("test", None, "opaque-one")
    assert one != other
    assert "opaque-one" not in one.user


def test_an_opaque_token_that_is_rotated_keeps_its_merchant_by_a_known_customer(ledger):
    first = Identity.of("test", None, "opaque-one")
    create(ledger, find_scope(ledger, first, Payarc()), "c1")
    second = Identity.of("test", None, "opaque-other")
    assert find_scope(ledger, second, Payarc("c1")) == new_scope(first)
    assert find_scope(ledger, dataclasses.replace(second, user="token-x"), Payarc()) == "test/token-x"


def test_the_same_user_in_another_environment_or_on_another_host_is_another_scope(ledger):
    create(ledger, find_scope(ledger, MERCHANT, Payarc()), "c1")
    for place in ("live", "localhost:8765"):
        assert find_scope(ledger, Identity(place, None, "17"), Payarc("x1")) == f"{place}/17"


def test_where_requests_are_open_and_no_customer_can_be_compared_the_run_stops_with_the_remedy(ledger):
    claim(ledger, find_scope(ledger, MERCHANT, Payarc()), "k1")
    with pytest.raises(PayarcConfigError, match=r"cannot be told.*test/17.*finish that run.*account in the extra"):
        find_scope(ledger, dataclasses.replace(MERCHANT, user="99"), Payarc())
    with pytest.raises(PayarcConfigError, match="cannot be told"):
        find_scope(ledger, dataclasses.replace(MERCHANT, account="acme"), Payarc())


def test_the_remedy_of_naming_each_merchants_account_works(ledger):
    claim(ledger, find_scope(ledger, MERCHANT, Payarc()), "k1")
    assert find_scope(ledger, Identity("test", "other", "99"), Payarc()) == "test/other"


@pytest.mark.parametrize("later", [{"user": "99"}, {"account": "acme"}, {"user": "99", "account": "acme"}])
def test_an_identity_that_never_claimed_anything_stands_in_nobodys_way(ledger, later):
    """A first run with a wrong token must not lock out the right one."""
    find_scope(ledger, MERCHANT, Payarc())
    assert find_scope(ledger, dataclasses.replace(MERCHANT, **later), Payarc()) in ("test/17", "test/99", "test/acme")


def test_when_reading_fails_nothing_is_concluded_and_nothing_remembered(ledger):
    create(ledger, find_scope(ledger, MERCHANT, Payarc()), "c1")
    before = ledger.facts("")

    def refused(_customer_id):
        raise PayarcAuthError(status=401)

    with pytest.raises(PayarcAuthError):
        find_scope(ledger, dataclasses.replace(MERCHANT, user="99"), refused)
    assert ledger.facts("") == before


def test_a_dry_run_remembers_nothing(ledger):
    before = ledger.facts("")
    assert find_scope(ledger, MERCHANT, Payarc(), remember=False) == "test/17"
    assert ledger.facts("") == before


def test_an_account_name_that_the_ledger_cannot_hold_is_refused(ledger):
    with pytest.raises(PayarcConfigError, match=r"^account: has 205 characters"):
        find_scope(ledger, Identity("test", "a" * 200, "17"), Payarc())


def test_names_with_any_characters_are_told_apart(ledger):
    names = ['a"b', "a\\b", "a/b", "a b", "ü", "u\u0308", "'", "1", "null"]
    scopes = {find_scope(ledger, Identity("test", name, f"user {name}"), Payarc()) for name in names}
    assert len(scopes) == len(names)
