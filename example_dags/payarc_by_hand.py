"""
### Some people, by hand

Trigger this DAG with its form: from which day to which day (not included), how many people at most, and whether to
try it first. A try checks each record and compares it with the ledger, sends nothing, and says in the XCom `summary`
how many would be created. Run as often as you like: whoever is a customer already stays one.

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
        "limit": Param(100, type="integer", minimum=1, description="how many people at most"),
        "dry_run": Param(True, type="boolean", description="only say what would be done"),
    },
)
def payarc_by_hand():
    @task.branch
    def choose(params: dict[str, Any]) -> str:
        return "try_customers" if params["dry_run"] else "create_customers"

    people = {
        # What the form gives is a date or a number, or the run is refused; so it may stand in the query.
        "sql": """
            SELECT id, full_name AS name, email
            FROM people
            WHERE signed_up >= '{{ params.since }}' AND signed_up < '{{ params.until }}'
            ORDER BY id
            LIMIT {{ params.limit }}
        """,
        "sql_conn_id": "crm",
    }
    chosen = choose()
    chosen >> CreateCustomerOperator(task_id="try_customers", dry_run=True, **people)
    chosen >> CreateCustomerOperator(task_id="create_customers", retries=3, **people)


payarc_by_hand()
