"""The shapes of ``records``: lists of dicts and lists of task outputs work; every other shape is one clear error."""

from __future__ import annotations

import json
import re

import pytest


def people(*numbers):
    return [{"id": number, "name": "John Smith", "email": f"j{number}@example.com"} for number in numbers]


@pytest.fixture
def run(airflow):
    """Run a DAG with two tasks that return people 0, 1 and 2, 3, and a task ``part`` that returns one of these."""

    def start(body, **options):
        airflow.records([people(0, 1), people(2, 3)])
        return airflow.run(
            """
            @task(show_return_value_in_logs=False)
            def one():
                return extract.function()[0]

            @task(show_return_value_in_logs=False)
            def two():
                return extract.function()[1]

            @task(show_return_value_in_logs=False)
            def part(place):
                return extract.function()[place]

            @task(show_return_value_in_logs=False)
            def returns(value):
                return value
            """
            + body,
            **options,
        )

    return start


def emails(sandbox, ids):
    stored = {customer["customer_id"]: customer["email"] for customer in sandbox.customers()}
    return [stored[customer_id] for customer_id in ids]


# ---- lists of task outputs -----------------------------------------------------------------------------------------

LISTS = {
    "two tasks": "[one(), two()]",
    "a transformed output": "[one().map(lambda row: row), two()]",
    "a mapped task and another": "[part.expand(place=[0]), two()]",
    "a mapped task that returns dicts": "[part.expand(place=[0, 1]).map(lambda rows: rows[0]), "
    "part.override(task_id='again').expand(place=[0, 1]).map(lambda rows: rows[1])]",
    "concatenated outputs": "[one().concat(two())]",
}


@pytest.mark.parametrize("form", LISTS)
def test_a_list_of_task_outputs_waits_for_all_and_creates_all(run, sandbox, form):
    done = run(
        f"""
            CreateCustomerOperator(task_id='create', records={LISTS[form]}, ledger_conn_id='ledger')
        """
    )
    assert done.state == "success"
    assert sorted(emails(sandbox, done["create"].ids)) == [f"j{number}@example.com" for number in range(4)]
    assert len(sandbox.customers()) == 4


def test_a_list_of_task_outputs_can_be_passed_to_each_mapped_task(run, sandbox):
    done = run(
        """
            CreateCustomerOperator.partial(
                task_id='create', records=[one(), two()], ledger_conn_id='ledger'
            ).expand(partition=[(0, 2), (1, 2)])
        """
    )
    assert done.state == "success"
    assert sorted(done["create", 0].ids + done["create", 1].ids) == sorted(
        customer["customer_id"] for customer in sandbox.customers()
    )
    assert len(sandbox.customers()) == 4


def test_a_list_of_task_outputs_can_be_mapped_over(run, sandbox):
    done = run(
        """
            CreateCustomerOperator.partial(task_id='create', ledger_conn_id='ledger').expand(records=[one(), two()])
        """
    )
    assert done.state == "success"
    assert emails(sandbox, done["create", 0].ids) == ["j0@example.com", "j1@example.com"]
    assert emails(sandbox, done["create", 1].ids) == ["j2@example.com", "j3@example.com"]


def test_a_list_may_hold_an_argument_of_a_mapped_task_group(run, sandbox):
    done = run(
        """
            from airflow.providers.common.compat.sdk import task_group

            @task_group
            def merchant(records):
                CreateCustomerOperator(task_id='create', records=[records, two()], ledger_conn_id='ledger')

            merchant.expand(records=one().map(lambda row: [row]))
        """
    )
    assert done.state == "success"
    assert [len(done["merchant.create", place].ids) for place in range(2)] == [3, 3]
    assert len(sandbox.customers()) == 4


@pytest.mark.parametrize("first", ["None", "[(1, 'John Smith')]", "'no json'", "{'rows': [{'id': 1}]}.items()"])
def test_one_wrong_output_of_several_fails_the_run_before_anything_is_sent(run, sandbox, said, first):
    done = run(
        f"""
            @task(show_return_value_in_logs=False)
            def wrong():
                value = {first}
                return list(value) if isinstance(value, type({{}}.items())) else value

            CreateCustomerOperator(task_id='create', records=[wrong(), two()], ledger_conn_id='ledger')
        """
    )
    assert done["create"].state == "failed"
    assert "records: " in said()
    assert "wrong" in said()
    assert sandbox.stats()["posts"]["received"] == 0


# ---- every other shape ---------------------------------------------------------------------------------------------

# What a task returns → (the shape that the error names, the conversion it gives)
RETURNED = {
    "rows of a SQL task": (
        "[(1, 'John Smith', 'a@example.com'), (2, 'Mary Jones', 'b@example.com')]",
        "a list with a (tuple|list) in it",
        "dict(zip(columns, row)) for row in rows",
    ),
    "rows as lists": ("[[1, 'John Smith'], [2, 'Mary Jones']]", "a list with a list in it", "dict(zip(columns, row))"),
    "one row": ("(1, 'John Smith', 'a@example.com')", "a (tuple|list)", "dict"),
    "a wrapped list": ("{'rows': [{'id': 1, 'name': 'John Smith'}]}", "a dict", 'response["rows"]'),
    "one record": ("{'id': 1, 'name': 'John Smith'}", "a dict", "[record]"),
    "records by key": ("{'1': {'id': 1, 'name': 'John Smith'}}", "a dict", "[record]"),
    "nested lists": ("[[{'id': 1, 'name': 'John Smith'}], []]", "a list with a list in it", "for part in parts"),
    "nested lists among records": (
        "[{'id': 1, 'name': 'John Smith'}, [{'id': 2, 'name': 'Mary Jones'}]]",
        "a list with a list in it",
        "for part in parts",
    ),
    "a set": ("{'John Smith', 'Mary Jones'}", "a (set|list with a str in it)", "rite "),
    "names": ("['John Smith', 'Mary Jones']", "a list with a str in it", "json.loads(text)"),
    "numbers": ("[1, 2]", "a list with a int in it", "Make each record a dict"),
    "a number": ("7", "a int", "one dict for each record"),
    "a truth value": ("True", "a bool", "one dict for each record"),
    "JSON of one record": ("json.dumps({'id': 1})", "a dict", "[record]"),
    "JSON of rows": ("json.dumps([[1, 'John Smith']])", "a list with a list in it", "dict(zip(columns, row))"),
    "JSON of null": ("'null'", "nothing", "which may be empty"),
    "JSON lines": ("json.dumps({'id': 1}) + chr(10) + json.dumps({'id': 2})", "not valid JSON", "tojson"),
    "Python's text of a list": ("str([{'id': 1, 'name': 'John Smith'}])", "not valid JSON", "tojson"),
    "an empty text": ("''", "not valid JSON", "tojson"),
    "nothing": ("None", "returned nothing", "which may be empty"),
}


@pytest.mark.parametrize("what", RETURNED)
def test_another_shape_fails_with_the_conversion_to_write(run, sandbox, said, what):
    code, shape, conversion = RETURNED[what]
    done = run(
        f"""
            @task(show_return_value_in_logs=False, retries=0)
            def source():
                return {code}

            CreateCustomerOperator(
                task_id='create', records=source(), ledger_conn_id='ledger', max_rejected=1.0,
                retries=3, retry_delay=timedelta(0),
            )
        """
    )
    assert done["create"].state == "failed"
    assert done["create"].try_number == 1, "a retry would change nothing"
    (error,) = {line.partition("records: ")[2] for line in said().splitlines() if "Error: records: " in line}
    assert re.search(shape, error)
    assert conversion in error
    assert "source" in error
    assert "Smith" not in error
    assert sandbox.stats()["requests"] == {}


@pytest.mark.parametrize("given", ["returns()", "[returns()]"])
def test_a_data_frame_is_not_taken_for_its_column_names(airflow, sandbox, said, given):
    pytest.importorskip("pandas")
    run = airflow.run(
        f"""
        @task(show_return_value_in_logs=False)
        def returns():
            import pandas
            return pandas.DataFrame({{"id": [1, 2], "name": ["John Smith", "Mary Jones"]}})

        CreateCustomerOperator(task_id='create', records={given}, ledger_conn_id='ledger', max_rejected=1.0)
        """
    )
    if run["returns"].state == "success":  # else this Airflow cannot pass a DataFrame
        assert run["create"].state == "failed"
        assert 'a DataFrame from returns instead of a list of dicts. Write frame.to_dict("records")' in said()
    assert sandbox.stats()["requests"] == {}


NATIVE = {
    "tuples": ("[(1, 'John Smith')]", "dict(zip(columns, row))"),
    "one record": ("{'id': 1, 'name': 'John Smith'}", "[record]"),
    "a tuple": ("({'id': 1}, {'id': 2})", "list(rows)"),
    "bytes": ("b'[]'", "json.loads(value)"),
    "nothing": ("None", "which may be empty"),
}


@pytest.mark.parametrize("what", NATIVE)
def test_a_native_template_may_give_no_other_shape_either(airflow, sandbox, said, what):
    value, conversion = NATIVE[what]
    run = airflow.run(
        f"""
        CreateCustomerOperator(task_id='create', records="{{{{ {value} }}}}", ledger_conn_id='ledger')
        """
        if what != "bytes"
        else """
        dag.user_defined_macros = {'value': b'[]'}
        CreateCustomerOperator(task_id='create', records="{{ value }}", ledger_conn_id='ledger')
        """,
        render_template_as_native_obj=True,
    )
    assert run["create"].state == "failed"
    assert "records: " in said()
    assert conversion in said()
    assert sandbox.stats()["requests"] == {}


def test_a_scalar_among_records_is_one_rejected_record(run, sandbox):
    done = run(
        """
            CreateCustomerOperator(
                task_id='create', records=returns([{'id': 1, 'name': 'John Smith'}, None, 'x']),
                ledger_conn_id='ledger', max_rejected=2,
            )
        """
    )
    assert (done.state, done["create"].summary["rejected"], len(sandbox.customers())) == ("success", 2, 1)


def test_text_that_data_puts_in_place_of_a_template_is_not_rendered(airflow, sandbox, said):
    """``expand_kwargs`` with ``strict=False`` lets data replace an argument of ``partial``."""
    airflow.records([{"records": "{{ [{'id': 1, 'name': 'Injected'}] | tojson }}"}])
    run = airflow.run(
        """
        CreateCustomerOperator.partial(
            task_id='create', records="{{ [] | tojson }}", ledger_conn_id='ledger'
        ).expand_kwargs(extract(), strict=False)
        """
    )
    assert run["create", 0].state == "failed"
    assert "not valid JSON" in said()
    assert sandbox.customers() == []


def test_templates_that_the_dag_file_maps_over_are_rendered(airflow, sandbox):
    texts = [json.dumps(people(number)).replace('"j', '"{{ "j" }}') for number in (0, 1)]
    run = airflow.run(
        f"""
        CreateCustomerOperator.partial(task_id='create', ledger_conn_id='ledger').expand(records={texts!r})
        """
    )
    assert run.state == "success"
    assert [emails(sandbox, run["create", place].ids) for place in (0, 1)] == [["j0@example.com"], ["j1@example.com"]]
