"""
### A nightly sync from the CRM

Each night the people that the CRM got on the day before become PayArc customers, exactly once, and the asset of all
customers is updated, which starts the DAG `payarc_after_nightly`. Days that were missed are made up for with
`airflow backfill create` (Airflow 2: `airflow dags backfill`): whoever is a customer already stays one.

Needs the connections `payarc_default` (type PayArc) and `crm` (SQLite, PostgreSQL, MySQL or MariaDB).
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import Asset, dag, task
from airflow.timetables.interval import CronDataIntervalTimetable

from payarc_provider.operators.customer import CreateCustomerOperator

CUSTOMERS = Asset("payarc://test/acme/customers")
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dag(
    # A data interval of one day; Airflow 3 gives "@daily" none.
    schedule=CronDataIntervalTimetable("0 2 * * *", timezone="UTC"),
    start_date=BEGAN,
    catchup=False,
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
        outlets=[CUSTOMERS],
        max_rejected=10,  # they stand in the XCom `rejected`; more than a few mean that something else is wrong
        retries=3,
    )


@dag(schedule=[CUSTOMERS], start_date=BEGAN, catchup=False, doc_md=__doc__, tags=["payarc"])
def payarc_after_nightly():
    @task
    def report() -> None:
        print("There may be new PayArc customers")

    report()


payarc_nightly()
payarc_after_nightly()
