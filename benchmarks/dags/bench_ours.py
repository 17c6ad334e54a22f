"""This provider's operator, from a table."""

import datetime

from airflow.providers.common.compat.sdk import DAG

from payarc_provider.operators.customer import CreateCustomerOperator

with DAG("bench_ours", schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False):
    CreateCustomerOperator(
        task_id="create",
        table="people",
        sql_conn_id="crm",
        ledger_conn_id="ledger",
        concurrency=16,
        push_ids=False,
        settle=5,
        lease=10,
    )
