"""One slice of the operator with ``deferrable=True``: from the start or a deferral to the next deferral."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, TaskDeferred

import payarc_provider.operators.task  # noqa: F401 - imports are measured apart
from benchmarks.contenders.ours import connect, context
from payarc_provider.operators.customer import CreateCustomerOperator


def run(url: str, token: str, crm: str, state: str, threads: int) -> dict[str, Any]:
    """Go on; ``done`` once it ended in success."""
    connect(url, token, crm, {"conn_type": "sqlite", "host": f"{state}/ledger.db"}, timeout=30)
    noted = Path(state, "deferred.json")
    with DAG("bench", schedule=None):
        operator = CreateCustomerOperator(
            task_id="create",
            table="people",
            sql_conn_id="crm",
            ledger_conn_id="ledger",
            concurrency=threads,
            push_ids=False,
            deferrable=True,
        )
    mine: Any = context(operator, "run")
    try:
        if noted.exists():
            left = json.loads(noted.read_text())
            operator.resume_execution(left["method"], {**left["kwargs"], "event": None}, mine)
        else:
            operator.execute(mine)
    except TaskDeferred as deferral:
        _, fields = deferral.trigger.serialize()
        moment = fields.get("moment") or fields.get("until")
        until = moment.timestamp() if hasattr(moment, "timestamp") else float(moment)
        noted.write_text(json.dumps({"method": deferral.method_name, "kwargs": deferral.kwargs or {}, "until": until}))
        return {"done": False, "until": until}
    return {"done": True}
