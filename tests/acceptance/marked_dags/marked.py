"""Runs of every kind, over records whose values are markers; see ``test_privacy.py``."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from payarc_provider.operators.customer import CreateCustomerOperator

SETTINGS: dict[str, Any] = {"task_id": "create", "ledger_conn_id": "ledger", "settle": 2, "lease": 20}


def dag(dag_id: str) -> Any:
    """A DAG without a schedule."""
    return DAG(dag_id, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False)


def create(dag_id: str, **arguments: Any) -> None:
    """A DAG of one task."""
    with dag(dag_id):
        CreateCustomerOperator(**SETTINGS | arguments)


@task(show_return_value_in_logs=False)
def extract():
    with open(os.environ["MARKED_RECORDS"]) as file:
        return json.load(file)


def stumble(_record):
    raise ValueError(f"cannot convert {os.environ['MARKED_VALUE']}")


@task
def break_ledger():
    """From now on, the ledger's database refuses every new row, in words that quote a value."""
    words = f"no such {os.environ['MARKED_VALUE']}"  # so that it is not taken for an error that passes
    with contextlib.closing(sqlite3.connect(os.environ["MARKED_LEDGER"])) as ledger, ledger:
        ledger.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON payarc_customers BEGIN SELECT json_extract('{{}}', '{words}'); END"
        )


@task
def careless():
    record = os.environ["MARKED_VALUE"]
    raise RuntimeError(f"a record of {len(record)} letters was lost")


create("accepted", table="people", sql_conn_id="crm", source="people")
create("known", table="people", sql_conn_id="crm", source="people")
create("changed", table="changed", sql_conn_id="crm", source="people", on_changed="update")
create("adopted", table="people", sql_conn_id="crm", ledger_table="adopted", match_existing="email")
create("planned", table="changed", sql_conn_id="crm", source="people", on_changed="update", dry_run=True)
create("guarded", table="people", sql_conn_id="crm", ledger_table="guarded", max_new=1)
create("rejected", table="rejected", sql_conn_id="crm")
create("lost", table="lost", sql_conn_id="crm", concurrency=1)
create("unauthorized", table="unauthorized", sql_conn_id="crm")
create("undecodable", table="undecodable", sql_conn_id="crm")
create("misread", sql="SELECT id, json_extract('{}', name) AS name, email FROM people", sql_conn_id="crm")
create("no_column", table="people", sql_conn_id="crm", fields={"name": "no_such_column"})
create("no_ledger", table="people", sql_conn_id="crm", ledger_conn_id="garbage")

with dag("failing_ledger"):
    failing = {**SETTINGS, "ledger_conn_id": "failing", "sql_conn_id": "crm"}
    before = CreateCustomerOperator(**failing | {"task_id": "before"}, table="people")
    before >> break_ledger() >> CreateCustomerOperator(**failing, table="lost")

with dag("from_xcom"):
    CreateCustomerOperator(**SETTINGS, records=extract(), ledger_table="from_xcom")
with dag("unexpected"):
    CreateCustomerOperator(**SETTINGS, records=extract().map(stumble))
with dag("mapped"):
    CreateCustomerOperator.partial(**SETTINGS, max_rejected=-5).expand(records=extract())
with dag("careless"):
    careless()
