"""Run one DAG, and kill this process (SIGKILL) when a checkpoint is reached for the n-th time.

Arguments: the DAG's file, its logical date, the checkpoint, n. The connections stand in the environment.
"""

from __future__ import annotations

import datetime
import os
import signal
import sys

from conftest import dags_of, run_dag

from payarc_provider.sync import checkpoints


def main(path: str, when: str, checkpoint: str, nth: str) -> None:
    """Run it; reaching its end is a failure."""
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
