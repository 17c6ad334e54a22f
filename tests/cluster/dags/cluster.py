"""The DAGs of ``make cluster``: a table in partitions, two merchants, and a run that the rate limit defers."""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import DAG, task

from payarc_provider.operators.customer import CreateCustomerOperator

SHARES = 4

for executor in ("celery", "local"):
    common = {
        "sql_conn_id": "crm",
        "fields": {"name": "full_name", "email": "email"},
        "ledger_table": f"payarc_{executor}",
        "settle": 10,
        "lease": 15,
        "concurrency": 2,
        "batch_size": 20,
        "retries": 3,
        "retry_delay": datetime.timedelta(seconds=1),
    }
    with DAG(f"partitions_{executor}", schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False):
        shares = CreateCustomerOperator.partial(task_id="create", table=f"people_{executor}", **common).expand(
            partition=[(share, SHARES) for share in range(SHARES)]
        )

        @task
        def count(shares: list[list[str]]) -> int:
            return len({customer_id for share in shares for customer_id in share})

        count(shares.output)

    with DAG(f"merchants_{executor}", schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False):
        CreateCustomerOperator.partial(task_id="create", table=f"shops_{executor}", **common).expand(
            payarc_conn_id=["merchant_2", "merchant_3"]
        )

with DAG("deferring", schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False):
    create = CreateCustomerOperator(
        task_id="create",
        table="people_deferring",
        sql_conn_id="crm",
        fields={"name": "full_name", "email": "email"},
        ledger_table="payarc_deferring",
        deferrable=True,
        defer_after=12,
    )

    @task
    def count_all(customer_ids: list[str]) -> int:
        return len(set(customer_ids))

    count_all(create.output)
