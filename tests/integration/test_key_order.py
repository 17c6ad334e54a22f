"""The order of a composite key's columns belongs to the ledger: another order would give every record another key."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine_bench import ACCOUNT, QUICK

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.key_order import check_key_order

ROWS = [
    {"tenant": tenant, "id": number, "name": "John Smith", "email": f"{tenant}{number}@example.com"}
    for tenant in ("north", "south")
    for number in (1, 2)
]


def by(*key, **changes):
    return dataclasses.replace(QUICK, key=list(key), **changes)


def order_facts(bench):
    return bench.ledger.facts("key_order:")


@pytest.mark.parametrize("changes", [{}, {"dry_run": True}, {"max_new": 0}])
def test_another_order_stops_the_run_before_anything_is_sent(bench, changes):
    first = bench.run(ROWS, by("tenant", "id")).ok()
    sent = len(bench.sandbox.log())
    second = bench.run(ROWS, by("id", "tenant", **changes))
    assert isinstance(second.error, PayarcConfigError)
    assert str(second.error).startswith("key: ")
    assert str(second.error).endswith('Use the ledger\'s order: key=["tenant", "id"]')
    assert len(str(second.error)) <= 200
    assert len(bench.sandbox.log()) == sent
    assert len(bench.sandbox.customers()) == len(ROWS)
    assert bench.run(ROWS, by("tenant", "id")).ok().ids == first.ids


def test_the_order_holds_for_every_source(bench):
    bench.run(ROWS, by("tenant", "id"), source="table people").ok()
    assert isinstance(bench.run(ROWS, by("id", "tenant"), source="table guests").error, PayarcConfigError)


def test_sources_with_other_columns_have_an_order_of_their_own(bench):
    bench.run(ROWS, by("tenant", "id")).ok()
    others = [{"id": row["id"], "region": row["tenant"], "email": f"r{row['email']}"} for row in ROWS]
    bench.run(others, by("id", "region")).ok()
    bench.run([{"id": 7, "email": "seven@example.com"}], by("id")).ok()
    assert len(bench.sandbox.customers()) == 2 * len(ROWS) + 1
    assert isinstance(bench.run(others, by("region", "id")).error, PayarcConfigError)


def test_the_case_of_names_is_no_order_and_the_remedy_has_the_names_as_they_were_given(sqlite_bench):
    ledger = sqlite_bench.ledger
    check_key_order(ledger, ACCOUNT, ["tenant", "id"])
    check_key_order(ledger, ACCOUNT, ("Tenant", "ID"))
    with pytest.raises(PayarcConfigError, match=r'key=\["TENANT", "ID"\]$'):
        check_key_order(ledger, ACCOUNT, ["ID", "TENANT"])
    check_key_order(ledger, ACCOUNT, ["id", "ID"])
    with pytest.raises(PayarcConfigError, match=r'key=\["id", "ID"\]$'):
        check_key_order(ledger, ACCOUNT, ["ID", "id"])


def test_each_account_has_an_order_of_its_own(sqlite_bench):
    check_key_order(sqlite_bench.ledger, ACCOUNT, ["tenant", "id"])
    check_key_order(sqlite_bench.ledger, "test/2", ["id", "tenant"])


def test_a_dry_run_stores_no_order_and_a_key_of_one_column_has_none(bench):
    bench.run(ROWS, by("id", "tenant", dry_run=True)).ok()
    bench.run([{"id": 7, "email": "seven@example.com"}], QUICK).ok()
    assert order_facts(bench) == {}
    bench.run(ROWS, by("tenant", "id")).ok()
    assert list(order_facts(bench).values()) == ['["tenant", "id"]']


def test_of_two_first_runs_with_two_orders_one_is_stopped(bench):
    start = threading.Barrier(2)

    def check(key):
        ledger = bench.open()
        start.wait(10)
        try:
            check_key_order(ledger, ACCOUNT, key)
        except PayarcConfigError as error:
            return str(error)
        return None

    for number in range(5):
        columns = [f"tenant{number}", "id"]
        with ThreadPoolExecutor(2) as threads:
            errors = list(threads.map(check, (columns, columns[::-1])))
        assert errors.count(None) == 1
        right = columns if errors[0] is None else columns[::-1]
        assert next(filter(None, errors)).endswith(f'key=["{right[0]}", "{right[1]}"]')
