"""
### Create customers from an upstream task

The task `sign_ups` returns a list of dicts with PayArc's field names. Each becomes one PayArc customer, exactly once.
The records are passed through XCom, so the ledger needs a database of its own.

Needs the connections `payarc_default` (type PayArc) and `payarc_ledger` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import dag, task

from payarc_provider.operators.customer import CreateCustomerOperator


@dag(schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False, doc_md=__doc__, tags=["payarc"])
def payarc_from_xcom():
    @task(show_return_value_in_logs=False)  # keep personal data out of the log
    def sign_ups() -> list[dict[str, str]]:
        return [
            {"id": "web-1", "name": "Chloé O'Brien", "email": "chloe@example.com"},
            {"id": "web-2", "name": "Jean-Luc Müller", "email": "jean-luc@example.com"},
        ]

    customers = CreateCustomerOperator(
        task_id="create_customers", records=sign_ups(), key="id", ledger_conn_id="payarc_ledger"
    )

    @task
    def welcome(customer_id: str) -> None:
        print(f"Welcome, customer {customer_id}")

    welcome.expand(customer_id=customers.output)


payarc_from_xcom()
