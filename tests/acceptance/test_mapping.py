"""Mapped tasks: ``group_ids`` for more ids than Airflow maps over, ``partition`` for one table and several workers."""

from __future__ import annotations

import pytest


@pytest.fixture
def people(airflow, connect, tmp_path):
    """50 people in the table ``people`` of ``crm``, three of them without an email address."""
    import sqlite3

    connect("crm", conn_type="sqlite", host=str(tmp_path / "crm.db"))
    with sqlite3.connect(tmp_path / "crm.db") as crm:
        crm.execute("CREATE TABLE people (id INTEGER, name TEXT, email TEXT)")
        rows = [(number, "John Smith", f"j{number}@example.com" if number % 20 else "") for number in range(50)]
        crm.executemany("INSERT INTO people VALUES (?, ?, ?)", rows)
    return rows


def test_a_downstream_task_maps_over_groups_of_ids(airflow, sandbox, people, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "10")
    run = airflow.run("""
        create = CreateCustomerOperator(
            task_id="create", table="people", sql_conn_id="crm", group_ids=7, key="id")

        @task
        def count(customer_ids):
            return len(customer_ids)

        count.expand(customer_ids=create.output)
    """)
    assert run.state == "success"
    assert [len(group) for group in run["create"].ids] == [7] * 7 + [1]
    assert [run["count", number].xcom() for number in range(8)] == [7] * 7 + [1]
    assert sorted(one for group in run["create"].ids for one in group) == sorted(
        customer["customer_id"] for customer in sandbox.customers()
    )


@pytest.mark.parametrize(
    ("arguments", "remedy"), [("", "Set group_ids to 100 or"), ("group_ids=2", "Set group_ids to more than 2 or")]
)
def test_too_many_ids_for_a_mapped_task_stop_the_run_before_the_first_request(
    airflow, sandbox, people, monkeypatch, said, arguments, remedy
):
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "20")
    run = airflow.run(f"""
        create = CreateCustomerOperator(task_id="create", table="people", sql_conn_id="crm", {arguments})

        @task
        def use(customer_id):
            pass

        use.expand(customer_id=create.output)
    """)
    assert run.state == "failed"
    assert remedy in said()
    assert sandbox.stats()["posts"]["received"] == 0


def test_as_many_ids_as_airflow_maps_over_are_accepted(airflow, sandbox, people, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "50")
    run = airflow.run("""
        create = CreateCustomerOperator(task_id="create", table="people", sql_conn_id="crm")

        @task
        def use(customer_id):
            pass

        use.expand(customer_id=create.output)
    """)
    assert run.state == "success"
    assert len(sandbox.customers()) == 50


def test_ids_that_are_not_pushed_cannot_be_mapped_over(airflow, sandbox, people, said):
    run = airflow.run("""
        create = CreateCustomerOperator(task_id="create", table="people", sql_conn_id="crm", push_ids=False)

        @task
        def use(customer_id):
            pass

        use.expand(customer_id=create.output)
    """)
    assert run.state == "failed"
    assert "push_ids: use maps over the ids of create" in said()
    assert sandbox.stats()["posts"]["received"] == 0


def test_each_record_is_in_exactly_one_partition(airflow, sandbox, people):
    run = airflow.run("""
        CreateCustomerOperator.partial(task_id="create", table="people", sql_conn_id="crm").expand(
            partition=[(number, 4) for number in range(4)])
    """)
    assert run.state == "success"
    shares = [run["create", number] for number in range(4)]
    assert sum(share.summary["records"] for share in shares) == 50
    assert all(share.summary["records"] > 0 for share in shares)
    keys = [one["key"] for share in shares for one in share.customers]
    assert sorted(keys) == sorted(str(number) for number, _, _ in people)
    assert len(sandbox.customers()) == 50
