"""Airflow's UI and the sandbox, with the data of ``make demo``. ``.demo/ui.sh`` starts it, Ctrl-C stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from run import HOME, sandbox_command


def main() -> None:
    """Run both until one of them ends, or until Ctrl-C."""
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, lambda *_: sys.exit())
    commands = (sandbox_command(int((HOME / "port").read_text())), ["airflow", "standalone"])
    # In sessions of their own, so that all their processes can be stopped: `airflow standalone` leaves some behind.
    processes = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(1)
    except KeyboardInterrupt:
        print("\nStopping ...")
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, how)
            time.sleep(3 if how == signal.SIGTERM else 0)


if __name__ == "__main__":
    main()
