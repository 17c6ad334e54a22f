"""Records from XCom, in every form in which a DAG can pass them."""

from __future__ import annotations

import json

import pytest

from payarc_provider.sandbox import make_token


def people(count, first=0, **fields):
    return [
        {"id": number, "name": "John Smith", "email": f"j{number}@example.com", **fields}
        for number in range(first, first + count)
    ]


def emails(sandbox, ids):
    stored = {customer["customer_id"]: customer["email"] for customer in sandbox.customers()}
    return [stored[customer_id] for customer_id in ids]


def test_only_the_40_new_ones_of_50_records_are_posted(airflow, sandbox):
    dag = airflow.dag("CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')")
    airflow.records(people(10, first=5))
    first = airflow.test(dag)["create"]
    posts = sandbox.stats()["posts"]["received"]
    airflow.records(people(50))
    second = airflow.test(dag)["create"]
    assert sandbox.stats()["posts"]["received"] - posts == 40
    assert len(sandbox.customers()) == 50
    assert emails(sandbox, second.ids) == [f"j{number}@example.com" for number in range(50)]
    assert second.ids[5:15] == first.ids
    statuses = [one["status"] for one in second.customers]
    assert statuses == ["created"] * 5 + ["known"] * 10 + ["created"] * 35


FORMS = {
    "a TaskFlow output": "CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')",
    "a classic operator's output": """
        from airflow.providers.common.compat.sdk import BaseOperator

        class Extract(BaseOperator):
            def execute(self, context):
                return extract.function()

        CreateCustomerOperator(task_id='create', records=Extract(task_id='extract').output, ledger_conn_id='ledger')
        """,
    "a template that gives JSON": """
        extract() >> CreateCustomerOperator(
            task_id='create', records="{{ ti.xcom_pull(task_ids='extract') | tojson }}", ledger_conn_id='ledger'
        )
        """,
    "a template whose task returns JSON text": """
        @task(show_return_value_in_logs=False)
        def as_text():
            return json.dumps(extract.function())

        CreateCustomerOperator(task_id='create', records=as_text(), ledger_conn_id='ledger')
        """,
    "a mapped task's outputs": """
        @task(show_return_value_in_logs=False)
        def part(place):
            return extract.function()[place * 2:place * 2 + 2]

        CreateCustomerOperator(task_id='create', records=part.expand(place=[0, 1, 2]), ledger_conn_id='ledger')
        """,
    "a transformed output": """
        @task(show_return_value_in_logs=False)
        def pairs():
            return [[row["id"], row["email"]] for row in extract.function()]

        def row(pair):
            return {"id": pair[0], "name": "John Smith", "email": pair[1]}

        CreateCustomerOperator(task_id='create', records=pairs().map(row), ledger_conn_id='ledger')
        """,
}


@pytest.mark.parametrize("form", FORMS)
def test_records_can_be(airflow, sandbox, form):
    airflow.records(people(5))
    run = airflow.run(FORMS[form])
    assert run.state == "success"
    assert emails(sandbox, run["create"].ids) == [f"j{number}@example.com" for number in range(5)]
    assert sandbox.stats()["posts"]["received"] == 5


def test_records_can_be_a_native_list(airflow, sandbox):
    airflow.records(people(5))
    run = airflow.run(
        """
        extract() >> CreateCustomerOperator(
            task_id='create', records="{{ ti.xcom_pull(task_ids='extract') }}", ledger_conn_id='ledger'
        )
        """,
        render_template_as_native_obj=True,
    )
    assert emails(sandbox, run["create"].ids) == [f"j{number}@example.com" for number in range(5)]


def test_records_can_be_a_literal_list(airflow, sandbox):
    created = airflow.create(f"records={people(2)!r}, ledger_conn_id='ledger'")
    assert len(created.ids) == 2


def test_each_mapped_task_pushes_its_own_ids(airflow, sandbox):
    airflow.records([people(3), people(2, first=3), []])
    run = airflow.run(
        "CreateCustomerOperator.partial(task_id='create', ledger_conn_id='ledger').expand(records=extract())"
    )
    assert run.state == "success"
    ids = [run["create", place].ids for place in range(3)]
    assert [len(part) for part in ids] == [3, 2, 0]
    assert emails(sandbox, ids[0] + ids[1]) == [f"j{number}@example.com" for number in range(5)]


def test_each_record_can_have_its_own_mapped_task(airflow, sandbox):
    airflow.records(people(2))
    run = airflow.run(
        """
        CreateCustomerOperator.partial(task_id='create', ledger_conn_id='ledger').expand(
            records=extract().map(lambda record: [record])
        )
        """
    )
    ids = [run["create", place].ids for place in range(2)]
    assert [emails(sandbox, part) for part in ids] == [["j0@example.com"], ["j1@example.com"]]


def test_one_list_of_records_can_go_to_two_merchants(airflow, sandbox, connect):
    for merchant in ("1", "2"):
        connect(f"merchant_{merchant}", sandbox.connection_json(make_token(merchant)))
    airflow.records(people(4))
    dag = airflow.dag(
        """
        CreateCustomerOperator.partial(task_id='create', records=extract(), ledger_conn_id='ledger').expand(
            payarc_conn_id=['merchant_1', 'merchant_2']
        )
        """
    )
    run = airflow.test(dag)
    assert run.state == "success"
    for place, merchant in enumerate("12"):
        made = [customer["customer_id"] for customer in sandbox.customers(merchant)]
        assert len(made) == 4
        assert set(run["create", place].ids) == set(made)
    again = airflow.test(dag)
    assert [again["create", place].summary["known"] for place in range(2)] == [4, 4]
    assert len(sandbox.customers()) == 8


def test_records_can_come_from_a_mapped_task_group(airflow, sandbox):
    airflow.records([people(2), people(2, first=2)])
    run = airflow.run(
        """
        from airflow.providers.common.compat.sdk import task_group

        @task_group
        def merchant(records):
            CreateCustomerOperator(task_id='create', records=records, ledger_conn_id='ledger')

        merchant.expand(records=extract())
        """
    )
    assert run.state == "success"
    assert [len(run["merchant.create", place].ids) for place in range(2)] == [2, 2]
    assert len(sandbox.customers()) == 4


def test_downstream_tasks_get_the_ids_through_output(airflow, sandbox):
    airflow.records(people(3))
    run = airflow.run(
        """
        create = CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')

        @task
        def count(ids):
            return len(ids)

        @task
        def one(customer_id):
            return customer_id

        count(create.output)
        one.expand(customer_id=create.output)
        """
    )
    assert run["count"].xcom() == 3
    assert [run["one", place].xcom() for place in range(3)] == run["create"].ids


@pytest.mark.parametrize(
    "form",
    [
        "CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')",
        "CreateCustomerOperator.partial(task_id='create', ledger_conn_id='ledger').expand(records=extract('parts'))",
        """
        @task(show_return_value_in_logs=False)
        def as_text():
            return json.dumps(extract.function())

        CreateCustomerOperator(task_id='create', records=as_text(), ledger_conn_id='ledger')
        """,
        """
        extract() >> CreateCustomerOperator(
            task_id='create', records="{{ ti.xcom_pull(task_ids='extract') | tojson }}", ledger_conn_id='ledger'
        )
        """,
        """
        CreateCustomerOperator.partial(task_id='create', ledger_conn_id='ledger').expand(records=extract('texts'))
        """,
    ],
    ids=["output", "mapped", "text", "template", "mapped texts"],
)
@pytest.mark.parametrize("native", [False, True])
def test_values_from_data_are_never_rendered(airflow, sandbox, form, native):
    rows = people(1, name="{{ 7*7 }}", description="{% if 1 %}x")
    airflow.records(rows)
    airflow.records([rows], "parts")
    airflow.records([json.dumps(rows)], "texts")
    run = airflow.run(form, render_template_as_native_obj=native)
    assert run.state == "success"
    (customer,) = sandbox.customers()
    assert customer["name"] == "{{ 7*7 }}"
    assert customer["description"].startswith("{% if 1 %}x ")


def test_a_record_has_the_same_key_from_xcom_and_from_a_table(airflow, sandbox, crm):
    crm.table("people", people(4))
    from_table = airflow.create("table='people', sql_conn_id='crm', ledger_conn_id='ledger'")
    airflow.records(people(4))
    run = airflow.run("CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')")
    assert run["create"].ids == from_table.ids
    assert run["create"].summary["requests"] == 0


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "returned nothing"),
        ("no json", "not valid JSON"),
        (7, "list of dicts"),
        ("7", "list of dicts"),
    ],
)
def test_anything_but_a_list_of_records_fails_with_a_remedy(airflow, sandbox, said, returned, says):
    airflow.records(returned)
    run = airflow.run("CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')")
    assert run["create"].state == "failed"
    assert "records: " in said()
    assert says in said()
    assert sandbox.stats()["posts"]["received"] == 0


def test_an_empty_list_succeeds(airflow, sandbox):
    airflow.records([])
    run = airflow.run("CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')")
    assert (run.state, run["create"].ids, sandbox.stats()["requests"]) == ("success", [], {})
