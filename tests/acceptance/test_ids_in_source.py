"""``write_back`` in a real Airflow, with the statements of the documentation."""

from __future__ import annotations

import pages
import sqlalchemy as sa
from test_from_table import people

BLOCKS = {
    block.language: block.text
    for block in pages.to_run("docs/operator.md", "sql", "python")
    if "payarc_customer_id" in block.text
}


def test_the_documentations_example_writes_each_id_once(airflow, sandbox, any_crm):
    any_crm.table("people", [*people(30), {"id": 30, "name": "J", "email": "j30@example.com"}])
    with any_crm.engine.begin() as connection:
        connection.exec_driver_sql(BLOCKS["sql"])
    dag = airflow.dag(BLOCKS["python"])
    task = next(iter(dag.tasks))
    first = airflow.test(dag)[task.task_id]
    assert (first.state, first.summary["written_back"]) == ("success", 30)
    with any_crm.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT email, payarc_customer_id FROM people")).all()
    customers = {customer["email"]: customer["customer_id"] for customer in sandbox.customers()}
    assert dict(map(tuple, rows)) == {**customers, "j30@example.com": None}
    assert airflow.test(dag)[task.task_id].summary["written_back"] == 0


def test_a_missing_column_stops_the_task_before_anything_is_sent(airflow, sandbox, crm, said):
    crm.table("people", people(3))
    run = airflow.run(
        "CreateCustomerOperator(task_id='create', table='people', sql_conn_id='crm', write_back='payarc_id', retries=3)"
    )
    assert (run["create"].state, run["create"].try_number, sandbox.log()) == ("failed", 1, [])
    assert 'write_back: the source has no column "payarc_id"; its columns are id, name, email' in said()


def test_the_column_from_params(airflow, crm):
    crm.table("people", [{**row, "cus": ""} for row in people(3)])
    created = airflow.create(
        "table='people', sql_conn_id='crm', write_back='{{ params.column }}'", params={"column": "cus"}
    )
    assert created.summary["written_back"] == 3
