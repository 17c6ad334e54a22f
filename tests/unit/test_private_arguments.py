"""Records and the parameters of a query reach neither lineage, nor rendered fields, nor Airflow's serialized DAGs."""

from __future__ import annotations

import ast
import copy
import datetime
import json
import pickle

import pytest
from airflow.providers.common.compat.sdk import DAG, task

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.customer import CreateCustomerOperator
from payarc_provider.operators.private import NamesAndTypes, Private, revealed

SECRETS = ["Secretname", "secretmail", "Secretparameter", "Secretlist"]
RECORDS = [{"id": 1, "name": "Secretname", "email": "secretmail@example.com"}]
QUERY = {"sql": "SELECT * FROM people WHERE email = %(who)s", "sql_conn_id": "crm"}
NAMED = {"who": "Secretparameter{{ ds }}", "least": 7}


def new_dag():
    return DAG("private", schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))


@pytest.fixture
def dag():
    with new_dag() as dag:
        yield dag


@task
def extract():
    return "Secretparameter"


def found(text):
    return [secret for secret in SECRETS if secret in text]


def operators():
    yield CreateCustomerOperator(task_id="listed", records=RECORDS, ledger_conn_id="crm")
    yield CreateCustomerOperator(task_id="named", **QUERY, parameters=NAMED)
    yield CreateCustomerOperator(task_id="placed", **QUERY, parameters=["Secretlist", 7])


def serialized(dag):
    """The DAG as Airflow stores it."""
    from airflow.serialization import serialized_objects

    serializer = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG
    return json.dumps(serializer.to_dict(dag))


def rendered(operator):
    """What Airflow stores as the task's rendered fields."""
    from airflow.serialization.helpers import serialize_template_field

    return {name: serialize_template_field(getattr(operator, name), name) for name in operator.template_fields}


def rendered_parameters(operator):
    """What Airflow stores of the parameters; Airflow 2 stores it as text."""
    stored = rendered(operator)["parameters"]
    return ast.literal_eval(stored) if isinstance(stored, str) else stored


# ---- lineage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("info", ["TaskInfo", "TaskInfoComplete"])
def test_openlineage_sends_neither_records_nor_parameters(dag, info):
    utils = pytest.importorskip("airflow.providers.openlineage.utils.utils")
    from airflow.providers.openlineage.plugins.facets import AirflowRunFacet
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.serde import Serde

    for operator in operators():
        operator._run = object()
        facts = AirflowRunFacet(dag={}, dagRun={}, taskInstance={}, task=getattr(utils, info)(operator), taskUuid="x")
        now = datetime.datetime.now(datetime.UTC).isoformat()
        run = Run(runId="019c0f20-0000-7000-8000-000000000000", facets={"airflow": facts})
        event = RunEvent(eventType=RunState.START, eventTime=now, run=run, job=Job(namespace="n", name="n"))
        text = Serde.to_json(utils.OpenLineageRedactor().redact(event, max_depth=20))
        assert operator.task_id in text
        assert found(text) == []


def test_no_attribute_shows_them():
    for operator in operators():
        assert found(repr(vars(operator) | {"_BaseOperator__init_kwargs": None})) == []


# ---- what Airflow stores -------------------------------------------------------------------------------------------


def test_airflow_stores_names_and_types_of_parameters_and_no_records():
    with new_dag() as dag:
        listed, named, placed = operators()
    assert rendered_parameters(named) == {"least": "(int)", "who": "(str)"}
    assert rendered_parameters(placed) == ["(str)", "(int)"]
    assert rendered_parameters(listed) is None
    assert found(str([rendered(one) for one in (listed, named, placed)])) == []
    assert found(serialized(dag)) == []


def test_values_are_rendered_for_the_query_and_not_shown(dag):
    operator = CreateCustomerOperator(task_id="named", **QUERY, parameters=NAMED)
    for day in ("2026-01-02", "2026-01-03"):
        again = copy.copy(operator)  # as Airflow copies a task for each try
        again.render_template_fields({"ds": day})
        assert revealed(again.parameters) == {"who": f"Secretparameter{day}", "least": 7}
        assert rendered_parameters(again) == {"least": "(int)", "who": "(str)"}
    assert revealed(operator.parameters) == NAMED


def test_parameters_from_a_task_make_the_operator_its_downstream(dag):
    for number, given in enumerate(({"who": extract()}, [extract(), 7], extract())):
        operator = CreateCustomerOperator(task_id=f"create_{number}", **QUERY, parameters=given)
        assert len(operator.upstream_task_ids) == 1
        partial = CreateCustomerOperator.partial(task_id=f"mapped_{number}", sql_conn_id="crm", parameters=given)
        assert partial.expand(sql=["SELECT 1"]).upstream_task_ids == operator.upstream_task_ids


def test_the_parameters_of_a_mapped_task_are_not_stored():
    with new_dag() as dag:
        partial = CreateCustomerOperator.partial(task_id="mapped", sql_conn_id="crm", parameters=NAMED)
        mapped = partial.expand(sql=["SELECT 1"])
    assert found(serialized(dag)) == []
    assert revealed(mapped.partial_kwargs["parameters"]) == NAMED


def literal(task_id="mapped", **arguments):
    return CreateCustomerOperator.partial(task_id=task_id, ledger_conn_id="crm", **arguments)


@pytest.mark.parametrize(
    "expand",
    [
        lambda: literal(records=RECORDS).expand(payarc_conn_id=["a", "b"]),
        lambda: literal(records=json.dumps(RECORDS)).expand(payarc_conn_id=["a", "b"]),
        lambda: literal().expand(records=[[], RECORDS]),
        lambda: literal().expand(records=[json.dumps(RECORDS)]),
        lambda: literal().expand(records={"a": RECORDS}),
        lambda: literal().expand_kwargs([{"records": RECORDS}]),
    ],
)
def test_records_in_the_dag_file_of_a_mapped_task_are_refused_because_airflow_would_store_them(dag, expand):
    with pytest.raises(PayarcConfigError, match=r"^records: ") as caught:
        expand()
    assert found(str(caught.value)) == []


def test_a_mapped_task_may_have_outputs_and_templates_as_records(dag):
    for number, given in enumerate([extract(), [extract(), extract()], "{{ params.records }}", []]):
        literal(f"mapped_{number}", records=given).expand(payarc_conn_id=["a"])


# ---- the wrappers ----------------------------------------------------------------------------------------------------


def test_a_private_value_is_never_shown():
    for private in (Private("Secretname"), NamesAndTypes({"a": "Secretname"}), NamesAndTypes("Secretname")):
        assert found(f"{private!r} {private} {[private]} {private:}") == []
        with pytest.raises(TypeError):
            json.dumps(private)
        assert revealed(pickle.loads(pickle.dumps(private))) == revealed(copy.deepcopy(private)) == private.value
