"""
### Keep customers up to date

Every night, new people become PayArc customers, exactly once, and the customers of people whose data has changed are
changed at PayArc. Only the fields that differ are sent, with one request per customer.

The column `updated_at` tells newer data from older data. So runs may overlap, wait and be repeated in any order: an old
value never replaces a newer one. Any column of numbers, dates or times will do.

The column `payarc_customer_id` receives the id of each customer: `VARCHAR(64)`, empty at first.

Needs the connections `payarc_default` (type PayArc) and `crm` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import dag

from payarc_provider.operators.customer import CreateCustomerOperator


@dag(
    schedule="0 2 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    is_paused_upon_creation=True,  # as it is only an example
    doc_md=__doc__,
    tags=["payarc"],
)
def payarc_sync():
    CreateCustomerOperator(
        task_id="sync_customers",
        table="people",
        sql_conn_id="crm",
        key="id",
        fields={"name": "full_name", "email": "email", "phone": "phone"},
        on_changed="update",
        version="updated_at",
        write_back="payarc_customer_id",
        max_rejected=10,  # the XCom `rejected` lists them
        retries=3,
    )


payarc_sync()
