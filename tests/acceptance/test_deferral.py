"""A run that waits long for the rate limit gives its worker slot back, and its results are the same."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

DEFERRING = "deferrable=True, defer_after=0.5, concurrency=4, batch_size=10, key='id'"


def people(count):
    return [{"id": number, "name": "John Smith", "email": f"j{number}@example.com"} for number in range(count)]


@pytest.fixture
def table(connect, tmp_path):
    """Fills the table behind ``crm``."""
    connect("crm", conn_type="sqlite", host=str(tmp_path / "crm.db"))

    def fill(rows):
        with closing(sqlite3.connect(tmp_path / "crm.db")) as crm, crm:
            crm.execute("CREATE TABLE people (id, name, email)")
            crm.executemany("INSERT INTO people VALUES (:id, :name, :email)", rows)

    return fill


@pytest.fixture
def notes(ledger_file):
    """The notes that slices have left in the ledger behind ``ledger``."""

    def read():
        with closing(sqlite3.connect(ledger_file)) as ledger:
            found = ledger.execute("SELECT value FROM payarc_customers_facts WHERE name LIKE 'deferred:%'").fetchall()
        return [json.loads(value) for (value,) in found]

    return read


def ends_well(sandbox, created, rows, deferrals=2):
    """Every record has the one customer that was made for it, in input order, and the summary covers all slices."""
    customers = {customer["email"]: customer["customer_id"] for customer in sandbox.customers()}
    assert len(sandbox.customers()) == len(customers) == len(rows)
    assert created.ids == [customers[row["email"]] for row in rows]
    assert [one["key"] for one in created.customers] == [str(row["id"]) for row in rows]
    assert Counter(one["status"] for one in created.customers) == {"created": len(rows)}
    assert created.summary["created"] == created.summary["records"] == len(rows)
    assert created.summary["deferrals"] >= deferrals
    if created.try_number == 1:
        assert created.summary["posts"] == sandbox.stats()["posts"]["received"]


def test_a_table_is_completed_over_several_deferrals(airflow, sandbox, table, notes):
    sandbox.settings(rate_limit=15, rate_window=2.0)
    rows = people(40)
    table(rows)
    created = airflow.create(f"table='people', sql_conn_id='crm', ledger_conn_id='ledger', {DEFERRING}")
    ends_well(sandbox, created, rows)
    assert created.try_number == 1
    assert notes() == []


def test_records_from_xcom_are_completed_over_several_deferrals(airflow, sandbox):
    sandbox.settings(rate_limit=15, rate_window=2.0)
    rows = people(40)
    airflow.records(rows)
    created = airflow.create(f"records=extract(), ledger_conn_id='ledger', {DEFERRING}")
    ends_well(sandbox, created, rows)


def test_mapped_copies_are_deferred_independently(airflow, sandbox, table):
    sandbox.settings(rate_limit=15, rate_window=2.0)
    rows = people(40)
    table(rows)
    run = airflow.run(f"""
        CreateCustomerOperator.partial(
            task_id='create', table='people', sql_conn_id='crm', ledger_conn_id='ledger', {DEFERRING}
        ).expand(partition=[(0, 2), (1, 2)])
    """)
    assert run.state == "success"
    customers = {customer["email"]: customer["customer_id"] for customer in sandbox.customers()}
    assert len(sandbox.customers()) == len(customers) == 40
    ids = run["create", 0].ids + run["create", 1].ids
    assert sorted(ids) == sorted(customers.values())


def test_the_summary_and_the_rejections_cover_all_slices(airflow, sandbox, table):
    sandbox.settings(rate_limit=12, rate_window=2.0, taken={"email": ["j3@example.com", "j33@example.com"]})
    rows = [*people(40), {"id": 40, "name": "Jo", "email": "j40@example.com"}]
    table(rows)
    create = f"table='people', sql_conn_id='crm', ledger_conn_id='ledger', max_rejected=3, {DEFERRING}"
    dag = airflow.dag(f"CreateCustomerOperator(task_id='create', retry_rejected=True, {create})")
    first = airflow.test(dag)["create"]
    assert first.state == "success"
    assert [one["key"] for one in first.rejected] == ["3", "33", "40"]
    summary = first.summary
    counts = {name: summary[name] for name in ("records", "created", "known", "rejected", "rejected_new")}
    assert counts == {"records": 41, "created": 38, "known": 0, "rejected": 3, "rejected_new": 3}
    assert sandbox.stats()["posts"]["rejected"] == 2, (
        "retry_rejected sends each rejected record once per try, not once per slice"
    )

    again = airflow.test(dag)["create"]
    assert (again.state, again.ids, again.summary["known"]) == ("success", first.ids, 38)
    assert sandbox.stats()["posts"]["rejected"] == 4


def test_max_new_does_not_count_what_earlier_slices_created(airflow, sandbox, table):
    sandbox.settings(rate_limit=15, rate_window=2.0)
    rows = people(40)
    table(rows)
    created = airflow.create(f"table='people', sql_conn_id='crm', ledger_conn_id='ledger', max_new=40, {DEFERRING}")
    ends_well(sandbox, created, rows)


def test_lost_answers_are_looked_up_before_the_slot_is_given_back(airflow, sandbox, table, connect):
    connection = json.loads(sandbox.connection_json())
    connection["extra"] = {**(connection.get("extra") or {}), "timeout": 1}
    connect("payarc_quick", json.dumps(connection))
    sandbox.settings(rate_limit=12, rate_window=4.0)
    sandbox.faults([{"kind": "lost_after", "every": 10}])
    rows = people(30)
    table(rows)
    created = airflow.create(
        "table='people', sql_conn_id='crm', ledger_conn_id='ledger', "
        f"payarc_conn_id='payarc_quick', settle=1, lease=2, {DEFERRING}"
    )
    ends_well(sandbox, created, rows, deferrals=1)
    assert created.summary["unknown_outcomes"] >= 3
    assert sandbox.stats()["posts"]["created"] == 30


def test_another_try_ignores_the_note_and_counts_what_the_first_one_created(airflow, sandbox, table, notes):
    """The first try is deferred; when it resumes, its token is no longer accepted."""
    sandbox.settings(rate_limit=12, rate_window=2.0)
    sandbox.faults([{"kind": "unauthorized", "skip": 14, "times": 1}])
    rows = people(30)
    table(rows)
    create = f"table='people', sql_conn_id='crm', ledger_conn_id='ledger', {DEFERRING}"
    dag = airflow.dag(f"CreateCustomerOperator(task_id='create', retries=1, retry_delay=timedelta(0), {create})")
    first = airflow.test(dag)
    if first.state != "success":  # some versions' dag.test() does not retry
        assert notes() == []
        pytest.skip("this Airflow's dag.test() does not run a task again")
    created = first["create"]
    assert created.try_number == 2
    ends_well(sandbox, created, rows, deferrals=0)


def test_metrics_count_nothing_twice_over_all_slices(airflow, sandbox, table, monkeypatch):
    from airflow.providers.common.compat.sdk import Stats

    sent, incr = Counter(), Stats.incr

    def count(stat, count=1, *args, **options):
        sent[stat] += count if stat.startswith("payarc.") else 0
        return incr(stat, count, *args, **options)

    monkeypatch.setattr(Stats, "incr", count)
    sandbox.settings(taken={"email": ["j3@example.com", "j33@example.com"]})
    rows = [{"id": None, "name": "John Smith", "email": "none@example.com"}, *people(40)]
    rows += [{"id": 40, "name": "Jo", "email": "j40@example.com"}]
    table(rows)
    options = f"sql_conn_id='crm', ledger_conn_id='ledger', max_rejected=9, {DEFERRING}"
    airflow.create(f"sql='SELECT * FROM people WHERE id IS NULL OR id < 5 OR id IN (20, 39)', {options}")
    assert +sent == {
        "payarc.customers.created": 6,
        "payarc.customers.rejected": 2,
        "payarc.requests": 8,
    }
    sent.clear()
    sandbox.settings(rate_limit=12, rate_window=2.0)
    created = airflow.create(f"sql='SELECT * FROM people', {options}")
    assert created.summary["deferrals"] >= 2
    assert +sent == {
        "payarc.customers.created": 32,
        "payarc.customers.known": 6,
        "payarc.customers.rejected": 4,  # without a key, rejected before, rejected now by PayArc and by our rules
        "payarc.requests": created.summary["requests"],
    }
