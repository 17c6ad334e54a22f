"""The contenders, a module each, whose ``run`` sends what is in a CRM table once.

Each runs in a process of its own, and takes ``url`` and ``token`` (PayArc's), ``crm`` (the SQLite file), ``state`` (a
folder that outlives the run), ``threads`` and ``limit`` (None, or requests and the seconds they are allowed in).
"""

import os


def default_logs() -> bool:
    """Return whether a tool writes the logs that it writes by default. Where speed is measured, it writes few."""
    return "BENCH_DEFAULT_LOGS" in os.environ
