"""What a task shows in Airflow's UI: its documentation, and the link to PayArc's dashboard."""

from __future__ import annotations

import json
import types

import pytest

from payarc_provider.operators.customer import CreateCustomerOperator
from payarc_provider.operators.links import PayarcDashboardLink
from payarc_provider.sandbox.tokens import make_token

TABLE = {"table": "people", "sql_conn_id": "crm"}


def test_a_task_documents_its_source_its_ledger_and_where_to_find_rejections():
    doc = CreateCustomerOperator(task_id="create", key=["tenant", "id"], ledger_conn_id="ledger", **TABLE).doc_md

    assert "| Records from | table `people` in `crm` |" in doc
    assert "| Key | `tenant, id` |" in doc
    assert "| PayArc connection | `payarc_default` |" in doc
    assert "| Ledger connection | `ledger` |" in doc
    assert "XCom `rejected`" in doc
    assert "--ledger-conn-id ledger rejected" in doc


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        ({"sql": "SELECT id FROM people WHERE name = 'Zoë'", "sql_conn_id": "crm"}, "a query on `crm`"),
        ({"records": [{"id": 1, "name": "Zoë"}], "ledger_conn_id": "crm"}, "upstream tasks, through XCom"),
    ],
)
def test_the_documentation_contains_no_query_and_no_record(arguments, source):
    doc = CreateCustomerOperator(task_id="create", **arguments).doc_md

    assert f"| Records from | {source} |" in doc
    assert "Zoë" not in doc


@pytest.mark.parametrize("kind", ["doc", "doc_md", "doc_json", "doc_yaml", "doc_rst"])
def test_the_authors_own_documentation_is_kept(kind):
    task = CreateCustomerOperator(task_id="create", **TABLE, **{kind: "mine"})

    assert getattr(task, kind) == "mine"
    assert task.doc_md == ("mine" if kind == "doc_md" else None)


def test_a_mapped_task_is_documented_too(airflow):
    dag = airflow.dag(
        "CreateCustomerOperator.partial(task_id='create', ledger_conn_id='ledger').expand(records=[[], []])\n"
        "CreateCustomerOperator.partial(task_id='other', ledger_conn_id='ledger', doc_md='mine').expand(records=[[]])"
    )

    assert "| Ledger connection | `ledger` |" in dag.get_task("create").doc_md
    assert dag.get_task("other").doc_md == "mine"


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ({}, "https://testdashboard.payarc.net/"),
        ({"extra": {"environment": "live"}}, "https://dashboard.payarc.net/"),
        ({"host": "https://testapi.payarc.net/v1"}, "https://testdashboard.payarc.net/"),
        ({"host": "https://sandbox.example.com/v1"}, ""),
        ({"extra": {"environment": "moon"}}, ""),
        (None, ""),
    ],
)
def test_the_link_goes_to_the_dashboard_of_the_environment(connect, connection, address):
    if connection is not None:
        connect("payarc_ui", conn_type="payarc", password="not-a-real-token", **connection)
    task = CreateCustomerOperator(task_id="create", payarc_conn_id="payarc_ui", **TABLE)

    assert PayarcDashboardLink().get_link(task, ti_key=None) == address
    assert PayarcDashboardLink().get_link(types.SimpleNamespace(), ti_key=None) == ""


@pytest.mark.parametrize(
    ("connection", "address"),
    [({"password": make_token(expires_in=-1)}, "https://testdashboard.payarc.net/"), (None, "")],
)
def test_a_finished_task_has_the_link(airflow, connect, payarc_sandbox, connection, address):
    connect(
        "payarc_ui",
        json.dumps({"conn_type": "payarc"} | connection) if connection else payarc_sandbox.connection_json(),
    )
    airflow.records([{"id": 1, "name": "Zoë Smith"}])
    run = airflow.run(
        "CreateCustomerOperator(task_id='create', payarc_conn_id='{{ params.conn }}', records=extract(), "
        "ledger_conn_id='ledger')",
        params={"conn": "payarc_ui"},
    )

    assert run["create"].state == ("failed" if connection else "success")
    assert run["create"].xcom("_link_PayarcDashboardLink") == address
