"""The operator, called as Airflow calls it, in a process without a scheduler."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook  # noqa: F401 - Airflow's own imports are not what is measured

from payarc_provider.operators.customer import CreateCustomerOperator


class _TaskInstance(SimpleNamespace):
    """What the operator asks of its task instance."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def context(run: str = "run-1") -> dict[str, Any]:
    """As much of a task's context as the operator needs."""
    instance = _TaskInstance(dag_id="bench", run_id=run, task_id="create", map_index=-1, try_number=1, pushed={})
    return {"ti": instance, "task_instance": instance, "run_id": run}


def run(run_id: str = "run-1", **arguments: Any) -> dict[str, Any]:
    """Execute the operator once; its ``summary``."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    operator = CreateCustomerOperator(task_id="create", **arguments)
    mine = context(run_id)
    operator.execute(mine)  # type: ignore[arg-type]
    summary: dict[str, Any] = mine["ti"].pushed["summary"]
    return summary
