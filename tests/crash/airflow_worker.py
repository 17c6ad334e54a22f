"""A fork server whose attempts are Airflow tasks: each is a ``dag.test()`` in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from datetime import UTC, datetime
from typing import Any

import httpx
from airflow.providers.sqlite.hooks import sqlite as _sqlite  # noqa: F401 - imported once, before the forks
from airflow.sdk.execution_time import supervisor, task_runner  # noqa: F401
from airflow.utils.db import initdb
from airflow.utils.state import DagRunState

from payarc_provider.operators import task as _task  # noqa: F401

from .forking import Spec, serve

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag

PREPARE = "prepare"
"""The table name in the spec of the attempt that only creates Airflow's own database."""


def attempt(spec: Spec) -> dict[str, Any]:
    """Run the DAG once. All attempts belong to the same DAG run."""
    if spec.table == PREPARE:
        initdb()
        return {"error": None, "rejected_too_many": False}
    os.environ["PAYARC_CRASH_SPEC"] = json.dumps(json.loads(spec.as_line()))
    extra = {"timeout": spec.settings["timeout"]}
    payarc = {"conn_type": "payarc", "password": spec.token, "host": spec.url, "extra": extra}
    os.environ["AIRFLOW_CONN_PAYARC_DEFAULT"] = json.dumps(payarc)
    os.environ["AIRFLOW_CONN_CRM"] = json.dumps({"conn_type": "sqlite", "host": spec.ledger.removeprefix("sqlite:///")})
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors:
        raise RuntimeError(bag.import_errors)
    run = bag.dags["killed"].test(logical_date=datetime(2026, 1, 1, tzinfo=UTC))
    pulled = {name: _pull(run, key) for name, key in _XCOMS.items()}
    return {"error": None if run.state == DagRunState.SUCCESS else run.state, "rejected_too_many": False, **pulled}


_XCOMS = {"ids": "return_value", "customers": "customers", "rejected": "rejected", "summary": "summary"}


def _pull(run: Any, key: str) -> Any:
    value = run.get_task_instance("create").xcom_pull(task_ids="create", key=key)
    return list(value) if key == "return_value" and value is not None else value


async def _warm_up() -> None:
    """Do the slowest part of a task before the forks. It opens no connection and starts no thread."""
    with contextlib.suppress(AttributeError, ImportError):  # this part of Airflow is internal and differs by version
        app = httpx.ASGITransport(app=supervisor.in_process_api_server().app)
        async with httpx.AsyncClient(transport=app, base_url="http://airflow") as client:
            await client.get("/health")


if __name__ == "__main__":
    asyncio.run(_warm_up())
    serve(attempt)
