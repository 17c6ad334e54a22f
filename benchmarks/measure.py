"""What a child process measures of itself: wall clock, CPU and memory of a piece of work."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

RESULT = "BENCH-RESULT "


def memory(field: str) -> float:
    """Of this process, in MB: ``VmRSS`` (now) or ``VmHWM`` (the most since its program began)."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) / 1024


def measured(work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Do the work; what it says, and what it took. What was imported before does not count."""
    before = memory("VmRSS")
    cpu, start = time.process_time(), time.monotonic()
    said = work()
    return {
        "seconds": time.monotonic() - start,
        "cpu": time.process_time() - cpu,
        "rss_before": before,
        "rss_peak": memory("VmHWM"),
        **said,
    }


def tell(result: Mapping[str, Any]) -> None:
    """Hand a result to the parent, and leave without waiting for anything."""
    sys.stdout.write(f"\n{RESULT}{json.dumps(result)}\n")
    sys.stdout.flush()
    os._exit(0)
