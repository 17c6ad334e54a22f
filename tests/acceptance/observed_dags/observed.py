"""DAGs to observe: from a table, from a query, from XCom (also mapped), and one that reads the asset events."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone

from airflow.providers.common.compat.sdk import DAG, Asset, task

from payarc_provider.assets import customers_asset
from payarc_provider.operators.customer import CreateCustomerOperator

CUSTOMERS = customers_asset(os.environ["OBSERVED_ENVIRONMENT"], "main")
OTHER = Asset("x-other://thing")
FIELDS = {"name": "full_name", "email": "mail"}
OPTIONS = {"schedule": None, "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False}  # noqa: UP017
CREATE = {"task_id": "create", "max_rejected": 5, "settle": 1, "lease": 10, "fields": FIELDS}

with DAG("from_table", **OPTIONS):
    CreateCustomerOperator(**CREATE, table="people", sql_conn_id="crm", outlets=[CUSTOMERS, OTHER])

with DAG("from_query", **OPTIONS):
    query = "SELECT p.id, p.full_name, c.address AS mail FROM people p JOIN contacts c ON c.person = p.id"
    values = ["".join(["Secret", "parameter"])]  # joined here, so that the file itself does not contain it
    CreateCustomerOperator(**CREATE, sql=f"{query} WHERE full_name <> ?", parameters=values, sql_conn_id="crm")

with DAG("from_xcom", **OPTIONS):

    @task
    def extract():
        return [{"id": "x1", "full_name": "Kofi Park", "mail": "kofi@example.com"}]

    CreateCustomerOperator(**CREATE, records=extract(), ledger_conn_id="crm")

with DAG("mapped", **OPTIONS):

    @task
    def extract_many():
        return [[{"id": "m1", "full_name": "Ama Park", "mail": "ama@example.com"}]]

    CreateCustomerOperator.partial(**CREATE, ledger_conn_id="crm").expand(records=extract_many())

with DAG("stopped", **OPTIONS):
    CreateCustomerOperator(**{**CREATE, "max_rejected": 0}, table="rejected", sql_conn_id="crm")

with DAG("reader", **OPTIONS):

    @task(inlets=[CUSTOMERS, OTHER])
    def look(**context):
        events = {asset.uri: context["inlet_events"][asset][-1].extra for asset in (CUSTOMERS, OTHER)}
        with open(os.environ["OBSERVED_EVENTS"], "w") as file:
            json.dump(events, file)

    look()
