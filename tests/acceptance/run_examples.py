"""Import the example DAGs, run each according to the plan, and write a report to a file.

Arguments: the file with the plan, ``[[DAG, logical date or null, conf, SQL, environment]]``, and the file for the
report. The SQL changes the CRM before the run. Where the conf has an ``answer``, somebody chooses it when the DAG run
asks for an approval, after the conf's SQL ``meanwhile`` has changed the CRM.
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import json
import os
import sqlite3
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from airflow import __version__ as airflow_version
from airflow.utils.db import initdb
from conftest import dag_bag, run_dag

EXAMPLES = Path(__file__).resolve().parents[2] / "airflow_provider_payarc" / "example_dags"


def main(plan: Path, report: Path) -> None:
    """Run them all, in this order."""
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("error", category=category, module="payarc_provider|unusual_prefix_")
    initdb()
    bag = dag_bag(EXAMPLES)
    docs = {name: bool(dag.doc_md) for name, dag in bag.dags.items()}
    by_themselves = [name for name, dag in bag.dags.items() if _runs_by_itself(dag)]
    runs = [_run(bag.dags[name], *how) for name, *how in json.loads(plan.read_text())]
    report.write_text(
        json.dumps({"import_errors": bag.import_errors, "docs": docs, "by_themselves": by_themselves, "runs": runs})
    )


def _runs_by_itself(dag: Any) -> bool:
    return type(dag.timetable).__name__ != "NullTimetable" and not dag.is_paused_upon_creation


def _run(dag: Any, when: str | None, conf: dict[str, Any], sql: str, environment: dict[str, str]) -> dict[str, Any]:
    os.environ |= environment
    _change_crm(sql)
    if "answer" in conf:
        threading.Thread(target=_answer, args=(dag.dag_id, conf["answer"], conf["meanwhile"]), daemon=True).start()
    if airflow_version.startswith("3.0."):  # its dag.test() rejects assets that no scheduler has seen
        for task in dag.tasks:
            task.outlets = []
    dag_run = run_dag(dag, when and datetime.datetime.fromisoformat(when), run_conf=conf)
    tasks = [
        {"task": one.task_id, "map_index": one.map_index, "state": str(one.state), "xcom": _xcom(one)}
        for one in sorted(dag_run.get_task_instances(), key=lambda one: (one.task_id, one.map_index))
    ]
    return {"dag": dag.dag_id, "state": str(dag_run.state), "tasks": tasks}


def _change_crm(sql: str) -> None:
    path = json.loads(os.environ["AIRFLOW_CONN_CRM"])["host"]
    with contextlib.closing(sqlite3.connect(path)) as crm:
        crm.executescript(sql)


def _answer(dag_id: str, answer: str, meanwhile: str) -> None:
    """Answer the next request for an approval, as a person in the UI does. Without an answer, a DAG run never ends."""
    try:
        while not _has_answered(dag_id, answer, meanwhile):
            time.sleep(0.1)
    except BaseException:  # noqa: BLE001 - nothing else would end this process
        traceback.print_exc()
        os._exit(1)


def _has_answered(dag_id: str, answer: str, meanwhile: str) -> bool:
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
    from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
    from airflow.models.hitl import HITLDetail
    from airflow.utils.session import create_session

    with create_session() as session:
        open_details = session.query(HITLDetail).filter(HITLDetail.responded_at.is_(None)).all()
        asked = [one.task_instance for one in open_details if one.task_instance.dag_id == dag_id]
        if not asked or asked[0].state not in ("awaiting_input", "deferred"):
            return False
        _change_crm(meanwhile)
        payload = UpdateHITLDetailPayload(chosen_options=[answer], params_input={})
        user = SimpleAuthManagerUser(username="ana", role="admin")
        more = {}
        if "dag_bag" in inspect.signature(update_hitl_detail).parameters:  # since 3.4
            from airflow.models.dagbag import DBDagBag

            more["dag_bag"] = DBDagBag()
        update_hitl_detail(dag_id, asked[0].run_id, asked[0].task_id, payload, user, session, **more)
        return True


def _xcom(task: Any) -> dict[str, Any]:
    return {
        key: task.xcom_pull(task_ids=task.task_id, key=key, map_indexes=task.map_index)
        for key in ("return_value", "rejected", "summary", "plan")
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
