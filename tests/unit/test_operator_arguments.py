"""CreateCustomerOperator: how its arguments are checked, and what importing it costs."""

from __future__ import annotations

import datetime
import inspect
import subprocess
import sys

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowException, XComArg, conf

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.customer import CreateCustomerOperator

RECORDS = [{"id": 1, "name": "John Smith"}]
FROM_TABLE = {"table": "people", "sql_conn_id": "crm"}
FROM_XCOM = {"records": RECORDS, "ledger_conn_id": "crm"}


def build(**arguments):
    return CreateCustomerOperator(task_id="create", **arguments)


def error_of(**arguments):
    with pytest.raises(PayarcConfigError) as caught:
        build(**arguments)
    return str(caught.value)


# ---- the source ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        FROM_TABLE,
        FROM_XCOM,
        {**FROM_XCOM, "records": []},
        {**FROM_XCOM, "records": "{{ ti.xcom_pull('extract') | tojson }}"},
        {"sql": "SELECT * FROM people", "sql_conn_id": "crm"},
        {"sql": "SELECT * FROM people WHERE team = %(team)s", "sql_conn_id": "crm", "parameters": {"team": "north"}},
        {**FROM_TABLE, "ledger_conn_id": "ledger"},
        {**FROM_TABLE, "key": ["tenant", "id"], "fields": {"email": "mail"}},
    ],
)
def test_one_source_of_records_is_accepted(arguments):
    operator = build(**arguments)
    assert operator.payarc_conn_id == "payarc_default"
    assert operator.ledger_table == "payarc_customers"


def test_a_missing_source_is_rejected():
    assert error_of() == "records, table, sql: set exactly one of them; none set"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"records": RECORDS, "table": "people"}, "records and table set"),
        ({"table": "people", "sql": "SELECT 1"}, "table and sql set"),
        ({"records": [], "table": "people", "sql": "SELECT 1"}, "records and table and sql set"),
    ],
)
def test_several_sources_are_rejected_by_name(arguments, named):
    assert named in error_of(sql_conn_id="crm", ledger_conn_id="crm", **arguments)


@pytest.mark.parametrize("source", ["table", "sql"])
def test_a_database_source_needs_its_connection(source):
    assert error_of(**{source: "people"}).startswith(f"{source}: also set sql_conn_id")


def test_records_from_xcom_need_the_connection_of_a_ledger():
    assert error_of(records=RECORDS).startswith("ledger_conn_id: set the connection of the ledger's database")


def test_parameters_belong_to_sql():
    assert error_of(**FROM_TABLE, parameters={"team": "north"}).startswith("parameters: ")


# ---- the other arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("key", ""),
        ("key", []),
        ("key", ["id", "id"]),
        ("fields", {"emial": "mail"}),
        ("fields", {}),
        ("max_rejected", -1),
        ("max_rejected", -0.1),
        ("max_rejected", 1.5),
        ("max_rejected", True),
        ("max_rejected", "5"),
        ("max_rejected", "5%"),
        ("max_rejected", None),
        ("max_rejected", float("nan")),
        ("max_new", -1),
        ("max_new", 1.0),
        ("max_new", True),
        ("max_new", "5"),
        ("concurrency", 0),
        ("concurrency", 2.0),
        ("concurrency", True),
        ("batch_size", 0),
        ("batch_size", "500"),
        ("settle", 0),
        ("settle", -1),
        ("settle", "60"),
        ("settle", float("nan")),
        ("settle", float("inf")),
        ("lease", 0),
        ("lease", None),
        ("lease", True),
        ("lease", float("nan")),
        ("lease", float("inf")),
        ("match_existing", "phone"),
        ("match_existing", True),
        ("source", ""),
        ("source", " "),
        ("source", "None"),
        ("source", " crm people"),
        ("source", "crm\npeople"),
        ("source", "x" * 501),
        ("source", 1),
    ],
)
def test_an_invalid_argument_is_rejected_by_name(argument, value):
    assert error_of(**FROM_TABLE, **{argument: value}).startswith(f"{argument}: ")


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_rejected": 0},
        {"max_rejected": 10},
        {"max_rejected": 0.0},
        {"max_rejected": 0.05},
        {"max_rejected": 1.0},
        {"max_new": 0},
        {"max_new": 100},
        {"max_new": None},
        {"concurrency": 1},
        {"batch_size": 1},
        {"settle": 60, "lease": 120.5},
        {"match_existing": "email"},
        {"fields": {"email": "mail", "name": "full name"}},
        {"key": ("tenant", "id")},
        {"group_ids": 100},
        {"partition": (0, 2)},
        {"partition": [1, 2]},
        {"deferrable": True, "defer_after": 60},
    ],
)
def test_a_valid_argument_is_accepted(arguments):
    build(**FROM_TABLE, **arguments)


@pytest.mark.parametrize(
    "partition", [(0,), (0, 0), (4, 4), (-1, 4), ("0", "4"), (0.0, 4), (True, 2), "04", 4, (0, 1, 2)]
)
def test_an_invalid_partition_is_rejected(partition):
    assert error_of(**FROM_TABLE, partition=partition).startswith("partition: give (i, n)")


@pytest.mark.parametrize("group_ids", [0, -1, 1.5, True, "100"])
def test_an_invalid_group_size_is_rejected(group_ids):
    assert error_of(**FROM_TABLE, group_ids=group_ids).startswith("group_ids: set a whole number")


def test_deferrable_may_be_airflows_default(monkeypatch):
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    assert conf.getboolean("operators", "default_deferrable")
    build(**FROM_TABLE, deferrable=True)


def test_an_unknown_argument_is_rejected():
    with pytest.raises((TypeError, AirflowException), match="max_rejcted"):
        build(**FROM_TABLE, max_rejcted=5)


def test_the_argument_dry_run_does_not_overwrite_airflows_method():
    operator = build(**FROM_TABLE, dry_run=True)
    assert callable(operator.dry_run)
    assert operator.settings.dry_run is True


def test_the_interface_has_the_documented_parameters_and_defaults():
    signature = inspect.signature(CreateCustomerOperator.__init__).parameters
    documented = {
        "payarc_conn_id": "payarc_default", "records": None, "table": None, "sql": None, "sql_conn_id": None,
        "parameters": None, "key": "id", "fields": None, "source": None, "ledger_conn_id": None,
            "ledger_table": "payarc_customers",
        "match_existing": None, "max_rejected": 0, "tolerate_known_rejected": False, "max_new": None, "concurrency": 8,
        "batch_size": 500, "deferrable": False, "defer_after": 20, "dry_run": False, "reference": True, "settle": 60,
        "lease": 120, "retry_rejected": False, "push_ids": True, "group_ids": None, "partition": None,
    }  # fmt: skip
    assert {name: signature[name].default for name in signature if name not in ("self", "kwargs")} == documented


# ---- in a DAG ------------------------------------------------------------------------------------------------------


@pytest.fixture
def dag():
    with DAG("arguments", schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) as built:
        yield built


def extract(task_id="extract"):
    return CreateCustomerOperator(task_id=task_id, **FROM_TABLE).output


def test_records_is_not_a_template_field_because_those_are_stored_and_shown():
    assert set(CreateCustomerOperator.template_fields) == {
        "payarc_conn_id", "table", "sql", "sql_conn_id", "parameters", "ledger_conn_id", "ledger_table",
    }  # fmt: skip


def test_records_from_a_task_make_the_operator_its_downstream(dag):
    operator = build(records=extract(), ledger_conn_id="crm")
    assert operator.upstream_task_ids == {"extract"}


def test_records_from_a_transformed_output_make_the_operator_its_downstream(dag):
    operator = build(records=extract().map(lambda row: row), ledger_conn_id="crm")
    assert operator.upstream_task_ids == {"extract"}


def test_expanded_records_make_the_operator_the_downstream_of_their_task(dag):
    mapped = CreateCustomerOperator.partial(task_id="create", ledger_conn_id="crm").expand(records=extract())
    assert mapped.upstream_task_ids == {"extract"}


def test_partial_records_make_the_operator_the_downstream_of_their_task(dag):
    partial = CreateCustomerOperator.partial(task_id="create", ledger_conn_id="crm", records=extract())
    mapped = partial.expand(payarc_conn_id=["payarc_a", "payarc_b"])
    assert mapped.upstream_task_ids == {"extract"}


def test_partial_without_records_has_no_upstream(dag):
    mapped = CreateCustomerOperator.partial(task_id="create", sql_conn_id="crm").expand(table=["a", "b"])
    assert mapped.upstream_task_ids == set()


def test_the_output_can_be_mapped_over(dag):
    output = build(**FROM_TABLE).output
    assert isinstance(output, XComArg)
    mapped = CreateCustomerOperator.partial(task_id="next", ledger_conn_id="crm").expand(records=output)
    assert mapped.upstream_task_ids == {"create"}


# ---- what importing costs ------------------------------------------------------------------------------------------


def modules_after(statement):
    code = f"import sys; {statement}; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "payarc_provider.exceptions",
        "payarc_provider.api.client",
        "payarc_provider.sync.engine",
        "payarc_provider.sync.runner",
    ],
)
def test_the_core_can_be_used_without_airflow(module):
    assert "airflow" not in modules_after(f"import {module}")


def test_every_module_of_the_core_can_be_imported_without_airflow():
    walk = (
        "import importlib, pkgutil, payarc_provider.api, payarc_provider.sync; "
        "[importlib.import_module(found.name) for package in (payarc_provider.api, payarc_provider.sync) "
        "for found in pkgutil.iter_modules(package.__path__, package.__name__ + '.')]"
    )
    loaded = modules_after(walk)
    assert "payarc_provider.sync.ledger" in loaded
    assert not [name for name in loaded if name.partition(".")[0] == "airflow"]


def test_parsing_a_dag_file_loads_neither_the_http_library_nor_the_engine():
    loaded = modules_after("import payarc_provider.operators.customer")
    assert not {"payarc_provider.api.client", "payarc_provider.sync.engine", "payarc_provider.operators.task"} & {
        *loaded
    }
