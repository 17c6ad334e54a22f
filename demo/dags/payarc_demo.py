"""
### The DAG of `make demo`

Each row of the table `people` becomes one PayArc customer, exactly once, and changed rows reach their customers.

The demo kills the task halfway. The next try may not touch what the dead one had claimed until that claim has expired
(`lease`) and its requests can no longer arrive (`settle`). Both are short here, because PayArc is a sandbox on the same
machine that responds within a second. Keep the defaults, 120 and 60 seconds, for the real one.
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import dag, task

from payarc_provider.operators.customer import CreateCustomerOperator


@dag(schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False, doc_md=__doc__, tags=["payarc"])
def payarc_demo():
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
        on_changed="update",
        max_rejected=3,
        batch_size=50,
        lease=5,
        settle=3,
        retries=2,
        retry_delay=datetime.timedelta(seconds=1),
    )

    @task
    def welcome(customer_ids: list[str]) -> None:
        print(f"{len(customer_ids)} customers can add a card now")

    welcome(customers.output)


payarc_demo()
