"""Airflow's UI and PayArc's stand-in, on what ``make demo`` has made; started by ``.demo/ui.sh``, ended by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from run import HOME, sandbox_command


def main() -> None:
    """Run both until either ends or somebody wants to end it."""
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, lambda *_: sys.exit())
    commands = (sandbox_command(int((HOME / "port").read_text())), ["airflow", "standalone"])
    # In sessions of their own, whose every process can then be ended: `airflow standalone` alone leaves some behind.
    processes = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(1)
    except KeyboardInterrupt:
        print("\nEnding ...")
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, how)
            time.sleep(3 if how == signal.SIGTERM else 0)


if __name__ == "__main__":
    main()
