"""Plans and guards in a real Airflow: templates, XComs, and tasks that are not retried."""

from __future__ import annotations

import pytest

from payarc_provider.operators.failures import PayarcTaskGuardStopped

CREATE = "CreateCustomerOperator(task_id={!r}, retries=2, retry_delay=timedelta(0), on_changed='update', {}, {})"
FROM_TABLE = "table='people', sql_conn_id='crm'"
FROM_XCOM = "records=extract(), ledger_conn_id='ledger'"
APPROVED = "approved_plan=\"{{ ti.xcom_pull('plan', key='summary')['plan'] }}\""


@pytest.fixture
def people(airflow, crm):
    """Sets the people that both the table and the XCom have."""

    def set_people(*names):
        rows = [{"id": number, "name": name, "email": f"j{number}@example.com"} for number, name in enumerate(names)]
        crm.table("people", rows)
        airflow.records(rows)

    return set_people


def plan_and_apply(source, change=""):
    """A DAG that plans, changes the table and applies the plan."""
    return f"""
def change():
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    if {change!r}:
        DbApiHook.get_hook("crm").run({change!r})

planned = {CREATE.format("plan", source, "dry_run=True")}
changed = task(change)()
applied = {CREATE.format("apply", source, APPROVED)}
planned >> changed >> applied
"""


@pytest.mark.parametrize("source", [FROM_TABLE, FROM_XCOM])
def test_a_plan_is_carried_out_in_the_same_dag_run(airflow, sandbox, people, source):
    people("John Smith", "Ana Park")
    assert airflow.run(CREATE.format("create", source, "source='people'")).state == "success"
    people("John Smith", "Ana Parc", "Kofi Park")
    run = airflow.run(plan_and_apply(f"{source}, source='people'"))

    assert run.state == "success"
    assert run["plan"].xcom("plan") == [
        {"key": "1", "action": "update", "fields": ["name"]},
        {"key": "2", "action": "create", "fields": ["email", "name"]},
    ]
    assert run["apply"].summary["requests"] == 3
    assert [one["status"] for one in run["apply"].customers] == ["known", "updated", "created"]
    assert sorted(one["name"] for one in sandbox.customers()) == ["Ana Parc", "John Smith", "Kofi Park"]


def test_a_source_that_has_changed_fails_the_task_at_once_and_costs_nothing(airflow, sandbox, people):
    people("John Smith", "Ana Park")
    run = airflow.run(plan_and_apply(FROM_TABLE, change="UPDATE people SET name = 'Ana Parc' WHERE id = 1"))

    assert (run["plan"].state, run["apply"].state, run["apply"].try_number) == ("success", "failed", 1)
    assert sandbox.stats()["requests"] == {}


@pytest.mark.parametrize("guard", ["min_records=3", "max_new=1", "max_new=0.5", "max_new='{{ 1 }}'"])
def test_a_guard_fails_the_task_at_once_and_costs_nothing(airflow, sandbox, people, guard):
    people("John Smith", "Ana Park")
    run = airflow.run(CREATE.format("create", FROM_TABLE, guard))

    assert (run["create"].state, run["create"].try_number) == ("failed", 1)
    assert sandbox.stats()["requests"] == {}


def test_a_dry_run_that_a_guard_would_stop_pushes_its_plan_and_fails(airflow, people):
    people("John Smith", "Ana Park")
    planned = airflow.run(CREATE.format("create", FROM_TABLE, "max_new=1, dry_run=True"))["create"]

    assert (planned.state, planned.try_number, len(planned.xcom("plan"))) == ("failed", 1, 2)


def test_without_ids_a_dry_run_pushes_the_digest_only(airflow, people):
    people("John Smith")
    planned = airflow.run(CREATE.format("create", FROM_TABLE, "push_ids=False, dry_run=True"))["create"]

    assert planned.summary["plan"].startswith("plan-")
    assert planned.xcom("plan") is None


def test_the_error_is_one_that_airflow_does_not_retry():
    from airflow.providers.common.compat.sdk import AirflowFailException

    assert issubclass(PayarcTaskGuardStopped, AirflowFailException)
