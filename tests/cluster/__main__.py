"""``make cluster``: the guarantee under CeleryExecutor and LocalExecutor, with a worker killed during a run.

Needs only the environment that ``make cluster`` installs. It starts its own PostgreSQL and Redis on free ports.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from payarc_provider.sandbox import SandboxServer, make_token

from .airflow import Airflow
from .processes import ClusterError, Processes, wait_until
from .servers import PostgreSQL, people, start_redis

PEOPLE = 400
SHOPS = 60
NIGHTS = 3
WORKERS = ("worker-1", "worker-2")
WINDOWS = 20
LIMIT = 30
WINDOW_SECONDS = 25.0
LATENCY = 0.3
"""Seconds that the sandbox takes for a request, long enough for a worker to be killed during a run."""


class Report:
    """Prints figures, and counts those that are not as expected."""

    def __init__(self) -> None:
        self.missed = 0

    def add(self, name: str, value: object, expected: object = None) -> None:
        """Print one figure; compare it with the expected value, if there is one."""
        verdict = ""
        if expected is not None:
            verdict = "ok" if value == expected else f"MISSED: expected {expected}"
            self.missed += value != expected
        print(f"  {name:58} {value!s:>8}  {verdict}", flush=True)


def main() -> int:
    """Run everything; the exit status is 0 if all figures are as expected."""
    home = Path(tempfile.mkdtemp(prefix="payarc-cl-"))  # short: it holds a Unix socket
    report = Report()
    kept = False
    postgresql = PostgreSQL(home / "pg")
    try:
        _run_all(home, postgresql, report)
    except ClusterError as error:
        print(f"\n{error}\nLogs: {home}", flush=True)
        kept = True
        return 1
    finally:
        postgresql.stop()
        if not (kept or report.missed):
            shutil.rmtree(home, ignore_errors=True)
    print(f"\n{report.missed} figures missed" if report.missed else "\nAll figures are as expected", flush=True)
    return int(report.missed > 0)


def _run_all(home: Path, postgresql: PostgreSQL, report: Report) -> None:
    for database in ("airflow", "crm"):
        postgresql.create(database)
    with SandboxServer(latency=LATENCY) as sandbox, people(postgresql.url("crm")) as fill:
        connections = {"crm": postgresql.connection("crm"), "payarc_ledger": postgresql.connection("crm")}
        connections["payarc_default"] = sandbox.connection_json(timeout=8)
        for merchant in ("2", "3"):
            connections[f"merchant_{merchant}"] = sandbox.connection_json(make_token(merchant), timeout=8)
        airflow = Airflow(home / "airflow", postgresql, connections)
        brokers = Processes(home, airflow.processes.environment)
        try:
            _celery(airflow, start_redis(brokers, home), sandbox, fill, report)
            airflow.processes.stop()
            _local(airflow, sandbox, fill, report)
            _backfill(airflow, sandbox, fill, report)
        finally:
            airflow.processes.stop()
            brokers.stop()


def _celery(airflow: Airflow, broker: int, sandbox: SandboxServer, fill: Callable[..., None], report: Report) -> None:
    print("CeleryExecutor: PostgreSQL, Redis, two workers", flush=True)
    airflow.command("db", "migrate")
    airflow.start("CeleryExecutor", broker=broker)
    for name in WORKERS:
        airflow.worker(name)
    seconds = airflow.wait_until_healthy({"partitions_celery", "merchants_celery"})
    report.add("healthy after, seconds", round(seconds))

    def kill(run_id: str) -> str:
        tasks = {task["pid"] for task in airflow.tasks("partitions_celery", run_id) if task["state"] == "running"}
        shares = {worker: len(tasks & airflow.processes.pids(worker)) for worker in WORKERS}
        busiest = max(shares, key=lambda worker: shares[worker])
        report.add("tasks on each worker", ", ".join(map(str, shares.values())))
        report.add("processes killed", airflow.processes.kill(busiest))
        return busiest

    fill("people_celery", PEOPLE)
    _partitions("celery", airflow, sandbox, kill, airflow.worker, report)
    _merchants("celery", airflow, sandbox, fill, report)


def _local(airflow: Airflow, sandbox: SandboxServer, fill: Callable[..., None], report: Report) -> None:
    print("LocalExecutor", flush=True)
    sandbox.reset()
    airflow.start("LocalExecutor")
    report.add("healthy after, seconds", round(airflow.wait_until_healthy({"partitions_local"})))

    def kill(run_id: str) -> str:
        report.add("processes killed, the scheduler with its tasks", airflow.processes.kill("scheduler"))
        return "scheduler"

    fill("people_local", PEOPLE)
    _partitions("local", airflow, sandbox, kill, airflow.component, report)
    _merchants("local", airflow, sandbox, fill, report)
    _deferring(airflow, sandbox, fill, report)


def _partitions(
    executor: str,
    airflow: Airflow,
    sandbox: SandboxServer,
    kill: Callable[[str], str],
    start: Callable[[str], None],
    report: Report,
) -> None:
    dag_id = f"partitions_{executor}"
    began = time.monotonic()
    run_id = airflow.trigger(dag_id)
    wait_until("the first customers are created", lambda: len(sandbox.customers("1")) > PEOPLE // 8)
    killed = kill(run_id)
    report.add("customers when it was killed, fewer than all", _fewer(sandbox, PEOPLE))
    start(killed)
    airflow.wait_for(dag_id, run_id)
    report.add("one table in 4 partitions, seconds", round(time.monotonic() - began))
    tasks = [task for task in airflow.tasks(dag_id, run_id) if task["task_id"] == "create"]
    report.add("tasks that Airflow retried, at least one", sum(task["try_number"] > 1 for task in tasks))
    report.missed += all(task["try_number"] == 1 for task in tasks)
    customers = sandbox.customers("1")
    report.add("customers at the sandbox", len(customers), PEOPLE)
    report.add("different people among them", len({customer["email"] for customer in customers}), PEOPLE)
    report.add("ids downstream", int(airflow.xcom(dag_id, run_id, "count")), PEOPLE)
    report.add("POSTs", sandbox.stats()["posts"]["received"])


def _fewer(sandbox: SandboxServer, total: int) -> int:
    created = len(sandbox.customers("1"))
    if created >= total:
        raise ClusterError("the run ended before a worker could be killed: increase the sandbox's latency")
    return created


def _merchants(
    executor: str, airflow: Airflow, sandbox: SandboxServer, fill: Callable[..., None], report: Report
) -> None:
    fill(f"shops_{executor}", SHOPS)
    dag_id = f"merchants_{executor}"
    run_id = airflow.trigger(dag_id)
    airflow.wait_for(dag_id, run_id)
    for merchant in ("2", "3"):
        report.add(f"customers of merchant {merchant}", len(sandbox.customers(merchant)), SHOPS)


def _deferring(airflow: Airflow, sandbox: SandboxServer, fill: Callable[..., None], report: Report) -> None:
    people = WINDOWS * LIMIT
    print(f"LocalExecutor, deferrable=True: {people} records at {LIMIT} requests in {WINDOW_SECONDS:g} s", flush=True)
    sandbox.reset()
    sandbox.settings(latency=0.05, rate_limit=LIMIT, rate_window=WINDOW_SECONDS)
    fill("people_deferring", people)
    began = time.monotonic()
    run_id = airflow.trigger("deferring")
    airflow.wait_for("deferring", run_id, patience=3 * WINDOWS * WINDOW_SECONDS)
    report.add("seconds", round(time.monotonic() - began))
    summary = airflow.xcom("deferring", run_id, "create", key="summary")
    report.add("deferrals", summary["deferrals"])
    report.add("429s", summary["rate_limited"])
    report.add("other POSTs that created nothing", summary["posts"] - people - summary["rate_limited"], 0)
    (task,) = [task for task in airflow.tasks("deferring", run_id) if task["task_id"] == "create"]
    report.add("tries", task["try_number"], 1)
    customers = sandbox.customers("1")
    report.add("customers at the sandbox", len(customers), people)
    report.add("different people among them", len({customer["email"] for customer in customers}), people)
    report.add("ids downstream", int(airflow.xcom("deferring", run_id, "count_all")), people)
    sandbox.reset()
    sandbox.settings(latency=LATENCY, rate_limit=None)


def _backfill(airflow: Airflow, sandbox: SandboxServer, fill: Callable[..., None], report: Report) -> None:
    print("airflow backfill create, for the example payarc_nightly", flush=True)
    sandbox.reset()
    fill("people", NIGHTS * 10)
    airflow.command("dags", "unpause", "payarc_nightly")  # like all examples, it is paused at first
    days = ("--from-date", "2026-01-01", "--to-date", f"2026-01-0{NIGHTS}T12:00:00")
    for again in (False, True):
        airflow.command(
            *("backfill", "create", "--dag-id", "payarc_nightly", *days),
            *(("--reprocess-behavior", "completed") if again else ()),
        )
        wait_until("the backfill ends", lambda: airflow.backfilled("payarc_nightly"))
        report.add(
            "customers, after a second backfill" if again else "customers", len(sandbox.customers()), NIGHTS * 10
        )
        report.add("successful nights", airflow.succeeded("payarc_nightly", "backfill"), NIGHTS)
    report.add("POSTs", sandbox.stats()["posts"]["received"], NIGHTS * 10)


if __name__ == "__main__":
    sys.exit(main())
