"""
### Create customers from a function

The function `sign_ups` returns a list of dicts with PayArc's field names. Its task creates one PayArc customer for
each, exactly once. The records are not passed through XCom. The ledger needs a database of its own.

Needs the connections `payarc_default` (type PayArc) and `payarc_ledger` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import dag, task


@dag(schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False, doc_md=__doc__, tags=["payarc"])
def payarc_from_function():
    @task.payarc_customers(key="id", ledger_conn_id="payarc_ledger", retries=3)
    def sign_ups() -> list[dict[str, str]]:
        return [
            {"id": "app-1", "name": "Ana Park", "email": "ana@example.com"},
            {"id": "app-2", "name": "Søren Ito", "email": "soren@example.com"},
        ]

    @task
    def welcome(customer_id: str) -> None:
        print(f"Welcome, customer {customer_id}")

    welcome.expand(customer_id=sign_ups())


payarc_from_function()
