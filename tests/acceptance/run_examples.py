"""Import the example DAGs, run each according to the plan, and write a report to a file.

Arguments: the file with the plan, ``[[DAG, logical date or null, conf, SQL, environment]]``, and the file for the
report. The SQL changes the CRM before the run.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sqlite3
import sys
import warnings
from pathlib import Path
from typing import Any

from airflow import __version__ as airflow_version
from airflow.utils.db import initdb
from conftest import dag_bag, run_dag

EXAMPLES = Path(__file__).resolve().parents[2] / "example_dags"


def main(plan: Path, report: Path) -> None:
    """Run them all, in this order."""
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("error", category=category, module="payarc_provider|unusual_prefix_")
    initdb()
    bag = dag_bag(EXAMPLES)
    docs = {name: bool(dag.doc_md) for name, dag in bag.dags.items()}
    runs = [_run(bag.dags[name], *how) for name, *how in json.loads(plan.read_text())]
    report.write_text(json.dumps({"import_errors": bag.import_errors, "docs": docs, "runs": runs}))


def _run(dag: Any, when: str | None, conf: dict[str, Any], sql: str, environment: dict[str, str]) -> dict[str, Any]:
    os.environ |= environment
    with contextlib.closing(sqlite3.connect(json.loads(environment["AIRFLOW_CONN_CRM"])["host"])) as crm:
        crm.executescript(sql)
    if airflow_version.startswith("3.0."):  # its dag.test() rejects assets that no scheduler has seen
        for task in dag.tasks:
            task.outlets = []
    dag_run = run_dag(dag, when and datetime.datetime.fromisoformat(when), run_conf=conf)
    tasks = [
        {"task": one.task_id, "map_index": one.map_index, "state": str(one.state), "xcom": _xcom(one)}
        for one in sorted(dag_run.get_task_instances(), key=lambda one: (one.task_id, one.map_index))
    ]
    return {"dag": dag.dag_id, "state": str(dag_run.state), "tasks": tasks}


def _xcom(task: Any) -> dict[str, Any]:
    return {
        key: task.xcom_pull(task_ids=task.task_id, key=key, map_indexes=task.map_index)
        for key in ("return_value", "rejected", "summary")
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
