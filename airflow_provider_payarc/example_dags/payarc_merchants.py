"""
### Create customers for several merchants

There is one mapped task for each merchant, with a connection and a table of its own. The tasks run concurrently and
share a ledger, which keeps the merchants apart by the `account` of their connections, or by the user of their tokens.

Needs a connection of type PayArc for each merchant, and `crm` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import dag

from payarc_provider.operators.customer import CreateCustomerOperator

MERCHANTS = {"payarc_acme": "acme_people", "payarc_bolt": "bolt_people"}


@dag(schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False, doc_md=__doc__, tags=["payarc"])
def payarc_merchants():
    CreateCustomerOperator.partial(
        task_id="create_customers",
        sql_conn_id="crm",
        fields={"name": "full_name", "email": "email"},
        map_index_template="{{ task.payarc_conn_id }}",  # the name of each mapped task in the UI
        retries=3,
    ).expand_kwargs([{"payarc_conn_id": merchant, "table": table} for merchant, table in MERCHANTS.items()])


payarc_merchants()
