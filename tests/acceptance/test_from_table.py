"""Records from a table, in a real Airflow: each row becomes one customer."""

from __future__ import annotations

import pytest


def people(count, first=0, **fields):
    return [
        {"id": number, "name": "John Smith", "email": f"j{number}@example.com", **fields}
        for number in range(first, first + count)
    ]


def emails(sandbox, ids):
    stored = {customer["customer_id"]: customer["email"] for customer in sandbox.customers()}
    return [stored[customer_id] for customer_id in ids]


def test_300_records_take_300_posts_and_a_second_run_takes_none(airflow, sandbox, crm):
    rows = people(300)
    crm.table("people", rows)
    dag = airflow.dag("CreateCustomerOperator(task_id='create', table='people', sql_conn_id='crm')")
    first = airflow.test(dag)["create"]
    assert first.state == "success"
    assert sandbox.stats()["posts"]["received"] == 300
    assert len(sandbox.customers()) == 300
    assert emails(sandbox, first.ids) == [row["email"] for row in rows]
    assert (first.summary["created"], first.summary["posts"], first.summary["records"]) == (300, 300, 300)

    again = airflow.test(dag)["create"]
    assert again.ids == first.ids
    assert sandbox.stats()["posts"]["received"] == 300
    assert (again.summary["known"], again.summary["requests"]) == (300, 0)


def test_the_four_xcoms_have_exactly_these_shapes(airflow, sandbox, crm):
    sandbox.settings(taken={"email": ["j1@example.com"]})
    crm.table("people", [*people(3), {"id": None, "name": "No Key"}])
    created = airflow.create("table='people', sql_conn_id='crm', max_rejected=2")
    ids = created.ids
    assert ids == [customer["customer_id"] for customer in sorted(sandbox.customers(), key=lambda one: one["email"])]
    assert created.customers == [
        {"key": "0", "customer_id": ids[0], "status": "created", "changed": False},
        {"key": "2", "customer_id": ids[1], "status": "created", "changed": False},
    ]
    assert created.rejected == [
        {"key": None, "errors": {"id": ["is missing: give every record a key"]}},
        {"key": "1", "errors": {"email": ["The email has already been taken."]}},
    ]
    seconds = created.summary.pop("seconds")
    assert seconds > 0
    summary = created.summary
    del summary["seconds"]
    assert summary.pop("reasons") == [
        "1 record: id is missing: give every record a key",
        "1 record: email: The email has already been taken. (key 1)",
    ]
    assert summary == {
        "records": 4,
        "created": 2,
        "adopted": 0,
        "updated": 0,
        "known": 0,
        "changed": 0,
        "stale": 0,
        "altered": 0,
        "conflicts": 0,
        "rejected": 2,
        "rejected_new": 2,
        "erased": 0,
        "repeated": 0,
        "unknown_outcomes": 0,
        "rate_limited": 0,
        "deferrals": 0,
        "requests": 4,
        "posts": 3,
        "patches": 0,
        "written_back": 0,
    }


def test_fields_maps_columns_and_the_key_may_have_several(airflow, sandbox, crm):
    crm.table(
        "people",
        [
            {
                "tenant": tenant,
                "no": number,
                "full name": "John Smith",
                "mail": f"{tenant}{number}@example.com",
                "order": "Donut",
            }
            for tenant in ("eu", "us")
            for number in (2, 1)
        ],
    )
    created = airflow.create(
        "table='people', sql_conn_id='crm', key=['tenant', 'no'],"
        "fields={'name': 'full name', 'email': 'mail', 'description': 'order'}"
    )
    assert [one["key"] for one in created.customers] == ['["eu","1"]', '["eu","2"]', '["us","1"]', '["us","2"]']
    expected = ["eu1@example.com", "eu2@example.com", "us1@example.com", "us2@example.com"]
    assert emails(sandbox, created.ids) == expected
    assert all(customer["description"].startswith("Donut ") for customer in sandbox.customers())


def test_a_query_takes_parameters_in_the_style_of_its_database(airflow, sandbox, crm):
    crm.table("people", people(20))
    named = ":least" if crm.url.get_backend_name() == "sqlite" else "%(least)s"
    created = airflow.create(
        f"sql='SELECT * FROM people WHERE id >= {named}', sql_conn_id='crm', parameters={{'least': 15}}"
    )
    assert emails(sandbox, created.ids) == [f"j{number}@example.com" for number in range(15, 20)]
    marks = "?" if named == ":least" else "%s"
    created = airflow.create(f"sql='SELECT * FROM people WHERE id < {marks}', sql_conn_id='crm', parameters=[2]")
    assert emails(sandbox, created.ids) == ["j0@example.com", "j1@example.com"]


def test_table_and_sql_are_templates_and_like_needs_no_doubled_percent(airflow, sandbox, crm):
    crm.table("people", people(3))
    created = airflow.create('table=\'{{ "peo" + "ple" }}\', sql_conn_id=\'crm\', ledger_table=\'{{ "led" + "ger" }}\'')
    assert len(created.ids) == 3
    created = airflow.create(
        "sql=\"SELECT * FROM people WHERE email LIKE 'j{{ 1 + 1 }}%'\", sql_conn_id='crm', ledger_table='ledger'"
    )
    assert created.summary["known"] == 1


def test_values_from_a_table_are_never_rendered(airflow, sandbox, crm):
    crm.table("people", people(1, name="{{ 7*7 }}", description="{% raw %}"))
    airflow.create("table='people', sql_conn_id='crm'")
    (customer,) = sandbox.customers()
    assert customer["name"] == "{{ 7*7 }}"
    assert customer["description"].startswith("{% raw %} ")


def test_the_ledger_is_in_the_source_database_by_default(airflow, crm, ledger_file):
    from sqlalchemy import inspect

    crm.table("people", people(1))
    airflow.create("table='people', sql_conn_id='crm', ledger_conn_id='ledger'")
    assert ledger_file.exists()
    assert "payarc_customers" not in inspect(crm.engine).get_table_names()
    airflow.create("table='people', sql_conn_id='crm', ledger_table='other'")
    assert {"other", "other_facts"} <= set(inspect(crm.engine).get_table_names())


def test_a_key_with_different_data_from_a_second_table_is_rejected(airflow, sandbox, crm):
    crm.table("people", [{"id": 42, "name": "John Smith", "email": "john@example.com"}])
    crm.table("shops", [{"id": 42, "name": "Donut Shop", "email": "shop@example.com"}])
    first = airflow.create("table='people', sql_conn_id='crm'")
    run = airflow.run("CreateCustomerOperator(task_id='create', table='shops', sql_conn_id='crm')")
    assert run["create"].state == "failed"
    assert run["create"].ids == []
    (rejected,) = run["create"].rejected
    assert rejected["key"] == "42"
    (text,) = rejected["errors"]["key"]
    assert "table people of crm" in text
    assert "ledger_table" in text
    assert len(sandbox.customers()) == len(first.ids) == 1
    own = airflow.create("table='shops', sql_conn_id='crm', ledger_table='shops_ledger'")
    assert len(own.ids) == 1, "the remedy that the text names"


def test_a_downstream_task_maps_over_the_ids(airflow, sandbox, crm):
    crm.table("people", people(3))
    run = airflow.run(
        """
        create = CreateCustomerOperator(task_id='create', table='people', sql_conn_id='crm')

        @task
        def charge(customer_id):
            return "charged " + customer_id

        charge.expand(customer_id=create.output)
        """
    )
    assert run.state == "success"
    charged = [run["charge", place].xcom() for place in range(3)]
    assert charged == [f"charged {customer_id}" for customer_id in run["create"].ids]


def test_a_retry_in_the_same_dag_run_finishes_and_reports_created(airflow, sandbox, crm):
    crm.table("people", people(30))
    sandbox.faults([{"kind": "unauthorized", "skip": 10}])
    run = airflow.run(
        """
        CreateCustomerOperator(
            task_id='create', table='people', sql_conn_id='crm', retries=2, retry_delay=timedelta(0),
        )
        """
    )
    create = run["create"]
    assert (run.state, create.state, create.try_number) == ("success", "success", 2)
    assert {one["status"] for one in create.customers} == {"created"}
    assert create.summary["created"] == len(create.ids) == len(sandbox.customers()) == 30
    assert sandbox.stats()["posts"]["created"] == 30


def test_push_ids_false_pushes_only_the_summary(airflow, sandbox, crm):
    crm.table("people", [*people(3), {"id": 9, "name": "Jo"}])
    created = airflow.create("table='people', sql_conn_id='crm', push_ids=False, max_rejected=1")
    assert [created.xcom(key) for key in ("return_value", "customers", "rejected")] == [None, None, None]
    assert (created.summary["created"], created.summary["rejected"]) == (3, 1)


def test_do_xcom_push_false_pushes_nothing(airflow, sandbox, crm):
    crm.table("people", people(2))
    created = airflow.create("table='people', sql_conn_id='crm', do_xcom_push=False")
    assert [created.xcom(key) for key in ("return_value", "customers", "rejected", "summary")] == [None] * 4
    assert len(sandbox.customers()) == 2


def test_a_dry_run_sends_nothing_and_writes_nothing(airflow, sandbox, crm, ledger_file):
    crm.table("people", people(4))
    dry = airflow.create("table='people', sql_conn_id='crm', ledger_conn_id='ledger', dry_run=True")
    assert (dry.summary["dry_run"], dry.summary["would_create"], dry.summary["requests"]) == (True, 4, 0)
    assert dry.ids == []
    assert sandbox.stats()["requests"] == {}
    assert not ledger_file.exists() or ledger_file.stat().st_size == 0

    crm.table("people", people(2))
    airflow.create("table='people', sql_conn_id='crm', ledger_conn_id='ledger'")
    before, requests = ledger_file.read_bytes(), sandbox.stats()["requests"]
    crm.table("people", [*people(4), {"id": 9, "name": "Jo"}])
    dry = airflow.create("table='people', sql_conn_id='crm', ledger_conn_id='ledger', dry_run=True, max_rejected=1")
    counts = {name: dry.summary[name] for name in ("would_create", "known", "rejected", "created")}
    assert counts == {"would_create": 2, "known": 2, "rejected": 1, "created": 0}
    assert ledger_file.read_bytes() == before
    assert sandbox.stats()["requests"] == requests


@pytest.mark.parametrize("most", [4, 0])
def test_max_new_stops_the_task_before_the_first_request(airflow, sandbox, crm, said, most):
    crm.table("people", people(5))
    run = airflow.run(f"CreateCustomerOperator(task_id='create', table='people', sql_conn_id='crm', max_new={most})")
    assert run["create"].state == "failed"
    assert f"max_new={most}: this run would create 5 customers" in said()
    assert sandbox.stats()["requests"] == {}


def test_max_new_counts_new_customers_only(airflow, sandbox, crm):
    crm.table("people", people(5))
    assert len(airflow.create("table='people', sql_conn_id='crm', max_new=5").ids) == 5
    assert len(airflow.create("table='people', sql_conn_id='crm', max_new=0").ids) == 5
    assert len(sandbox.customers()) == 5
