"""`@task.payarc_customers`: the function's records become customers, as with the operator."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import task

from payarc_provider.exceptions import PayarcConfigError

PEOPLE = [
    {"id": 1, "name": "Zoë O'Brien", "email": "zoe@example.com"},
    {"id": 2, "name": "Kofi Park", "email": "kofi.example.com"},
]


def created_emails(sandbox):
    return sorted(customer["email"] for customer in sandbox.customers())


def test_the_xcoms_are_those_of_the_operator(airflow, sandbox):
    airflow.records(PEOPLE)
    run = airflow.run("""
        @task.payarc_customers(key="id", ledger_conn_id="ledger", max_rejected=1)
        def people():
            return extract.function()

        CreateCustomerOperator(task_id="again", records=extract(), ledger_conn_id="ledger", max_rejected=1,
                               retry_rejected=True, source="task {{ dag.dag_id }}.people") << people()
    """)
    assert run.state == "success"
    assert created_emails(sandbox) == ["zoe@example.com"]
    (person,) = sandbox.customers()
    mine, again = run["people"], run["again"]
    assert mine.ids == again.ids == [person["customer_id"]]
    assert mine.customers == [{"key": "1", "customer_id": person["customer_id"], "status": "created", "changed": False}]
    assert mine.rejected == again.rejected
    assert [one["key"] for one in mine.rejected] == ["2"]
    assert mine.summary.keys() == again.summary.keys()


def test_the_function_gets_arguments_context_and_upstream_outputs(airflow, sandbox):
    airflow.records(PEOPLE[:1])
    run = airflow.run("""
        @task.payarc_customers(ledger_conn_id="ledger")
        def people(found, domain, *, dag, plain="{{ dag.dag_id }}"):
            assert plain == dag.dag_id == domain
            yield from found

        @task
        def use(ids):
            return ids

        use(people(extract(), domain="{{ dag.dag_id }}", plain="{{ dag.dag_id }}"))
    """)
    assert run.state == "success"
    assert run["use"].xcom() == run["people"].ids
    assert created_emails(sandbox) == ["zoe@example.com"]


def test_values_are_data_and_neither_rendered_nor_stored(airflow, sandbox):
    airflow.records([{"id": 1, "name": "Zqmark O'Brien", "email": "zqmark@example.com"}])
    airflow.records(["{{ 1 // 0 }}"], "texts")
    run = airflow.run("""
        @task.payarc_customers(ledger_conn_id="ledger", push_ids=False)
        def people(found, texts):
            assert texts == ["{{ 1 // 0 }}"]
            return json.dumps(found)

        people(extract(), texts=extract("texts"))
    """)
    assert run.state == "success"
    assert created_emails(sandbox) == ["zqmark@example.com"]
    stored = airflow.metadata(without=("xcom",))
    assert "(list)" in airflow.metadata("rendered_task_instance_fields")
    assert "zqmark" not in stored.lower()


def test_a_mapped_function_creates_the_customers_of_each_argument(airflow, sandbox):
    run = airflow.run("""
        @task.payarc_customers(ledger_conn_id="ledger", fields={"name": "name", "email": "email"})
        def people(domain, number):
            return [{"id": f"{domain}-{number}", "name": "Kofi Park", "email": f"kofi@{domain}.example.com"}]

        @task
        def domains():
            return ["acme", "bolt"]

        people.partial(number=7).expand(domain=domains())
    """)
    assert run.state == "success"
    assert created_emails(sandbox) == ["kofi@acme.example.com", "kofi@bolt.example.com"]
    assert [run["people", number].customers[0]["key"] for number in range(2)] == ["acme-7", "bolt-7"]


def test_the_function_is_called_once_in_each_try(airflow, sandbox, tmp_path):
    airflow.records(PEOPLE[:1])
    run = airflow.run("""
        @task.payarc_customers(ledger_conn_id="ledger", max_new=5, min_records=1)
        def people():
            with open(os.path.join(os.environ["TEST_DATA"], "calls"), "a") as calls:
                calls.write("called ")
            return extract.function()

        people()
    """)
    assert run.state == "success"
    assert (tmp_path / "calls").read_text() == "called "
    assert sandbox.stats()["posts"]["received"] == 1


@pytest.mark.parametrize(
    ("returned", "remedy"),
    [
        ("None", "records: people returned nothing"),
        ("({'id': 1},)", "got a tuple from people"),
        ("{'id': 1}", "got a dict from people"),
        ("'{{ [] }}'", "the text from people is not valid JSON"),
    ],
)
def test_other_results_are_refused(airflow, sandbox, said, returned, remedy):
    run = airflow.run(f"""
        @task.payarc_customers(ledger_conn_id="ledger")
        def people():
            return {returned}

        people()
    """)
    assert run.state == "failed"
    assert remedy in said()
    assert sandbox.stats()["posts"]["received"] == 0


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"deferrable": True, "ledger_conn_id": "ledger"}, "deferrable: the function would be called again"),
        ({"multiple_outputs": True, "ledger_conn_id": "ledger"}, "multiple_outputs: the task returns a list"),
        ({"key": "id"}, "ledger_conn_id: set the connection"),
        ({"sql": "SELECT 1", "sql_conn_id": "crm", "ledger_conn_id": "ledger"}, "records and sql set"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_file_is_parsed(arguments, remedy):
    people = task.payarc_customers(lambda: [], task_id="people", **arguments)

    with pytest.raises(PayarcConfigError, match=remedy):
        people()


def test_an_option_of_a_mapped_function_cannot_be_an_output(airflow, said):
    run = airflow.run("""
        people = task.payarc_customers(lambda number: [], task_id="people", ledger_conn_id="ledger",
                                       max_new=extract("limit"))
        people.expand(number=[1])
    """)
    assert run.state == "failed"
    assert "max_new: with expand, this cannot be a task's output" in said()


def test_an_error_of_the_function_is_shown_as_for_any_task(airflow, sandbox, said):
    run = airflow.run("""
        @task.payarc_customers(ledger_conn_id="ledger")
        def people():
            raise LookupError("no such page")

        people()
    """)
    assert run.state == "failed"
    assert "LookupError: no such page" in said()
    assert sandbox.stats()["posts"]["received"] == 0
