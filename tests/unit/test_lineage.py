"""Names of inputs and outputs that need no database. The acceptance tests check real events."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from payarc_provider.hooks import lineage as hook_lineage
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.operators.customer import CreateCustomerOperator

BASE = "https://testapi.payarc.net/v1/customers"


@pytest.fixture
def connections(monkeypatch):
    """A merchant, and a CRM in PostgreSQL that is never connected to."""
    payarc = {"conn_type": "payarc", "password": "token-1", "extra": {"account": "main"}}
    crm = {
        "conn_type": "postgres",
        "host": "crm.example",
        "login": "reader",
        "password": "no-secret",
        "schema": "sales",
    }
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", json.dumps(payarc))
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps(crm))


# ---- OpenLineage ----------------------------------------------------------------------------------------------------


@pytest.fixture
def lineage(connections):
    """The lineage of a task with these arguments, before it runs."""
    pytest.importorskip("airflow.providers.openlineage", reason="the OpenLineage provider is not installed")
    pytest.importorskip("airflow.providers.postgres", reason="the PostgreSQL provider is not installed")

    def of(**arguments):
        return CreateCustomerOperator(task_id="create", **arguments).get_openlineage_facets_on_start()

    return of


def test_a_table_in_postgresql_is_named_as_openlineage_prescribes(lineage):
    (table,) = lineage(table="crm.people", sql_conn_id="crm").inputs
    assert (table.namespace, table.name) == ("postgres://crm.example:5432", "sales.crm.people")


def test_quotes_are_not_part_of_a_name(lineage):
    (table,) = lineage(table='crm."odd.name"', sql_conn_id="crm").inputs
    assert table.name == "sales.crm.odd.name"


def test_the_output_is_the_merchants_customers(lineage):
    (output,) = lineage(table="crm.people", sql_conn_id="crm").outputs
    assert (output.namespace, output.name) == ("payarc://test", "main/customers")
    assert output.outputFacets == {}
    assert "columnLineage" not in output.facets, "which columns there are is not known before they are read"


def test_fields_map_columns_to_payarcs_fields(lineage):
    (output,) = lineage(table="crm.people", sql_conn_id="crm", fields={"name": "full_name"}).outputs
    ((field, known),) = output.facets["columnLineage"].fields.items()
    assert field == "name"
    assert [(one.name, one.field) for one in known.inputFields] == [("sales.crm.people", "full_name")]
    assert [one.name for one in output.facets["schema"].fields] == ["name"]


def test_a_literal_list_has_no_inputs(lineage):
    assert lineage(records=[{"id": 1, "name": "John Smith"}], ledger_conn_id="crm").inputs == []


def test_lineage_contains_no_credentials(lineage):
    text = str(lineage(table="crm.people", sql_conn_id="crm"))
    assert [secret for secret in ("no-secret", "token-1", "reader") if secret in text] == []


# ---- hook lineage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "schema", "uri"),
    [
        ("postgresql://crm.example/sales", "crm", "postgres://crm.example:5432/sales/crm/people"),
        ("postgresql://crm.example:6432/sales", "crm", "postgres://crm.example:6432/sales/crm/people"),
        ("mysql+pymysql://crm.example/sales", None, "mysql://crm.example:3306/sales/people"),
        ("mysql+pymysql://crm.example/sales", "crm", "mysql://crm.example:3306/crm/people"),
        ("sqlite:////data/crm.db", None, None),
        ("postgresql:///sales?host=/run/postgresql", "crm", None),
        ("postgresql://127.0.0.1:1/sales", None, None),  # cannot be reached
    ],
)
def test_a_table_has_the_uri_of_airflows_own_providers(url, schema, uri):
    pytest.importorskip("pymysql", reason="PyMySQL is not installed")
    made = sa.make_url(url)
    engine = sa.create_engine(made.set(drivername=_driver()) if made.get_backend_name() == "postgresql" else made)
    assert hook_lineage.table_uri(engine, schema, "people") == uri


def _driver():
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        pytest.importorskip("psycopg", reason="neither psycopg nor psycopg2 is installed")
        return "postgresql+psycopg"
    return "postgresql+psycopg2"


@pytest.fixture
def reported(connections, monkeypatch):
    """The calls of Airflow's collector: (how, uri)."""
    from airflow.providers.common.compat.lineage import hook

    calls = []

    class Collector:
        def add_input_asset(self, context, uri):
            calls.append(("read", uri))

        def add_output_asset(self, context, uri):
            calls.append(("written", uri))

    monkeypatch.setattr(hook, "get_hook_lineage_collector", Collector)
    return calls


def test_the_hook_reports_reads_and_writes(reported, requests_mock):
    customer = {"data": {"customer_id": "c1"}}
    requests_mock.post(BASE, json=customer)
    requests_mock.get(f"{BASE}/c1", json=customer)
    requests_mock.patch(f"{BASE}/c1", json=customer)
    requests_mock.delete(f"{BASE}/c1", status_code=204)
    requests_mock.get(BASE, json={"data": []})
    hook = PayarcHook()
    hook.create_customer({"name": "John Smith"})
    hook.get_customer("c1")
    hook.update_customer("c1", {"name": "John Smith"})
    hook.delete_customer("c1")
    list(hook.list_customers())
    assert [how for how, _ in reported] == ["written", "read", "written", "written", "read"]
    assert {uri for _, uri in reported} == {"payarc://test/main/customers"}


def test_a_failed_request_is_not_reported(reported, requests_mock):
    requests_mock.post(BASE, status_code=500)
    with pytest.raises(Exception, match="may"):
        PayarcHook().create_customer({"name": "John Smith"})
    assert reported == []


def test_a_failing_lineage_collector_does_not_fail_the_request(reported, requests_mock, monkeypatch):
    from airflow.providers.common.compat.lineage import hook

    def fails():
        raise ValueError("no lineage today")

    monkeypatch.setattr(hook, "get_hook_lineage_collector", fails)
    requests_mock.post(BASE, json={"data": {"customer_id": "c1"}})
    assert PayarcHook().create_customer({"name": "John Smith"})["customer_id"] == "c1"
