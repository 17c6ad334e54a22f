"""Run a DAG, and kill this process with SIGKILL when a checkpoint is reached for the nth time.

Arguments: the DAG's file, its logical date, the checkpoint, n. The connections come from environment variables.
"""

from __future__ import annotations

import datetime
import os
import signal
import sys

from conftest import dags_of, run_dag

from payarc_provider.sync import checkpoints


def main(path: str, when: str, checkpoint: str, nth: str) -> None:
    """Run the DAG. If this returns, the process was not killed, and the test fails."""
    left = int(nth)

    def listener(name: str) -> None:
        nonlocal left
        left -= name == checkpoint
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    (dag,) = dags_of(path).values()
    checkpoints.listener = listener
    run_dag(dag, datetime.datetime.fromisoformat(when))


if __name__ == "__main__":
    main(*sys.argv[1:])
