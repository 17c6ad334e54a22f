"""A program: imports the example DAGs, runs each, and writes what came of it to the file named by its argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.utils.db import initdb

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag

EXAMPLES = Path(__file__).resolve().parents[2] / "example_dags"


def main(report: Path) -> None:
    """Run them all."""
    initdb()
    bag = DagBag(str(EXAMPLES))
    said = {"import_errors": bag.import_errors, "dags": {name: _run(dag) for name, dag in bag.dags.items()}}
    report.write_text(json.dumps(said))


def _run(dag) -> dict[str, object]:
    dag_run = dag.test()
    task = dag_run.get_task_instance("create_customers")
    ids, rejected, summary = (
        task.xcom_pull(task_ids=task.task_id, key=key) for key in ("return_value", "rejected", "summary")
    )
    mapped = [one.state for one in dag_run.get_task_instances() if one.task_id == "welcome"]
    return {
        "state": dag_run.state,
        "doc": bool(dag.doc_md),
        "ids": list(ids),
        "rejected": rejected,
        "summary": summary,
        "mapped": mapped,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
