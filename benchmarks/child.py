"""``python -m benchmarks.child MODULE:FUNCTION JSON``: call a function with these arguments and measure it."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

RESULT = "BENCH-RESULT "


def memory(field: str) -> float:
    """Return the memory of this process in MB: ``VmRSS`` (now) or ``VmHWM`` (its peak)."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) / 1024


def measured(work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Call the function and return its result and measurements. Imports are not counted."""
    before = memory("VmRSS")
    cpu, start = time.process_time(), time.monotonic()
    said = work()
    taken = {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
    return {**taken, "rss_before": before, "rss_peak": memory("VmHWM"), "said": said}


def main() -> None:
    """Work, report to the parent, and exit without waiting for anything."""
    module, _, function = sys.argv[1].partition(":")
    call, arguments = getattr(importlib.import_module(module), function), json.loads(sys.argv[2])
    result = measured(lambda: call(**arguments))
    sys.stdout.write(f"\n{RESULT}{json.dumps(result)}\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
