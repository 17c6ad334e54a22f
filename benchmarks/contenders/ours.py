"""This provider's operator, executed as Airflow executes it, in a process without a scheduler."""

from __future__ import annotations

import json
import logging
import os
import sys
from types import SimpleNamespace
from typing import Any

# A task's process has imported these before it executes the task, so they are not counted.
import airflow.providers.postgres.hooks.postgres
import airflow.providers.sqlite.hooks.sqlite
import airflow.sdk.definitions.connection
import airflow.sdk.execution_time.supervisor
import airflow.sdk.execution_time.task_runner  # noqa: F401
from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector
from airflow.providers.common.compat.sdk import DAG

import payarc_provider.operators.task  # noqa: F401
from benchmarks.contenders import default_logs
from payarc_provider.operators.customer import CreateCustomerOperator

get_hook_lineage_collector()  # loads Airflow's plugins


class TaskInstance(SimpleNamespace):
    """The part of a task instance that the operator uses."""

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep the value."""
        self.pushed[key] = value

    def xcom_pull(self, **_: Any) -> None:
        """Return None: nothing was pushed."""


def context(operator: CreateCustomerOperator, run_id: str) -> dict[str, Any]:
    """Return the part of a task's context that the operator needs."""
    instance = TaskInstance(dag_id="bench", run_id=run_id, task_id="create", map_index=-1, try_number=1, pushed={})
    return {"ti": instance, "task_instance": instance, "run_id": run_id, "task": operator, "dag": operator.dag}


def connect(url: str, token: str, crm: str, ledger: dict[str, Any], timeout: float) -> None:
    """Set the three connections."""
    logging.basicConfig(level=logging.INFO if default_logs() else logging.WARNING, stream=sys.stderr)
    payarc = {"conn_type": "payarc", "host": url, "password": token, "extra": {"timeout": timeout}}
    crm_file = {"conn_type": "sqlite", "host": crm}
    for name, connection in {"PAYARC_DEFAULT": payarc, "CRM": crm_file, "LEDGER": ledger}.items():
        os.environ[f"AIRFLOW_CONN_{name}"] = json.dumps(connection)


def run(
    url: str,
    token: str,
    crm: str,
    state: str,
    threads: int,
    limit: list[float] | None,
    ledger: dict[str, Any],
    run_id: str = "run",
    timeout: float = 30,
    **arguments: Any,
) -> dict[str, Any]:
    """Execute the operator once and return its ``summary``."""
    if ledger["conn_type"] == "sqlite":
        ledger = {**ledger, "host": f"{state}/ledger.db"}
    connect(url, token, crm, ledger, timeout)
    with DAG("bench", schedule=None):
        operator = CreateCustomerOperator(
            task_id="create",
            table="people",
            sql_conn_id="crm",
            ledger_conn_id="ledger",
            concurrency=threads,
            push_ids=False,
            **arguments,
        )
    mine = context(operator, run_id)
    operator.execute(mine)  # type: ignore[arg-type]
    summary: dict[str, Any] = mine["ti"].pushed["summary"]
    return summary
