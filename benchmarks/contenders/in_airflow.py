"""Tools that run inside Airflow, with ``dag.test()``, which runs one task at a time in one process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag

from benchmarks.contenders.ours import connect
from benchmarks.people import as_json

DAGS = Path(__file__).parent.parent / "dags"


def migrate() -> dict[str, Any]:
    """Create Airflow's database."""
    from airflow.utils.db import initdb

    initdb()
    return {}


def operator(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """Run a task of this provider's operator."""
    connect(url, token, crm, {"conn_type": "sqlite", "host": f"{state}/ledger.db"}, timeout=5)
    return _test("bench_ours", "create")


def http(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """Run a mapped HttpOperator. As in Airflow, tasks that have succeeded do not run again."""
    done = Path(state, "done")
    finished = set(done.read_text().split()) if done.exists() else set()
    bodies = [body for body in as_json(crm) if json.loads(body)["email"] not in finished]
    Path(state, "bodies.json").write_text(json.dumps(bodies))
    connection = {
        "conn_type": "http",
        "host": url.removesuffix("/v1"),
        "extra": {"Authorization": f"Bearer {token}"},  # where the hook takes headers from
    }
    os.environ |= {"BENCH_BODIES": f"{state}/bodies.json", "AIRFLOW_CONN_PAYARC_HTTP": json.dumps(connection)}
    return _test("bench_http", "post")


def finished(state: str) -> dict[str, Any]:
    """Write down which tasks have succeeded, for the rerun after a kill."""
    import sqlalchemy as sa
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        latest = session.scalar(
            sa.select(TaskInstance.run_id)
            .where(TaskInstance.dag_id == "bench_http")
            .order_by(TaskInstance.run_id.desc())
            .limit(1)
        )
        query = sa.select(TaskInstance.map_index).where(
            TaskInstance.dag_id == "bench_http",
            TaskInstance.run_id == latest,
            TaskInstance.task_id == "post",
            TaskInstance.state == "success",
        )
        indexes = list(session.scalars(query))
    bodies = json.loads(Path(state, "bodies.json").read_text())
    Path(state, "done").write_text("\n".join(json.loads(bodies[index])["email"] for index in indexes))
    return {"finished": len(indexes)}


def _test(dag_id: str, task_id: str) -> dict[str, Any]:
    bag = DagBag(str(DAGS / f"{dag_id}.py"))
    if bag.import_errors:
        raise SystemExit(str(bag.import_errors))
    run = bag.dags[dag_id].test()
    tasks = [one for one in run.get_task_instances() if one.task_id == task_id]
    if str(run.state) != "success":
        raise SystemExit(f"{dag_id} ended as {run.state}")
    return {"slot_seconds": sum(one.duration or 0 for one in tasks), "tasks": len(tasks)}
