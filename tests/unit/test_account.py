"""The account of a connection: a merchant the ledger knows, a new one, or an error if that is unclear."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa

from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcAuthError, PayarcConfigError, PayarcNotFound
from payarc_provider.sync.account import find_account, new_account
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


def claim(ledger, account, key):
    me = Claimant(account, f"owner of {key}"[:32], "table people", lease=60, settle=60)
    record = RecordReader("id", None, ledger.ledger_id).read(0, {"id": key, "name": "John Smith"})
    ledger.claim(me, "claim", [record], {}, EPOCH)
    return me


def create(ledger, account, *customer_ids):
    for customer_id in customer_ids:
        me = claim(ledger, account, f"key of {customer_id}")
        assert ledger.record(me, [Resolution(f"key of {customer_id}", "claim", customer_id=customer_id)]).keys


def test_the_first_merchant_gets_an_account_without_reading_anything(ledger):
    payarc = Payarc()
    assert find_account(ledger, MERCHANT, payarc) == "test/17"
    assert payarc.reads == []


def test_the_same_identity_keeps_its_account_without_reading_anything(ledger):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1")
    payarc = Payarc()
    assert find_account(ledger, MERCHANT, payarc) == "test/17"
    assert payarc.reads == []


def test_the_connections_account_names_the_account(ledger):
    assert find_account(ledger, Identity("live", "acme", "17"), Payarc()) == "live/acme"


def test_a_token_of_another_user_that_sees_a_known_customer_is_the_same_merchant(ledger):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1", "c2")
    rotated = dataclasses.replace(MERCHANT, user="99")
    assert find_account(ledger, rotated, Payarc("c1")) == "test/17"
    payarc = Payarc()
    assert find_account(ledger, rotated, payarc) == "test/17", "the proof is remembered"
    assert payarc.reads == []


def test_a_token_of_another_user_that_sees_no_known_customer_is_another_merchant(ledger):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1", "c2")
    other = dataclasses.replace(MERCHANT, user="99")
    assert find_account(ledger, other, Payarc("x1")) == "test/99"
    assert find_account(ledger, MERCHANT, Payarc()) == "test/17"


def test_a_proof_costs_at_most_three_reads_per_known_merchant(ledger):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), *(f"c{number}" for number in range(10)))
    payarc = Payarc()
    find_account(ledger, dataclasses.replace(MERCHANT, user="99"), payarc)
    assert len(payarc.reads) == 3


def test_a_customer_that_was_deleted_at_payarc_does_not_hide_the_others(ledger):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1", "c2")
    assert find_account(ledger, dataclasses.replace(MERCHANT, user="99"), Payarc("c1")) == "test/17"
    assert find_account(ledger, dataclasses.replace(MERCHANT, user="98"), Payarc("c2")) == "test/17"


def test_a_connection_that_gets_an_account_later_keeps_its_rows_once_a_known_customer_is_seen(ledger):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1")
    named = dataclasses.replace(MERCHANT, account="acme")
    assert find_account(ledger, named, Payarc("c1")) == "test/17"
    both_new = dataclasses.replace(named, user="99")
    assert find_account(ledger, both_new, Payarc("c1")) == "test/17"


@pytest.mark.parametrize("related", [{"account": "acme"}, {"account": "acme", "user": "99"}])
def test_a_related_identity_that_does_not_see_the_known_customers_is_rejected(ledger, related):
    create(ledger, find_account(ledger, dataclasses.replace(MERCHANT, account="acme"), Payarc()), "c1")
    other = Identity("test", None, "17") if related == {"account": "acme"} else Identity("test", "acme", "99")
    with pytest.raises(PayarcConfigError, match=r"no access to the customers .* test/acme.*another account"):
        find_account(ledger, other, Payarc("x1"))


def test_a_connection_that_names_another_merchant_than_its_token_is_rejected(ledger):
    create(ledger, find_account(ledger, Identity("test", "acme", "17"), Payarc()), "c1")
    with pytest.raises(PayarcConfigError, match=r'account.*belongs to .* test/acme.*set account to "acme"; if not'):
        find_account(ledger, Identity("test", "bolt", "17"), Payarc("c1"))
    assert len(ledger.facts("account:")) == 1
    assert find_account(ledger, Identity("test", "bolt", "18"), Payarc("x1")) == "test/bolt"


def test_two_names_with_one_token_are_two_accounts_until_the_ledger_can_tell(ledger):
    """No customer shows yet that both are one merchant; the names say that they are not."""
    assert find_account(ledger, Identity("test", "acme", "17"), Payarc()) == "test/acme"
    assert find_account(ledger, Identity("test", "bolt", "17"), Payarc()) == "test/bolt"


@pytest.mark.parametrize("answer", [{"customer_id": "c2"}, {}, {"id": "x"}, {"customer_id": None}])
def test_a_response_without_the_customer_that_was_asked_for_proves_nothing(ledger, answer):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1")
    other = dataclasses.replace(MERCHANT, user="99")
    assert find_account(ledger, other, lambda _: answer) == "test/99"
    with pytest.raises(PayarcConfigError, match="no access"):
        find_account(ledger, dataclasses.replace(MERCHANT, account="acme"), lambda _: answer)


@pytest.mark.parametrize("environment", ["live", "localhost:8765"])
def test_a_customer_seen_in_another_environment_proves_nothing(ledger, environment):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1")
    payarc = Payarc("c1")
    assert find_account(ledger, Identity(environment, None, "99"), payarc) == f"{environment}/99"
    assert payarc.reads == []


def test_a_proof_is_logged(ledger, caplog):
    caplog.set_level("INFO")
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1")
    find_account(ledger, dataclasses.replace(MERCHANT, user="99"), Payarc("c1"))
    assert "The token has access to customer c1, so the ledger's rows of test/17 are used" in caplog.text


def test_tokens_without_a_user_are_distinguished_by_a_hash():
    one, other = Identity.of("test", None, "opaque-one"), Identity.of("test", None, "opaque-other")
    assert one == Identity.of("test", None, "opaque-one")
    assert one != other
    assert "opaque-one" not in one.user


def test_a_rotated_opaque_token_is_recognized_by_a_known_customer(ledger):
    first = Identity.of("test", None, "opaque-one")
    create(ledger, find_account(ledger, first, Payarc()), "c1")
    second = Identity.of("test", None, "opaque-other")
    assert find_account(ledger, second, Payarc("c1")) == new_account(first)
    assert find_account(ledger, dataclasses.replace(second, user="token-x"), Payarc()) == "test/token-x"


def test_the_same_user_in_another_environment_or_on_another_host_is_another_account(ledger):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1")
    for environment in ("live", "localhost:8765"):
        assert find_account(ledger, Identity(environment, None, "17"), Payarc("x1")) == f"{environment}/17"


def test_a_run_stops_if_the_known_merchant_has_rows_but_no_customer_to_compare(ledger):
    claim(ledger, find_account(ledger, MERCHANT, Payarc()), "k1")
    with pytest.raises(PayarcConfigError, match=r"cannot tell.*test/17.*finish that run.*account in the extra"):
        find_account(ledger, dataclasses.replace(MERCHANT, user="99"), Payarc())
    with pytest.raises(PayarcConfigError, match="cannot tell"):
        find_account(ledger, dataclasses.replace(MERCHANT, account="acme"), Payarc())


def test_setting_an_account_in_each_connection_resolves_it(ledger):
    claim(ledger, find_account(ledger, MERCHANT, Payarc()), "k1")
    assert find_account(ledger, Identity("test", "other", "99"), Payarc()) == "test/other"


@pytest.mark.parametrize("later", [{"user": "99"}, {"account": "acme"}, {"user": "99", "account": "acme"}])
def test_an_identity_that_never_claimed_anything_does_not_block_another(ledger, later):
    """A first run with a wrong token must not lock out the right one."""
    find_account(ledger, MERCHANT, Payarc())
    assert find_account(ledger, dataclasses.replace(MERCHANT, **later), Payarc()) in ("test/17", "test/99", "test/acme")


def test_a_failed_read_proves_nothing_and_nothing_is_remembered(ledger):
    create(ledger, find_account(ledger, MERCHANT, Payarc()), "c1")
    before = ledger.facts("")

    def fail(_customer_id):
        raise PayarcAuthError(status=401)

    with pytest.raises(PayarcAuthError):
        find_account(ledger, dataclasses.replace(MERCHANT, user="99"), fail)
    assert ledger.facts("") == before


def test_a_dry_run_remembers_nothing(ledger):
    before = ledger.facts("")
    assert find_account(ledger, MERCHANT, Payarc(), remember=False) == "test/17"
    assert ledger.facts("") == before


def test_an_account_that_is_too_long_is_rejected(ledger):
    with pytest.raises(PayarcConfigError, match=r"^account: has 205 characters"):
        find_account(ledger, Identity("test", "a" * 200, "17"), Payarc())


def test_account_names_with_any_characters_are_distinguished(ledger):
    names = ['a"b', "a\\b", "a/b", "a b", "ü", "u\u0308", "'", "1", "null"]
    accounts = {find_account(ledger, Identity("test", name, f"user {name}"), Payarc()) for name in names}
    assert len(accounts) == len(names)
