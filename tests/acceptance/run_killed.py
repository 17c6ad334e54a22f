"""A program: runs one DAG, and kills itself (SIGKILL) at the n-th time that a checkpoint is reached.

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
    """Run it; coming to its end is a failure."""
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
