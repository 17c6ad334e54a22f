"""
### Create customers every night

Every night, the people who signed up on the day before become PayArc customers, exactly once. The run updates an asset,
which triggers the DAG `payarc_after_nightly`. To catch up on missed days, unpause the DAG and use
`airflow backfill create` (in Airflow 2, `airflow dags backfill`): nobody becomes a customer twice.

The DAG `payarc_by_hand` reads the same people. Both have the same `source`, so either may run at any time.

Needs the connections `payarc_default` (type PayArc) and `crm` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import Asset, dag, task
from airflow.timetables.interval import CronDataIntervalTimetable

from payarc_provider.operators.customer import CreateCustomerOperator

CUSTOMERS = Asset("payarc://test/acme/customers")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dag(
    # In Airflow 3, "@daily" has no data interval; this timetable has one of a day.
    schedule=CronDataIntervalTimetable("0 2 * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    is_paused_upon_creation=True,  # as it is only an example
    doc_md=__doc__,
    tags=["payarc"],
)
def payarc_nightly():
    CreateCustomerOperator(
        task_id="create_customers",
        sql="""
            SELECT id, full_name AS name, email
            FROM people
            WHERE signed_up >= '{{ data_interval_start.strftime("%Y-%m-%d %H:%M:%S") }}'
              AND signed_up < '{{ data_interval_end.strftime("%Y-%m-%d %H:%M:%S") }}'
        """,
        sql_conn_id="crm",
        source="crm people",  # as in payarc_by_hand
        outlets=[CUSTOMERS],
        max_rejected=10,  # the XCom `rejected` lists them
        retries=3,
    )


@dag(
    schedule=[CUSTOMERS],
    start_date=START,
    catchup=False,
    is_paused_upon_creation=True,
    doc_md=__doc__,
    tags=["payarc"],
)
def payarc_after_nightly():
    @task
    def report() -> None:
        print("There may be new PayArc customers")

    report()


payarc_nightly()
payarc_after_nightly()
