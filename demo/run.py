"""``make demo``: a real Airflow turns 200 people into customers, loses a process halfway, and creates nobody twice.

Everything happens on this machine and inside ``.demo/``, which is emptied first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

import requests
import services
import story
from airflow_api import AirflowApi
from people import NEW_PHONE, change_overnight, write_crm
from services import Processes

DAG = "payarc_demo"
KILL_AT = 100  # customers
ANSI: dict[str | None, int] = {"red": 31, "green": 32, "gray": 90}
PATIENCE = 300  # seconds, on a machine that is busy with other things


class DemoError(Exception):
    """The demo cannot continue."""


class PayArc:
    """What the demo asks of the sandbox.

    :param port: its port
    """

    def __init__(self, port: int) -> None:
        self._control = f"http://127.0.0.1:{port}/_sandbox"
        self._session = requests.Session()
        self._session.trust_env = False

    def posts(self) -> dict[str, int]:
        """Counts of POSTs: ``received``, ``created`` and still ``open``."""
        return dict(self._get("stats")["posts"])

    def patches(self) -> int:
        """How many PATCHes it has received."""
        return int(self._get("stats")["requests"].get("PATCH /customers/{id}", 0))

    def customers(self) -> list[dict[str, Any]]:
        """All customers."""
        return list(self._get("customers"))

    def _get(self, what: str) -> Any:
        return self._session.get(f"{self._control}/{what}", timeout=60).json()


class Demo:
    """The two DAG runs.

    :param processes: those that the runs need
    """

    def __init__(self, airflow: AirflowApi, payarc: PayArc, processes: Processes) -> None:
        self._airflow = airflow
        self._payarc = payarc
        self._processes = processes

    def first_run(self) -> story.Run:
        """Run the DAG, and kill the task's process halfway."""
        payarc = self._payarc
        run = self._airflow.trigger(DAG)
        self._wait_until(lambda: payarc.posts()["received"])
        pid = int(self._airflow.task(run)["pid"])
        self._wait_until(lambda: payarc.posts()["created"] >= KILL_AT)
        if pid not in self._processes.pids():
            raise DemoError(f"The task's process {pid} does not belong to the demo, so it is not killed")
        os.kill(pid, signal.SIGKILL)
        self._wait_until(lambda: not payarc.posts()["open"])
        say(*story.kill_report(story.Kill(pid, len(payarc.customers()), known_to_ledger())))
        return self._finish(run, posts=0)

    def second_run(self) -> story.Run:
        """Run the DAG again."""
        posts = self._payarc.posts()["received"]
        return self._finish(self._airflow.trigger(DAG), posts)

    def _finish(self, run: str, posts: int) -> story.Run:
        airflow, payarc = self._airflow, self._payarc
        self._wait_until(lambda: airflow.state(run) in ("success", "failed"))
        if airflow.state(run) == "failed":
            raise DemoError("The DAG run has failed. Look at it with .demo/ui.sh")
        customers, task = payarc.customers(), airflow.task(run)
        return story.Run(
            tries=task["try_number"],
            log=airflow.log(run, task["try_number"])[1:],  # without the names of connection, table and ledger
            posts=payarc.posts()["received"] - posts,
            patches=payarc.patches(),
            customers=len(customers),
            twice=len(customers) - len({customer["email"] for customer in customers}),
        )

    def _wait_until(self, done: Callable[[], object]) -> None:
        def waiting() -> str:
            created = self._payarc.posts()["created"]
            return f"  {'█' * (created // 5):40} {created} customers at PayArc"

        wait_until(done, self._processes, waiting)


def main() -> None:
    """Run the demo."""
    began = time.monotonic()
    with services.home(empty=True):
        ports = services.ports()
        settings = services.settings(ports)
        services.write_scripts(settings)
        shutil.copytree(services.CHECKOUT / "demo" / "dags", services.HOME / "dags")
        say(*story.introduction(write_crm(services.CRM)))
        airflow, payarc = AirflowApi(ports["airflow"]), PayArc(ports["sandbox"])
        with services.services(ports, settings) as processes:
            wait_for_airflow(airflow, processes)
            say(*story.airflow_started(settings["AIRFLOW__API__BASE_URL"]))
            demo = Demo(airflow, payarc, processes)
            say(*story.first_run())
            first = demo.first_run()
            say(*story.run_report(first))
            moved = change_overnight(services.CRM)
            say(*story.second_run(str(moved["full_name"])))
            second = demo.second_run()
            say(*story.run_report(second))
            [phone] = [one["phone"] for one in payarc.customers() if one["email"] == moved["email"]]
    say(*story.closing(time.monotonic() - began))
    ended = (first.customers, second.customers, first.twice + second.twice, second.posts, second.patches, phone)
    digits = "".join(filter(str.isdigit, NEW_PHONE))  # as PayArc stores it
    if ended != (197, 198, 0, 1, 1, digits):
        raise DemoError(f"The demo did not end as expected: {ended}. Please report this, with .demo/airflow.log")


def wait_until(done: Callable[[], object], processes: Processes, waiting: Callable[[], str]) -> None:
    """Wait until ``done()`` is true, and show ``waiting()`` meanwhile."""
    began = time.monotonic()
    while not done():
        if not processes.alive():
            raise DemoError("Airflow or the sandbox has ended. See .demo/airflow.log and .demo/sandbox.log")
        if time.monotonic() - began > PATIENCE:
            raise DemoError(f"Nothing has happened for {PATIENCE} s. See .demo/airflow.log")
        show(waiting())
        time.sleep(0.1)
    show("")


def wait_for_airflow(airflow: AirflowApi, processes: Processes) -> None:
    """Wait until Airflow can run the DAG."""
    began = time.monotonic()
    wait_until(
        lambda: airflow.is_ready(DAG), processes, lambda: f"Airflow is starting: {time.monotonic() - began:.0f} s"
    )


def known_to_ledger() -> int:
    """How many customers the ledger knows."""
    with contextlib.closing(sqlite3.connect(services.CRM)) as database:
        return int(database.execute("SELECT count(customer_id) FROM payarc_customers").fetchone()[0])


def say(*lines: str) -> None:
    """Print lines, in color if this is a terminal."""
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for line in lines:
        code = ANSI.get(story.color(line)) if colored else None
        print(f"\033[{code}m{line}\033[0m" if code else line, flush=True)


def show(line: str) -> None:
    """Show a line until the next one, in a terminal only."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="", flush=True)


if __name__ == "__main__":
    try:
        main()
    except DemoError as error:
        sys.exit(f"\n{error}.")
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
