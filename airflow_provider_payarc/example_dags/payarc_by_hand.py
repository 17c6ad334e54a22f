"""
### Create customers by hand

Trigger this DAG with its form: the first day, the day after the last day, the maximum number of people, and whether
this is a dry run. A dry run checks the records and compares them with the ledger. It sends nothing, and the XCom
`summary` says how many customers it would create. Run it as often as you like: nobody becomes a customer twice.

The DAG `payarc_nightly` reads the same people. Both have the same `source`, so either may run at any time.

Needs the connections `payarc_default` (type PayArc) and `crm` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from payarc_provider.operators.customer import CreateCustomerOperator


@dag(
    schedule=None,
    start_date=datetime.datetime(2026, 1, 1),
    catchup=False,
    doc_md=__doc__,
    tags=["payarc"],
    params={
        "since": Param("2026-01-01", type="string", format="date", description="the first day"),
        "until": Param("2027-01-01", type="string", format="date", description="the day after the last one"),
        "limit": Param(100, type="integer", minimum=1, description="the maximum number of people"),
        "dry_run": Param(True, type="boolean", description="only report what would be done"),
    },
)
def payarc_by_hand():
    @task.branch
    def choose(params: dict[str, Any]) -> str:
        return "try_customers" if params["dry_run"] else "create_customers"

    people = {
        # Airflow accepts only dates and a number here, so these values are safe in a query.
        "sql": """
            SELECT id, full_name AS name, email
            FROM people
            WHERE signed_up >= '{{ params.since }}' AND signed_up < '{{ params.until }}'
            ORDER BY id
            LIMIT {{ params.limit }}
        """,
        "sql_conn_id": "crm",
        "source": "crm people",  # as in payarc_nightly
    }
    chosen = choose()
    chosen >> CreateCustomerOperator(task_id="try_customers", dry_run=True, **people)
    chosen >> CreateCustomerOperator(task_id="create_customers", retries=3, **people)


payarc_by_hand()
