"""``make demo``: run the same DAG twice in a real Airflow, with 200 people and the PayArc sandbox.

Everything happens on this machine and inside ``.demo/``, which is emptied first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from people import write_crm

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = CHECKOUT / ".demo"
LOG = HOME / "airflow.log"
UI = HOME / "ui.sh"
FIRST, SECOND = "First run", "Second run, as after clearing the task"
TERMINAL = os.fdopen(os.dup(1), "w")  # while Airflow runs, file descriptor 1 leads to its log


@dataclass(frozen=True)
class Run:
    """One run of the DAG. The sandbox has counted ``posts`` and ``created``."""

    state: str
    summary: dict[str, Any]
    rejected: list[dict[str, Any]]
    posts: int
    created: int
    seconds: float


def main() -> None:
    """Run the demo."""
    port = prepare_home()
    people = write_crm(HOME / "crm.db")
    with payarc_sandbox(port) as (origin, connection):
        environment = airflow_environment(connection)
        write_scripts(environment)
        say(*introduction(people, origin))
        with airflow_output_in_log():
            os.environ.update(environment)
            dag = set_up_airflow()
            first = run(dag, origin)
            say(*run_report(FIRST, first))
            second = run(dag, origin)
            say(*run_report(SECOND, second))
    say(*closing(first, second))
    if second.posts or second.created or {first.state, second.state} != {"success"}:
        raise SystemExit("The demo did not end as expected. Please report this, with .demo/airflow.log.")


def prepare_home() -> int:
    """Empty ``.demo/`` and return a free port for the sandbox."""
    noted = HOME / "port"
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection(("127.0.0.1", int(noted.read_text())), timeout=1).close()
        raise SystemExit("The UI of the last demo is still running. Stop .demo/ui.sh with Ctrl-C first.")
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    noted.write_text(str(port))
    return port


def sandbox_command(port: int) -> list[str]:
    """Return the command that starts the sandbox."""
    return [sys.executable, "-m", "payarc_provider.sandbox", "--port", str(port), "--state", str(HOME / "payarc.db")]


@contextlib.contextmanager
def payarc_sandbox(port: int) -> Iterator[tuple[str, str]]:
    """Run the sandbox as a process of its own; yields its address and an Airflow connection to it."""
    with subprocess.Popen(sandbox_command(port), stdout=subprocess.PIPE, text=True) as process:
        try:
            greeting = [process.stdout.readline() for _ in range(4)] if process.stdout else []
            connection = next(line for line in greeting if "AIRFLOW_CONN_" in line)
            yield f"http://127.0.0.1:{port}", shlex.split(connection)[-1].partition("=")[2]
        finally:
            process.terminate()


def airflow_environment(connection: str) -> dict[str, str]:
    """Return the settings of an Airflow that stays inside ``.demo/`` and needs no login."""
    return {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME / 'airflow.db'}",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "example_dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(HOME / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_PAYARC_DEFAULT": connection,
        "AIRFLOW_CONN_CRM": json.dumps({"conn_type": "sqlite", "host": str(HOME / "crm.db")}),
        "AIRFLOW_CONN_PAYARC_LEDGER": json.dumps({"conn_type": "sqlite", "host": str(HOME / "ledger.db")}),
    }


def write_scripts(environment: dict[str, str]) -> None:
    """Write a script that sets the demo's environment, and one that starts Airflow's UI."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    (HOME / "env.sh").write_text("\n".join([*exports, path, ""]))
    # It needs no login, so it listens on this machine only.
    UI.write_text(f"""#!/bin/sh
# Airflow's UI with the runs of `make demo`. Stop it with Ctrl-C.
. {shlex.quote(str(HOME / "env.sh"))}
export AIRFLOW__API__HOST=127.0.0.1
export AIRFLOW__API__PORT="${{PORT:-8080}}"
export AIRFLOW__API__BASE_URL="http://localhost:$AIRFLOW__API__PORT"
exec python {shlex.quote(str(CHECKOUT / "demo" / "ui.py"))}  # `airflow standalone` and the sandbox
""")
    UI.chmod(0o755)


def set_up_airflow() -> Any:
    """Create Airflow's database and return the DAG."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag(CHECKOUT / "example_dags")
    if bag.import_errors:
        raise SystemExit(f"The DAGs cannot be imported: {bag.import_errors}")
    return bag.dags["payarc_from_table"]


def run(dag: Any, origin: str) -> Run:
    """Run the DAG once, to its end."""
    before, started = count(origin), time.monotonic()
    dag_run = dag.test()
    task = dag_run.get_task_instance("create_customers")
    return Run(
        state=str(dag_run.state),
        summary=task.xcom_pull(task_ids=task.task_id, key="summary"),
        rejected=task.xcom_pull(task_ids=task.task_id, key="rejected"),
        posts=count(origin)["received"] - before["received"],
        created=count(origin)["created"] - before["created"],
        seconds=time.monotonic() - started,
    )


def count(origin: str) -> dict[str, int]:
    """Return how many POSTs the sandbox has received, and how many customers they created."""
    with urllib.request.urlopen(f"{origin}/_sandbox/stats") as response:
        return dict(json.load(response)["posts"])


@contextlib.contextmanager
def airflow_output_in_log() -> Iterator[None]:
    """Redirect all output, that of child processes too, to the log. `say` still prints to the terminal."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    with LOG.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        for descriptor, copy in enumerate(kept, start=1):
            os.dup2(copy, descriptor)


def say(*lines: str) -> None:
    """Print lines to the terminal."""
    print(*lines, sep="\n", file=TERMINAL, flush=True)


def introduction(people: int, origin: str) -> list[str]:
    """What is printed before the runs."""
    return [
        "The people in a CRM become PayArc customers, each exactly once.",
        "",
        f"  CRM      .demo/crm.db, a database with {people} made-up people",
        f"  PayArc   a sandbox at {origin}/v1; nothing leaves this machine",
        "  Airflow  a real one, with its home in .demo and its output in .demo/airflow.log",
        "  DAG      example_dags/payarc_from_table.py",
        "",
        "Setting up Airflow and running the DAG twice takes about a minute.",
        "",
    ]


def run_report(title: str, done: Run) -> list[str]:
    """What is printed after a run."""
    return [
        f"{title}: {done.state} after {done.seconds:.0f} s",
        "  {records} records: {created} created, {known} known, {rejected} rejected".format_map(done.summary),
        f"  counted by the sandbox: {done.posts} POSTs, {done.created} new customers",
        "",
    ]


def closing(first: Run, second: Run) -> list[str]:
    """What is printed at the end."""
    rejected = [(one["key"], name, texts) for one in first.rejected for name, texts in one["errors"].items()]
    return [
        f"Two runs, {first.created + second.created} customers. The second run sent {second.posts} POSTs.",
        "",
        f"PayArc rejected {len(first.rejected)} records. They did not hold up the others, and the DAG allows up to 3:",
        *(f"  person {key:>3}: {name}: {' '.join(texts)}" for key, name, texts in rejected),
        "",
        "The ledger remembers who has a customer. It is a table next to the people. To look at it:",
        "  . .demo/env.sh",
        "  python -m payarc_provider.ledger --ledger-conn-id crm status",
        "",
        "To see the DAG, its runs and its XComs in Airflow's UI:",
        "  .demo/ui.sh",
        "Then open http://localhost:8080 after about 20 seconds. To use another port: PORT=8081 .demo/ui.sh",
    ]


if __name__ == "__main__":
    main()
