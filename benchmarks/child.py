"""``python -m benchmarks.child MODULE:FUNCTION JSON``: call a function with these arguments, and say what it took."""

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
    """Of this process, in MB: ``VmRSS`` (now) or ``VmHWM`` (the most since its program began)."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) / 1024


def measured(work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Do the work; what it says, and what it took. What was imported before does not count."""
    before = memory("VmRSS")
    cpu, start = time.process_time(), time.monotonic()
    said = work()
    taken = {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
    return {**taken, "rss_before": before, "rss_peak": memory("VmHWM"), "said": said}


def main() -> None:
    """RunState, tell the parent, and leave without waiting for anything."""
    module, _, function = sys.argv[1].partition(":")
    call, arguments = getattr(importlib.import_module(module), function), json.loads(sys.argv[2])
    result = measured(lambda: call(**arguments))
    sys.stdout.write(f"\n{RESULT}{json.dumps(result)}\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
