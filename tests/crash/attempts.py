"""Starting, stopping and killing attempts: the client of the worker's fork server."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .forking import BROKEN, FAILED, Spec

HANG_SECONDS = 180.0
"""An attempt that takes longer counts as hanging. None takes a tenth of this."""


class Attempt:
    """One attempt: a process that can be stopped, resumed, terminated and killed."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.pid = 0
        self.exit: int | None = None
        self._suspended_at = self._resumed_at = math.inf
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._ended = threading.Event()

    def on_event(self, event: dict[str, Any]) -> None:
        """Handle one event that the fork server reports about this attempt."""
        if "pid" in event:
            self.pid = event["pid"]
            self._started.set()
        if "stopped" in event:
            self._suspended_at = min(self._suspended_at, time.monotonic())
            self._stopped.set()
        if "exit" in event:
            self.exit = event["exit"]
            self._started.set()
            self._stopped.set()
            self._ended.set()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal; do nothing if it has ended."""
        self._started.wait(HANG_SECONDS)
        if self.exit is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the process to end; return its exit status, which is negative if a signal ended it.

        :param seconds: return None if the process is still running after that long; by default it must end
        """
        if self._ended.wait(HANG_SECONDS if seconds is None else seconds):
            return self.exit
        if seconds is None:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"attempt {self.spec.name} hangs\n{self.tail()}")
        return None

    def wait_until_stopped(self) -> bool:
        """Wait until the process has stopped itself; return False if it has ended instead."""
        assert self._stopped.wait(HANG_SECONDS), f"attempt {self.spec.name} hangs\n{self.tail()}"
        self._stopped.clear()
        return self.exit is None

    def resume(self) -> None:
        """Continue the process after it was stopped."""
        self._resumed_at = time.monotonic()
        self.signal(signal.SIGCONT)

    def was_suspended(self, begin: float, end: float) -> bool:
        """Whether it was stopped at some time between these, by the monotonic clock."""
        return self._suspended_at <= end and begin <= self._resumed_at

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.exit == -signal.SIGKILL

    @property
    def result(self) -> dict[str, Any]:
        """What it returned; empty if it was killed."""
        path = self.spec.path("json")
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def error(self) -> str:
        """Why it failed, as Airflow's log would say; empty if it did not fail."""
        return self.result.get("error") or ""

    def wait_for_log(self, *texts: str) -> bool:
        """Wait until the log contains one of the texts; return False if the process ends first."""
        for _ in range(int(HANG_SECONDS / 0.02)):
            ended = self._ended.wait(0.02)
            log = self.log()
            if any(text in log for text in texts):
                return True
            if ended:
                return False
        raise AssertionError(f"attempt {self.spec.name} never logged {texts}\n{self.tail()}")

    def log(self) -> str:
        """Everything it has logged so far."""
        path = self.spec.path("log")
        return path.read_text(errors="replace") if path.exists() else ""

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        text = [f"exit {self.exit}", *self.log().splitlines()[-lines:], self.error]
        return "\n".join(f"  {self.spec.name}| {line}" for line in text)


class Attempts:
    """A fork server and its attempts.

    :param module: the module that runs as the fork server
    """

    def __init__(self, module: str = "worker", environment: Mapping[str, str] | None = None) -> None:
        package = Path(__file__).parent
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(package.parent)]))
        reading, writing = os.pipe()
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{package.name}.{module}", str(writing)],
            stdin=subprocess.PIPE,
            text=True,
            pass_fds=[writing],
            env={**os.environ, **(environment or {}), "PYTHONPATH": path},
        )
        os.close(writing)
        self._events = os.fdopen(reading)
        self._attempts: dict[str, Attempt] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, spec: Spec) -> Attempt:
        """Start an attempt. Its name must be unique."""
        attempt = Attempt(spec)
        with self._lock:
            assert spec.name not in self._attempts, spec.name
            self._attempts[spec.name] = attempt
            assert self._server.stdin is not None
            self._server.stdin.write(spec.as_line())
            self._server.stdin.flush()
        return attempt

    def close(self) -> None:
        """End the server; it kills the attempts that are still running."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._reader.join(30)

    def _read(self) -> None:
        with self._events:
            for line in self._events:
                event = json.loads(line)
                self._attempts[event["name"]].on_event(event)
        with self._lock:  # if the server itself has failed, nobody has to wait for its attempts
            for attempt in self._attempts.values():
                if attempt.exit is None:
                    attempt.on_event({"exit": BROKEN})


def may_retry(attempt: Attempt) -> bool:
    """Whether Airflow would run the task again: it was killed, or it failed with an error that allows a retry."""
    return attempt.killed or attempt.exit == FAILED
