"""A loop that only normalises, validates and hashes records: what is left of a rerun when nothing else costs anything."""

from __future__ import annotations

import itertools
import time
from typing import Any

from benchmarks.people import people
from payarc_provider.sync.records import Reader


def run(count: int, page: int = 2000) -> dict[str, Any]:
    """Read so many records; what it takes to make the rows themselves is left out."""
    reader, rows, spent, cpu = Reader("id", None, "bench"), people(count), 0.0, 0.0
    index = 0
    while chunk := list(itertools.islice(rows, page)):
        start, used = time.monotonic(), time.thread_time()
        for row in chunk:
            reader.read(index, row)
            index += 1
        spent, cpu = spent + time.monotonic() - start, cpu + time.thread_time() - used
    return {"loop_seconds": spent, "loop_cpu": cpu, "per_second": count / spent}
