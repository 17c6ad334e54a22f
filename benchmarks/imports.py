"""The time to import the operator in a DAG file, beyond the time to import Airflow's own base class."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks.speed import median_spread
from benchmarks.world import World

_CODE = """
import time
from airflow.providers.common.compat.sdk import BaseOperator
start = time.perf_counter()
import payarc_provider.operators.customer
print(time.perf_counter() - start)
"""


def import_time(world: World, runs: int) -> dict[str, Any]:
    """Return the times in seconds, each measured in this many new processes."""
    command = [sys.executable, "-c", _CODE]

    def once() -> float:
        done = subprocess.run(command, env=world.environment(), check=True, capture_output=True, text=True)
        return float(done.stdout.split()[-1])

    once()  # compile everything first
    return median_spread([once() for _ in range(runs)])
