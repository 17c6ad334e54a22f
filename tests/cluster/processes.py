"""Starting, watching and killing processes together with their children, and ending them reliably."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

PATIENCE = 300.0
"""Seconds to wait for anything, on a machine that is busy with other work."""


class ClusterError(Exception):
    """The cluster did not behave as expected."""


def wait_until(what: str, done: Callable[[], object], patience: float = PATIENCE) -> float:
    """Wait until ``done()`` is true; return the seconds it took."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > patience:
            raise ClusterError(f"{what}: not after {patience:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began


class Processes:
    """Running programs, each with its own session and log file.

    :param logs: the folder for the log files
    :param environment: environment variables of all programs
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self.environment = dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, **environment: str) -> None:
        """Start a program. No running one may have the same name."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                env=self.environment | environment,
                cwd=self._logs,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Fail if a program has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ClusterError(f"{name} ended with {process.returncode}: see {self._logs / name}.log")

    def pids(self, name: str) -> set[int]:
        """The process ids of a program and its descendants."""
        return {member.pid for member in _family(self._running[name])}

    def kill(self, name: str) -> int:
        """Kill a program and its descendants, as if its machine had failed; return the number of processes."""
        process = self._running.pop(name)
        family = _family(process)
        for member in family:  # suspend all first, so that none can react to the death of another
            with contextlib.suppress(psutil.NoSuchProcess):
                member.suspend()
        for member in _family(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        return len(family)

    def stop(self, *names: str) -> None:
        """End the named programs, or all: SIGTERM, and SIGKILL to those still running ten seconds later."""
        chosen = [self._running.pop(name) for name in names or list(self._running)]
        families = [member for process in chosen for member in _family(process)]
        for process in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(families, timeout=10)
        for member in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        for process in chosen:
            process.wait()


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        head = psutil.Process(process.pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def program(name: str) -> str:
    """The path of a program in this Python environment."""
    return str(Path(sys.executable).with_name(name))
