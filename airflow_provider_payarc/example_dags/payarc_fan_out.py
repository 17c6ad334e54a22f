"""
### Process many customers in groups

Airflow maps over at most `[core] max_map_length` values (1024 by default). With `group_ids`, the operator returns lists
of ids, and one mapped task processes each list. This works for any number of customers and needs fewer task instances.

Needs the connections `payarc_default` (type PayArc) and `crm` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import dag, task

from payarc_provider.operators.customer import CreateCustomerOperator


@dag(schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False, doc_md=__doc__, tags=["payarc"])
def payarc_fan_out():
    customers = CreateCustomerOperator(
        task_id="create_customers",
        table="people",
        sql_conn_id="crm",
        fields={"name": "full_name", "email": "email"},
        max_rejected=10,
        group_ids=2,  # use a few hundred in production
        retries=3,
    )

    @task(max_active_tis_per_dag=4)
    def invite(customer_ids: list[str]) -> int:
        for customer_id in customer_ids:
            print(f"PayArc customer {customer_id} can add a card now")
        return len(customer_ids)

    @task
    def count(invited: list[int]) -> int:
        return sum(invited)

    count(invite.expand(customer_ids=customers.output))


payarc_fan_out()
