"""Arguments that are templates, task outputs or arguments of a mapped task group are parsed strictly."""

from __future__ import annotations

import pytest
from airflow_tables import RENDERED_FIELDS

PEOPLE = [{"id": number, "name": "Petra Novak", "email": f"j{number}@example.com"} for number in range(4)]
BAD = {"id": "b", "name": "Jo"}


@pytest.fixture
def create(airflow):
    """Run a DAG with the param ``p``, in which ``create`` has these arguments; ``give(x)`` is a task that returns x."""
    airflow.records(PEOPLE)

    def start(arguments, p=None, *, records="extract()", **options):
        return airflow.run(
            f"""
            @task(show_return_value_in_logs=False)
            def give(value):
                return value

            CreateCustomerOperator(
                task_id='create', records={records}, **{{'ledger_conn_id': 'ledger', **dict({arguments})}},
            )
            """,
            params={"p": p},
            **options,
        )["create"]

    return start


FORMS = ["'{{ params.p }}'", "'  {{ params.p }} '", "give('{{ params.p }}')"]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [True, False, "true", "False"])
def test_dry_run_from_params_is_what_the_params_say(create, sandbox, form, value, native):
    task = create(f"dry_run={form}", value, render_template_as_native_obj=native)
    assert task.state == "success"
    assert task.summary.get("dry_run", False) is (str(value).lower() == "true")
    assert len(sandbox.customers()) == (0 if task.summary.get("dry_run") else 4)


@pytest.mark.parametrize(("value", "state"), [(3, "failed"), ("3", "failed"), (4, "success"), ("4", "success")])
@pytest.mark.parametrize("form", FORMS)
def test_max_new_from_params_guards(create, sandbox, form, value, state):
    assert create(f"max_new={form}", value).state == state
    assert len(sandbox.customers()) == (4 if state == "success" else 0)


@pytest.mark.parametrize(("value", "state"), [(0, "failed"), (1, "success"), ("0.1", "failed"), (0.2, "success")])
def test_max_rejected_from_params_is_a_number_or_a_share(airflow, create, value, state):
    airflow.records([*PEOPLE, BAD])
    assert create("max_rejected='{{ params.p }}'", value).state == state


def test_switches_from_params(airflow, create):
    airflow.records([*PEOPLE, BAD])
    assert create("tolerate_known_rejected='{{ params.p }}'", False).state == "failed"
    assert create("tolerate_known_rejected='{{ params.p }}'", True).state == "success"
    assert create("tolerate_known_rejected='{{ params.p }}'", False).state == "failed"


def test_retry_rejected_from_params(airflow, create, sandbox):
    sandbox.settings(taken={"email": ["j1@example.com"]})
    assert create("max_rejected=1").summary["posts"] == 4
    assert create("max_rejected=1, retry_rejected='{{ params.p }}'", False).summary["posts"] == 0
    assert create("max_rejected=1, retry_rejected='{{ params.p }}'", True).summary["posts"] == 1


def test_all_other_options_from_params(airflow, create, sandbox, ledger_file):
    task = create(
        "match_existing='{{ params.p.match }}', concurrency='{{ params.p.count }}', batch_size='{{ params.p.count }}', "
        "settle='{{ params.p.seconds }}', lease='{{ params.p.seconds }}', reference='{{ params.p.no }}', "
        "deferrable='{{ params.p.no }}', defer_after='{{ params.p.seconds }}', group_ids='{{ params.p.count }}', "
        "push_ids='{{ not params.p.no }}', source='crm {{ params.p.source }}'",
        {"match": "email", "count": 3, "seconds": 90.5, "no": False, "source": "people"},
    )
    assert task.state == "success"
    assert [len(group) for group in task.ids] == [3, 1]
    assert not sandbox.customers()[0]["description"], "no reference"
    assert airflow.dump(ledger_file, "payarc_customers").splitlines().count("crm people") == 4


@pytest.mark.parametrize(
    ("argument", "value"),
    [("dry_run", "yes"), ("dry_run", None), ("max_new", "3.0"), ("max_new", None), ("max_rejected", "5%")],
)
@pytest.mark.parametrize("native", [False, True])
def test_anything_else_is_an_error_that_names_the_argument(create, sandbox, said, argument, value, native):
    given = f"{argument}='{{{{ params.p }}}}', retries=2, retry_delay=timedelta(0)"
    task = create(given, value, render_template_as_native_obj=native)
    assert (task.state, task.try_number) == ("failed", 1), "a retry would change nothing"
    assert f"Error: {argument}: give " in said()
    assert sandbox.stats()["requests"] == {}


@pytest.mark.parametrize("value", ["many", None, -1])
def test_wrong_values_of_a_mapped_task_are_not_retried_either(airflow, sandbox, said, value):
    airflow.records([{"max_new": value, "dry_run": "no"}])
    run = airflow.run(
        """
        CreateCustomerOperator.partial(
            task_id='create', records=[], ledger_conn_id='ledger', retries=2, retry_delay=timedelta(0)
        ).expand_kwargs(extract())
        """
    )
    assert (run["create", 0].state, run["create", 0].try_number) == ("failed", 1)
    assert "PayarcTaskConfigError: " in said()


# ---- names of connections and tables -------------------------------------------------------------------------------

NAMES = {
    "payarc_conn_id": "payarc_default",
    "table": "people",
    "sql": "SELECT * FROM people",
    "sql_conn_id": "crm",
    "ledger_conn_id": "crm",
    "ledger_table": "our_ledger",
}


def arguments_with(name, code, **more):
    given = {"table": "'people'", "sql_conn_id": "'crm'", **more, name: code}
    if name == "sql":
        del given["table"]
    return "task_id='create', " + ", ".join(f"{argument}={value}" for argument, value in given.items())


GIVE = """
@task(show_return_value_in_logs=False)
def give(value):
    return value

"""


@pytest.mark.parametrize("crm", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_names_may_be_the_output_of_a_task(airflow, sandbox, crm, name):
    crm.table("people", PEOPLE)
    run = airflow.run(f"{GIVE}CreateCustomerOperator({arguments_with(name, f'give({NAMES[name]!r})')})")
    assert run.state == "success"
    assert len(sandbox.customers()) == 4


@pytest.mark.parametrize("crm", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_names_may_be_the_argument_of_a_mapped_task_group(airflow, sandbox, crm, name):
    crm.table("people", PEOPLE)
    run = airflow.run(
        f"""
        from airflow.providers.common.compat.sdk import task_group

        @task_group
        def merchant(given):
            CreateCustomerOperator({arguments_with(name, "given")})

        merchant.expand(given=[{NAMES[name]!r}])
        """
    )
    assert run.state == "success"
    assert len(sandbox.customers()) == 4


def test_options_may_be_arguments_of_a_mapped_task_group(airflow, sandbox):
    airflow.records(PEOPLE)
    run = airflow.run(
        """
        from airflow.providers.common.compat.sdk import task_group

        @task_group
        def merchant(dry):
            CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger', dry_run=dry)

        merchant.expand(dry=[True, 'true'])
        """
    )
    assert run.state == "success"
    assert sandbox.customers() == []


def test_options_of_mapped_tasks_may_be_outputs(airflow, sandbox):
    airflow.records(PEOPLE)
    dag = airflow.dag(
        f"""{GIVE}
CreateCustomerOperator.partial(
    task_id='create', records=extract(), ledger_conn_id='ledger', dry_run=give('true')
).expand(max_new=[10, 20])
        """
    )
    assert dag.get_task("create").upstream_task_ids == {"extract", "give"}
    run = airflow.test(dag)
    assert run.state == "success"
    assert sandbox.customers() == []


@pytest.mark.parametrize("crm", ["sqlite"], indirect=True)
@pytest.mark.parametrize("code", ["give('')", "give(' crm')", "give(None)", "give(7)", "'{{ none }}'", "\"{{ '' }}\""])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_comes_out_wrong_stops_the_run_instead_of_falling_back(airflow, sandbox, crm, said, name, code):
    crm.table("people", PEOPLE)
    if (name, code) == ("sql", "give(' crm')"):
        pytest.skip("a query may begin with a blank")
    arguments = arguments_with(name, code, retries=2, retry_delay="timedelta(0)")
    run = airflow.run(f"{GIVE}CreateCustomerOperator({arguments})")
    assert (run["create"].state, run["create"].try_number) == ("failed", 1)
    assert f"Error: {name}: " in said()
    assert sandbox.stats()["requests"] == {}


def test_rendered_fields_hold_the_options_and_no_records(airflow, create):
    create("max_new='{{ params.p }}'", 77)
    rendered = airflow.metadata(RENDERED_FIELDS)
    assert "77" in rendered or not rendered, "dag.test() stores none before Airflow 3"
    assert "Petra Novak" not in rendered
