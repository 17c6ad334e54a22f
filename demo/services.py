"""The processes of the demo, Airflow and the PayArc sandbox, with everything they write in ``.demo/``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from payarc_provider.sandbox.tokens import SANDBOX_TOKEN

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = CHECKOUT / ".demo"
CRM = HOME / "crm.db"
LOG = HOME / "airflow.log"
UI = HOME / "ui.sh"
PROGRAMS = Path(sys.executable).parent
PORTS = ("airflow", "sandbox", "task logs", "trigger logs")
TIMEOUT = 3  # seconds: the DAG's `settle` and `lease` must not be shorter
LATENCY = 0.2  # seconds per request, as over a network: long enough for a kill to find requests in flight
GRACE = 5.0  # seconds
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Ports = dict[str, int]


@contextlib.contextmanager
def home(*, empty: bool) -> Iterator[None]:
    """Own ``.demo/``, which only one demo can do at a time.

    :param empty: remove what an earlier demo has left there
    """
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit("Another demo or its UI is running in .demo. Stop it with Ctrl-C first.") from None
        for path in HOME.iterdir() if empty else ():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        yield


def ports() -> Ports:
    """Free ports, the same as the last time if they are still free."""
    noted = HOME / "ports.json"
    last: Ports = json.loads(noted.read_text()) if noted.exists() else {}
    with contextlib.ExitStack() as held:
        chosen = {name: _free_port(last.get(name, 0), held) for name in PORTS}
    noted.write_text(json.dumps(chosen))
    return chosen


def _free_port(wanted: int, held: contextlib.ExitStack) -> int:
    """A free port, ``wanted`` if possible. It is held, so that the next call returns another."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError):
            port_found: int = held.enter_context(socket.create_server(("127.0.0.1", port))).getsockname()[1]
            return port_found
    raise SystemExit("No port is free")


def settings(ports: Ports) -> dict[str, str]:
    """The environment of an Airflow that stays inside ``.demo/`` and, as it needs no login, on this machine."""
    address = f"http://localhost:{ports['airflow']}"
    payarc = {
        "conn_type": "payarc",
        "host": f"http://127.0.0.1:{ports['sandbox']}/v1",
        "password": SANDBOX_TOKEN,
        "extra": {"account": "demo-shop", "timeout": TIMEOUT},
    }
    return {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME / 'airflow.db'}",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{ports['airflow']}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(HOME / "plugins"),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports["airflow"]),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(HOME / "logs"),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["trigger logs"]),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports["task logs"]),
        "AIRFLOW__PAYARC__LEDGERS": "crm",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",  # the first call takes a slow machine longer than 5 s
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_CRM": json.dumps({"conn_type": "sqlite", "host": str(CRM)}),
        "AIRFLOW_CONN_PAYARC_DEFAULT": json.dumps(payarc),
    }


def write_scripts(settings: dict[str, str]) -> None:
    """Write a script that sets the demo's environment in a shell, and one that starts its Airflow again."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    (HOME / "env.sh").write_text("\n".join([*exports, f"export PATH={shlex.quote(str(PROGRAMS))}:$PATH", ""]))
    ui = shlex.join([sys.executable, str(CHECKOUT / "demo" / "ui.py")])
    UI.write_text(
        f"#!/bin/sh\n# Airflow and the sandbox, with the data of `make demo`. Stop them with Ctrl-C.\nexec {ui}\n"
    )
    UI.chmod(0o755)


class Processes:
    """Running programs, each in a session of its own, so that Ctrl-C does not reach them."""

    def __init__(self) -> None:
        self._programs: list[psutil.Popen] = []

    def start(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        """Start a program."""
        with log.open("ab") as output:
            self._programs.append(
                psutil.Popen(
                    command,
                    cwd=HOME,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def alive(self) -> bool:
        """Whether all programs are running."""
        return all(program.poll() is None for program in self._programs)

    def pids(self) -> set[int]:
        """The process ids of the programs and their descendants."""
        return {process.pid for process in self._all()}

    def end(self) -> None:
        """End all processes: SIGTERM, and SIGKILL to those still running after ``GRACE``."""
        processes = self._all()
        for program in self._programs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=GRACE)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=GRACE)

    def _all(self) -> list[psutil.Process]:
        found = []
        for program in self._programs:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [psutil.Process(program.pid), *program.children(recursive=True)]
        return found


@contextlib.contextmanager
def services(ports: Ports, settings: dict[str, str]) -> Iterator[Processes]:
    """Run the sandbox and Airflow, and end them whatever happens, except for a SIGKILL of this process."""
    for ending in ENDING:
        signal.signal(ending, _stop)
    inherited = {name: value for name, value in os.environ.items() if not _disturbs(name)}
    environment = inherited | settings | {"NO_COLOR": "1", "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    sandbox = ["--port", str(ports["sandbox"]), "--state", str(HOME / "payarc.db"), "--latency", str(LATENCY)]
    processes = Processes()
    try:
        processes.start([sys.executable, "-m", "payarc_provider.sandbox", *sandbox], HOME / "sandbox.log", environment)
        processes.start([str(PROGRAMS / "airflow"), "standalone"], LOG, environment)
        yield processes
    finally:
        _ignore_signals()
        processes.end()


def _stop(*_: object) -> None:
    _ignore_signals()  # a second Ctrl-C must not interrupt the ending of the processes
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)


def _disturbs(name: str) -> bool:
    return name.startswith("AIRFLOW_") or name.lower().endswith("_proxy")
