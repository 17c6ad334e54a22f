"""
### Create customers from an API

The task `sign_ups` reads a CRM's API page by page and returns a list of dicts with PayArc's field names. The records
are passed through XCom, so the ledger needs a database of its own.

Needs the connections `payarc_default` (type PayArc), `crm_api` (host: the API's base URL, password: its token) and
`payarc_ledger` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook, dag, task

from payarc_provider.operators.customer import CreateCustomerOperator


@dag(schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False, doc_md=__doc__, tags=["payarc"])
def payarc_from_api():
    @task(show_return_value_in_logs=False, retries=3)  # keep personal data out of the log
    def sign_ups() -> list[dict[str, Any]]:
        import requests

        api = BaseHook.get_connection("crm_api")
        people: list[dict[str, Any]] = []
        page = 1
        while page:
            response = requests.get(
                f"{api.host}/sign-ups",
                params={"page": page},
                headers={"Authorization": f"Bearer {api.password}"},
                timeout=30,
            )
            response.raise_for_status()
            found = response.json()
            people += [
                {
                    "id": person["uuid"],
                    "name": f"{person['first_name']} {person['last_name']}",
                    "email": person["email"],
                    "phone": person.get("phone"),
                }
                for person in found["people"]
            ]
            page = found["next_page"]
        return people

    CreateCustomerOperator(
        task_id="create_customers",
        records=sign_ups(),
        key="id",
        ledger_conn_id="payarc_ledger",
        max_rejected=0.05,  # a share: fail if more than 5 % are rejected
        retries=3,
    )


payarc_from_api()
