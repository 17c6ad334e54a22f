"""Run the DAGs named by the arguments, and write their states to the file named first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.utils.db import initdb

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag

DAGS = Path(__file__).with_name("marked_dags")


def main(report: Path, *names: str) -> None:
    """Run them in this order, and print a line before each."""
    initdb()
    bag = DagBag(str(DAGS))
    assert bag.import_errors == {}
    states = {}
    for name in names:
        print(f"\n=== {name}", flush=True)
        sys.stderr.flush()
        states[name] = str(bag.dags[name].test().state)
    report.write_text(json.dumps(states))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
