"""``make demo``: real Airflow, a CRM of 200 people, a stand-in for PayArc, and the same DAG run twice.

Everything happens on this machine and inside ``.demo/``, which begins afresh each time.
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
TERMINAL = os.fdopen(os.dup(1), "w")  # file descriptor 1 itself is Airflow's while it runs


@dataclass(frozen=True)
class Run:
    """One run of the DAG; ``posts`` and ``created`` were counted by PayArc's stand-in, not by Airflow."""

    state: str
    summary: dict[str, Any]
    rejected: list[dict[str, Any]]
    posts: int
    created: int
    seconds: float


def main() -> None:
    """Show it."""
    port = begin_afresh()
    people = write_crm(HOME / "crm.db")
    with payarc_sandbox(port) as (origin, connection):
        environment = airflow_environment(connection)
        write_scripts(environment)
        say(
            "A CRM's people become PayArc customers, each exactly once.",
            "",
            f"  CRM      .demo/crm.db, with {people} made-up people in its table people",
            f"  PayArc   a stand-in at {origin}/v1; nothing leaves this machine",
            "  Airflow  the real one, with its home in .demo; its output goes to .demo/airflow.log",
            "  DAG      example_dags/payarc_from_table.py",
            "",
            "Setting up Airflow and running the DAG twice takes half a minute to a minute.",
            "",
        )
        with airflow_output_in_log():
            os.environ.update(environment)
            dag = set_up_airflow()
            first = run(dag, origin)
            say_run("First run", first)
            second = run(dag, origin)
            say_run("Second run, as after a clear or in a backfill", second)
    say_end(first, second)


def begin_afresh() -> int:
    """An empty ``.demo/``, and a free port for PayArc's stand-in."""
    noted = HOME / "port"
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection(("127.0.0.1", int(noted.read_text())), timeout=1).close()
        raise SystemExit("Airflow of the last demo is still running: first stop .demo/ui.sh with Ctrl-C.")
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    noted.write_text(str(port))
    return port


def sandbox_command(port: int) -> list[str]:
    """What starts PayArc's stand-in."""
    return [sys.executable, "-m", "payarc_provider.sandbox", "--port", str(port), "--state", str(HOME / "payarc.db")]


@contextlib.contextmanager
def payarc_sandbox(port: int) -> Iterator[tuple[str, str]]:
    """PayArc's stand-in as a process of its own: where it is, and an Airflow connection to it."""
    with subprocess.Popen(sandbox_command(port), stdout=subprocess.PIPE, text=True) as process:
        try:
            greeting = [process.stdout.readline() for _ in range(4)] if process.stdout else []
            connection = next(line for line in greeting if "AIRFLOW_CONN_" in line)
            yield f"http://127.0.0.1:{port}", shlex.split(connection)[-1].partition("=")[2]
        finally:
            process.terminate()


def airflow_environment(connection: str) -> dict[str, str]:
    """An Airflow that keeps to ``.demo/`` and needs no login."""
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
    """A script with the demo's environment, and one that opens Airflow's UI on what the demo has made."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    (HOME / "env.sh").write_text("\n".join([*exports, path, ""]))
    # For this machine only, since it asks for no login.
    UI.write_text(f"""#!/bin/sh
# Airflow's UI on what `make demo` has made. Ctrl-C ends it.
. {shlex.quote(str(HOME / "env.sh"))}
export AIRFLOW__API__HOST=127.0.0.1
export AIRFLOW__API__PORT="${{PORT:-8080}}"
export AIRFLOW__API__BASE_URL="http://localhost:$AIRFLOW__API__PORT"
exec python {shlex.quote(str(CHECKOUT / "demo" / "ui.py"))}  # `airflow standalone`, and PayArc's stand-in
""")
    UI.chmod(0o755)


def set_up_airflow() -> Any:
    """Make Airflow's database; returns the DAG."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag(CHECKOUT / "example_dags")
    if bag.import_errors:
        raise SystemExit(f"The DAGs cannot be imported: {bag.import_errors}")
    return bag.dags["payarc_from_table"]


def run(dag: Any, origin: str) -> Run:
    """Run the DAG from its beginning to its end."""
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
    """The POSTs that PayArc's stand-in has counted, by what became of them."""
    with urllib.request.urlopen(f"{origin}/_sandbox/stats") as answer:
        return dict(json.load(answer)["posts"])


@contextlib.contextmanager
def airflow_output_in_log() -> Iterator[None]:
    """Whatever is printed, by children too, goes to the log; only `say` is seen."""
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
    """Show some lines."""
    print(*lines, sep="\n", file=TERMINAL, flush=True)


def say_run(title: str, done: Run) -> None:
    """What one run did."""
    say(
        f"{title}: {done.state} after {done.seconds:.0f} s",
        "  {records} records: {created} created, {known} known, {rejected} refused".format_map(done.summary),
        f"  {done.posts} POSTs and {done.created} new customers, as counted by PayArc's stand-in",
        "",
    )


def say_end(first: Run, second: Run) -> None:
    """What it came to."""
    refused = [(one["key"], name, texts) for one in first.rejected for name, texts in one["errors"].items()]
    say(
        f"Two runs, {first.created + second.created} customers, and the second run cost {second.posts} POSTs.",
        "",
        "PayArc refused some records, which the DAG allows (max_rejected=3) and which held up nobody else:",
        *(f"  person {key:>3}: {name}: {' '.join(texts)}" for key, name, texts in refused),
        "",
        "What is known stands in the ledger, a table beside the people. To look at it:",
        "  . .demo/env.sh",
        "  python -m payarc_provider.ledger --ledger-conn-id crm status",
        "",
        "To look at the DAG, its runs and what it hands on in Airflow's UI:",
        "  .demo/ui.sh",
        "and open http://localhost:8080 after some 20 seconds. Another port: PORT=8081 .demo/ui.sh. Ctrl-C ends it.",
    )
    if second.posts or second.created or {first.state, second.state} != {"success"}:
        raise SystemExit("This is not what the demo should show: please report it, with .demo/airflow.log")


if __name__ == "__main__":
    main()
