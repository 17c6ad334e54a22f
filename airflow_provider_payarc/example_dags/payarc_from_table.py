"""
### Create customers from a table

Each row of the table `people` becomes one PayArc customer, exactly once: run this DAG as often as you like, clear its
tasks, kill its worker. The ledger, a table named `payarc_customers` in the same database, remembers who has a customer.
A mapped task processes each customer id.

Needs the connections `payarc_default` (type PayArc) and `crm` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import dag, task

from payarc_provider.operators.customer import CreateCustomerOperator


@dag(schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False, doc_md=__doc__, tags=["payarc"])
def payarc_from_table():
    customers = CreateCustomerOperator(
        task_id="create_customers",
        table="people",
        sql_conn_id="crm",
        key="id",
        fields={  # PayArc field: column
            "name": "full_name",
            "email": "email",
            "description": "company",
            "phone": "phone",
            "country": "country",
        },
        max_rejected=3,
    )

    @task
    def welcome(customer_id: str) -> None:
        print(f"Welcome, customer {customer_id}")

    welcome.expand(customer_id=customers.output)


payarc_from_table()
