"""The sandbox, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from types import TracebackType
from typing import Any, Self


class Sandbox:
    """A context manager; every :meth:`begin` gives an empty one with other settings.

    :param nice: how far it stands back behind other processes
    """

    def __init__(self, nice: int = 0) -> None:
        self._nice = nice
        self._process: subprocess.Popen[str] | None = None
        self.origin = ""
        self.token = ""
        self._cpu = 0.0

    def __enter__(self) -> Self:
        command = ["nice", "-n", str(self._nice), sys.executable, "-m", "payarc_provider.sandbox", "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        lines = [self._process.stdout.readline() for _ in range(4)]
        self.origin = lines[0].split()[-1].removesuffix("/v1")
        self.token = lines[1].split()[-1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process
        self._process.terminate()
        self._process.wait(10)

    @property
    def url(self) -> str:
        """PayArc's base URL."""
        return f"{self.origin}/v1"

    def begin(self, **settings: Any) -> None:
        """Empty the sandbox and apply these settings."""
        self._call("reset", {})
        self._call("settings", settings)
        self._cpu = self._cpu_now()

    def set(self, **settings: Any) -> None:
        """Change settings, and keep the customers."""
        self._call("settings", settings)

    def fail(self, *rules: dict[str, Any]) -> None:
        """Let requests fail by these rules, in place of those before."""
        self._call("faults", method="DELETE")
        self._call("faults", list(rules))

    def stats(self) -> dict[str, Any]:
        """Return its counts since it began, including ``cpu`` in seconds."""
        return {**self._call("stats"), "cpu": self._cpu_now() - self._cpu}

    def created(self) -> int:
        """Return the number of customers."""
        return int(sum(self.stats()["customers"].values()))

    def posts(self) -> list[dict[str, Any]]:
        """Return every POST in the order of arrival."""
        return list(self._call("log"))

    def customers(self) -> list[dict[str, Any]]:
        """Return every customer."""
        return list(self._call("customers"))

    def wait_for(self, created: int, alive: subprocess.Popen[Any]) -> None:
        """Wait until this many customers exist, or until the process that creates them has ended."""
        while self.created() < created and alive.poll() is None:
            time.sleep(0.02)

    def _cpu_now(self) -> float:
        assert self._process
        with open(f"/proc/{self._process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.origin}/_sandbox/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None
