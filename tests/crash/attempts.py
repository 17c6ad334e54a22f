"""Starting, stopping and killing attempts: the other end of the worker's fork server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .forking import FAILED, Spec

HANGS = 180.0  # seconds after which an attempt counts as hanging; none takes a tenth of it


class Attempt:
    """One attempt: a process that may be stopped, let go on, terminated and killed."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.pid = 0
        self.exit: int | None = None
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._ended = threading.Event()

    def hear(self, what: dict[str, Any]) -> None:
        """What the fork server tells of it."""
        if "pid" in what:
            self.pid = what["pid"]
            self._started.set()
        if "stopped" in what:
            self._stopped.set()
        if "exit" in what:
            self.exit = what["exit"]
            self._ended.set()
            self._stopped.set()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self._started.wait(HANGS)
        if self.exit is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float | None = None) -> int | None:
        """Until it has ended; its exit status, negative for a signal, None if it goes on.

        :param seconds: after which it may go on; left out, it must have ended
        """
        if self._ended.wait(HANGS if seconds is None else seconds):
            return self.exit
        if seconds is None:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"the attempt {self.spec.name} hangs\n{self.tail()}")
        return None

    def wait_until_stopped(self) -> bool:
        """Until it has stopped itself; False if it has ended instead."""
        assert self._stopped.wait(HANGS), f"the attempt {self.spec.name} hangs\n{self.tail()}"
        self._stopped.clear()
        return self.exit is None

    def go_on(self) -> None:
        """Let it go on after it was stopped."""
        self.signal(signal.SIGCONT)

    @property
    def killed(self) -> bool:
        """Whether it ended by SIGKILL."""
        return self.exit == -signal.SIGKILL

    @property
    def result(self) -> dict[str, Any]:
        """What it handed on; empty if it was killed."""
        path = self.spec.path("json")
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def error(self) -> str:
        """Why it failed, as Airflow's log would say; empty if it did not."""
        return self.result.get("error") or ""

    def wait_until_said(self, *words: str) -> bool:
        """Until its log holds one of these words; False if it has ended without."""
        for _ in range(int(HANGS / 0.02)):
            ended = self._ended.wait(0.02)
            log = self.log()
            if any(word in log for word in words):
                return True
            if ended:
                return False
        raise AssertionError(f"the attempt {self.spec.name} never said {words}\n{self.tail()}")

    def log(self) -> str:
        """What it has logged."""
        path = self.spec.path("log")
        return path.read_text(errors="replace") if path.exists() else ""

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        text = [f"exit {self.exit}", *self.log().splitlines()[-lines:], self.error]
        return "\n".join(f"  {self.spec.name}| {line}" for line in text)


class Attempts:
    """A fork server and its attempts.

    :param module: which serves them
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
        self._told = os.fdopen(reading)
        self._attempts: dict[str, Attempt] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, spec: Spec) -> Attempt:
        """Start an attempt; its name must be new."""
        attempt = Attempt(spec)
        with self._lock:
            assert spec.name not in self._attempts, spec.name
            self._attempts[spec.name] = attempt
            assert self._server.stdin is not None
            self._server.stdin.write(spec.as_line())
            self._server.stdin.flush()
        return attempt

    def close(self) -> None:
        """End; kills what still runs."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._reader.join(30)

    def _read(self) -> None:
        with self._told:
            for line in self._told:
                what = json.loads(line)
                self._attempts[what["name"]].hear(what)


def may_be_repeated(attempt: Attempt) -> bool:
    """Whether Airflow would simply run the task again: it was killed, or failed with an error that says so."""
    return attempt.killed or attempt.exit == FAILED
