"""CreateCustomerOperator: how its arguments are checked, and what importing it costs."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import inspect
import re
import sqlite3
import subprocess
import sys
from typing import NamedTuple

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowException, XComArg, conf

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.customer import CreateCustomerOperator

RECORDS = [{"id": 1, "name": "John Smith"}]
FROM_TABLE = {"table": "people", "sql_conn_id": "crm"}
PLAN = "plan-0123456789abcdef0123456789abcdef"
FROM_XCOM = {"records": RECORDS, "ledger_conn_id": "crm"}


class Row(NamedTuple):
    id: int
    name: str


@dataclasses.dataclass
class DataRow:
    id: int


def sqlite3_rows():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT 1 AS id, 'John Smith' AS name").fetchall()


def build(**arguments):
    return CreateCustomerOperator(task_id="create", **arguments)


def error_of(**arguments):
    with pytest.raises(PayarcConfigError) as caught:
        build(**arguments)
    return str(caught.value)


@pytest.fixture
def dag():
    with DAG("arguments", schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) as built:
        yield built


def extract(task_id="extract"):
    return CreateCustomerOperator(task_id=task_id, **FROM_TABLE).output


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


@pytest.mark.parametrize("arguments", [FROM_XCOM, {"sql": "SELECT 1 AS id", "sql_conn_id": "crm"}])
@pytest.mark.parametrize("value", ["payarc_id", "{{ params.column }}"])
def test_only_a_table_can_receive_ids(arguments, value):
    assert error_of(**arguments, write_back=value) == (
        "write_back: only a table can receive ids. Read one with table, or remove write_back"
    )


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
        ("max_rejected", "five"),
        ("max_rejected", "5%"),
        ("max_rejected", None),
        ("max_rejected", float("nan")),
        ("max_new", -1),
        ("max_new", -0.1),
        ("max_new", True),
        ("max_new", "5.0"),
        ("max_changed", -1),
        ("max_changed", 1.5),
        ("max_changed", "5%"),
        ("min_records", -1),
        ("min_records", 0.5),
        ("min_records", True),
        ("approved_plan", "yes"),
        ("approved_plan", ""),
        ("approved_plan", True),
        ("approved_plan", PLAN.upper()),
        ("approved_plan", PLAN[:-1]),
        ("concurrency", 0),
        ("concurrency", 2.0),
        ("concurrency", True),
        ("batch_size", 0),
        ("batch_size", "5_00"),
        ("settle", 0),
        ("settle", -1),
        ("settle", "60 s"),
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
        {"max_new": 0.05, "max_changed": 1.0, "min_records": 1},
        {"approved_plan": PLAN},
        {"approved_plan": "{{ ti.xcom_pull('plan', key='summary')['plan'] }}"},
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


@pytest.mark.parametrize("group_ids", [0, -1, 1.5, True, "ten"])
def test_an_invalid_group_size_is_rejected(group_ids):
    assert re.match("group_ids: (set|give) a whole number", error_of(**FROM_TABLE, group_ids=group_ids))


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
    assert operator.read_options().settings.dry_run is True


def test_the_interface_has_the_documented_parameters_and_defaults():
    signature = inspect.signature(CreateCustomerOperator.__init__).parameters
    documented = {
        "payarc_conn_id": "payarc_default", "records": None, "table": None, "sql": None, "sql_conn_id": None,
        "parameters": None, "key": "id", "version": None, "fields": None, "source": None, "ledger_conn_id": None,
        "ledger_table": "payarc_customers", "match_existing": None, "on_changed": "report", "on_empty": "keep",
        "on_conflict": "overwrite", "validation": "guide",
        "max_rejected": 0, "tolerate_known_rejected": False, "approved_plan": None,
        "max_new": None, "max_changed": None, "min_records": None,
        "concurrency": 8, "batch_size": 500, "deferrable": False, "defer_after": 20, "dry_run": False,
        "reference": True, "settle": 60, "lease": 120, "retry_rejected": False, "push_ids": True, "group_ids": None,
        "partition": None, "write_back": None,
    }  # fmt: skip
    assert {name: signature[name].default for name in signature if name not in ("self", "kwargs")} == documented


# ---- templates and outputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "values"),
    {
        "dry_run": {True: True, "true": True, "True": True, " FALSE\n": False},
        "max_new": {0: 0, "0": 0, " 25 ": 25, "0.05": 0.05},
        "max_changed": {"25": 25, "1.0": 1.0},
        "min_records": {"1000": 1000},
        "approved_plan": {PLAN: PLAN},
        "max_rejected": {"5": 5, "0.05": 0.05, "1e-05": 1e-05, "1.0": 1.0},
        "settle": {"60": 60, "60.5": 60.5},
        "match_existing": {"email": "email"},
        "source": {"crm people": "crm people"},
        "write_back": {"payarc_id": "payarc_id"},
    }.items(),
)
def test_rendered_options_are_parsed(argument, values):
    for value, meant in values.items():
        operator = build(**FROM_TABLE, **{argument: "{{ params.p }}"})
        operator.options = {**operator.options, argument: value}  # as Airflow does
        options = operator.read_options()
        read = getattr(options, argument) if hasattr(options, argument) else getattr(options.settings, argument)
        assert (read, type(read)) == (meant, type(meant))


@pytest.mark.parametrize(
    ("argument", "values"),
    {
        "dry_run": ["yes", "1", 1, 0, "", None, "tru", "[]", "'true'", '"true"'],
        "retry_rejected": ["on", None, 2],
        "push_ids": ["no", "0", [True]],
        "max_new": [
            "many",
            "3.0",
            3.0,
            "1e3",
            "1_000",
            "1 000",
            "0x10",
            "٣",
            "05",
            "+5",
            None,
            "None",
            "",
            "-1",
            "[5]",
        ],
        "max_changed": ["many", "3.0", None, "None", "", "-1", "nan", True],
        "min_records": ["many", "0.5", None, "None", "", "-1", False],
        "approved_plan": [None, "None", "", "true", True, 7, f" {PLAN}", PLAN + "0"],
        "max_rejected": ["5%", "1,000", None, "nan", "NaN", "Infinity", float("nan"), "-0.1", "1.5", True, "True"],
        "group_ids": [None, "0", "ten"],
        "settle": ["60 s", "0", "1e999", float("inf"), None],
        "match_existing": ["phone", None, "", "Email"],
        "source": [None, "None", "", "\n", " crm", "crm\npeople", 7, ["crm"]],
        "concurrency": ["0", "8.5", {"a": 1}],
        "write_back": [None, "", 7, ["payarc_id"]],
    }.items(),
)
def test_anything_else_is_an_error_that_names_the_argument(argument, values):
    for value in values:
        operator = build(**FROM_TABLE, **{argument: "{{ params.p }}"})
        operator.options = {**operator.options, argument: value}
        with pytest.raises(PayarcConfigError, match=f"^{argument}: "):
            operator.read_options()


@pytest.mark.parametrize(
    "value", ["{{ params.p }}", "{% if params.p %}id{% endif %}", "an output", ["{{ params.p }}", "id"]]
)
@pytest.mark.parametrize("argument", ["key", "fields", "partition"])
def test_templates_and_outputs_are_refused_by_name_where_they_would_not_be_replaced(dag, argument, value):
    given = extract() if value == "an output" else value
    given = {"email": given} if argument == "fields" else given
    told = f"^{argument}: cannot be a template or a task's output"
    with pytest.raises(PayarcConfigError, match=told):
        build(**FROM_TABLE, **{argument: given})
    with pytest.raises(PayarcConfigError, match=told):
        CreateCustomerOperator.partial(task_id="mapped", **FROM_TABLE, **{argument: given})


@pytest.mark.parametrize(
    "argument",
    ["payarc_conn_id", "table", "sql_conn_id", "ledger_conn_id", "ledger_table", "dry_run", "max_new", "source"],
)
def test_outputs_as_arguments_make_the_operator_their_downstream(dag, argument):
    operator = build(**FROM_TABLE | {argument: extract()})
    assert operator.upstream_task_ids == {"extract"}
    assert "set by another task" in operator.doc_md or argument in ("dry_run", "max_new", "source")


@pytest.mark.parametrize("argument", ["payarc_conn_id", "table", "sql_conn_id", "ledger_conn_id", "ledger_table"])
@pytest.mark.parametrize("value", ["", " ", "None", " crm", 7, ["crm"]])
def test_names_that_are_empty_or_no_text_are_rejected(argument, value):
    assert re.match(f"{argument}: |.* sql_conn_id", error_of(**FROM_TABLE | {argument: value}))


# ---- literal records -----------------------------------------------------------------------------------------------

ONE = {"id": 1, "name": "John Smith"}
LITERALS = {
    "a template in a dict": ([{"id": 1, "name": "{{ params.who }}"}], "tojson"),
    "a template among dicts": ([ONE, "{{ params.who }}"], "tojson"),
    "a statement in a dict": ([{"id": 1, "name": "{% if 1 %}John{% endif %}"}], "tojson"),
    "a list of templates": (["{{ params.one | tojson }}", "{{ params.two | tojson }}"], ""),
    "a dict": (ONE, "[record]"),
    "a wrapped list": ({"rows": [ONE]}, 'response["rows"]'),
    "tuples": ([(1, "John Smith")], "dict(zip(columns, row))"),
    "a tuple": ((ONE,), "list(rows)"),
    "a set": ({"John Smith"}, "list(rows)"),
    "a generator": ((row for row in [ONE]), "list(rows)"),
    "a map": (map(dict, [ONE]), "list(rows)"),
    "bytes": (b"[]", "json.loads(value)"),
    "nested lists": ([[ONE], [ONE]], "for part in parts"),
    "named tuples": ([Row(1, "John Smith")], "[row._asdict() for row in rows]"),
    "data classes": ([DataRow(1)], "[dataclasses.asdict(row) for row in rows]"),
    "objects": ([object()], "Make each record a dict"),
    "keys of a dict": ({"John": 1}.keys(), "list(rows)"),
    "a number": (7, "in a list"),
    "a deque": (collections.deque([ONE]), "list(rows)"),
    "SQLite's rows": (sqlite3_rows(), "dict(zip(columns, row))"),
}


@pytest.mark.parametrize("what", LITERALS)
def test_a_literal_of_another_shape_is_refused_with_the_conversion_to_write(dag, what):
    records, conversion = LITERALS[what]
    error = error_of(records=records, ledger_conn_id="crm")
    assert error.startswith("records: ")
    assert conversion in error
    assert "John" not in error
    assert len(error) <= 210


def test_a_literal_of_a_mapped_task_is_refused_in_the_same_way(dag):
    wrong = [{"id": 1, "name": "{{ params.who }}"}]
    operator = CreateCustomerOperator.partial(task_id="a", ledger_conn_id="crm", records=wrong)
    for expand in (
        lambda: operator.expand(payarc_conn_id=["a", "b"]),
        lambda: CreateCustomerOperator.partial(task_id="b", ledger_conn_id="crm").expand(records=[[], wrong]),
        lambda: CreateCustomerOperator.partial(task_id="c", ledger_conn_id="crm").expand_kwargs([{"records": wrong}]),
    ):
        with pytest.raises(PayarcConfigError, match="records: templates inside a list are not"):
            expand()


@pytest.mark.parametrize("module", ["pandas", "numpy"])
def test_frames_and_arrays_are_refused_with_the_conversion_to_write(module):
    library = pytest.importorskip(module)
    given = library.DataFrame(RECORDS) if module == "pandas" else library.array([[1, 2]])
    conversion = 'frame.to_dict("records")' if module == "pandas" else "list(rows)"
    assert conversion in error_of(records=given, ledger_conn_id="crm")


@pytest.mark.parametrize("mixed", [lambda: [ONE, extract()], lambda: [{"id": 1, "name": extract()}]])
def test_dicts_and_outputs_do_not_mix_in_a_literal_list(dag, mixed):
    assert "pass a list of outputs only" in error_of(records=mixed(), ledger_conn_id="crm")


# ---- in a DAG ------------------------------------------------------------------------------------------------------


def test_records_is_not_a_template_field_because_those_are_stored_and_shown():
    assert set(CreateCustomerOperator.template_fields) == {
        "payarc_conn_id", "table", "sql", "sql_conn_id", "parameters", "ledger_conn_id", "ledger_table", "options",
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


def test_a_list_of_outputs_makes_the_operator_the_downstream_of_all(dag):
    outputs = [extract("one"), extract("two").map(lambda row: row)]
    assert build(records=outputs, ledger_conn_id="crm").upstream_task_ids == {"one", "two"}
    partial = CreateCustomerOperator.partial(task_id="mapped", ledger_conn_id="crm", records=outputs)
    assert partial.expand(payarc_conn_id=["payarc_a", "payarc_b"]).upstream_task_ids == {"one", "two"}
    expanded = CreateCustomerOperator.partial(task_id="expanded", ledger_conn_id="crm").expand(records=outputs)
    assert expanded.upstream_task_ids == {"one", "two"}


def test_partial_options_make_the_operator_the_downstream_of_their_task(dag):
    partial = CreateCustomerOperator.partial(task_id="create", **FROM_TABLE, dry_run=extract())
    assert partial.expand(partition=[(0, 2), (1, 2)]).upstream_task_ids == {"extract"}


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
