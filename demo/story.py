"""What the demo tells: what has happened, and the lines that say so."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

WIDTH = 100
LOGGED = "    "
COLORS = {"$": "blue", "  kill": "red", "  Success": "green", LOGGED: "gray"}
"""The first characters of a line → its color"""
LAST = "To look at"  # from here on, the output says what to do next


@dataclass(frozen=True)
class Kill:
    """What was there when the task's process was dead and its last requests had arrived.

    :param customers: at PayArc
    :param known: customers whose ids the ledger has
    """

    pid: int
    customers: int
    known: int


@dataclass(frozen=True)
class Run:
    """A DAG run that has ended.

    :param tries: of the task that creates the customers
    :param log: what the last try has logged
    :param posts: that PayArc has received during the run
    :param patches: that PayArc has received during the run
    :param customers: at PayArc, after the run
    :param twice: how many of them exist twice
    """

    tries: int
    log: list[str]
    posts: int
    patches: int
    customers: int
    twice: int


def color(line: str) -> str | None:
    """The color of a line."""
    return next((color for start, color in COLORS.items() if line.startswith(start)), None)


def introduction(people: int) -> list[str]:
    """What is printed first."""
    return [
        "The people in a CRM become PayArc customers, each exactly once, even if the task is killed halfway.",
        "",
        f"  CRM      .demo/crm.db, a database with {people} made-up people",
        "  PayArc   a sandbox; nothing leaves this machine",
        "  Airflow  a real one, with its scheduler and its UI",
        "  DAG      demo/dags/payarc_demo.py",
        "",
    ]


def airflow_started(address: str) -> list[str]:
    """What is printed when Airflow can run the DAG."""
    return [f"Airflow has started. Watch it at {address}/dags/payarc_demo", ""]


def first_run() -> list[str]:
    """What is printed before the first run."""
    return ["Run 1: everybody is new"]


def kill_report(kill: Kill) -> list[str]:
    """What is printed after the kill."""
    lost = kill.customers - kill.known
    return [
        f"  kill -9 {kill.pid}   the task's process is dead",
        f"  PayArc has {kill.customers} customers; the ledger knows the ids of {kill.known}. "
        f"A plain retry would create {lost} again.",
        "  Airflow retries. The next try waits until the dead one's claim expires: 8 s here, 3 min by default.",
    ]


def second_run(name: str) -> list[str]:
    """What is printed before the second run."""
    return ["", f"Run 2: {name} has a new phone number, and somebody is new"]


def run_report(done: Run) -> list[str]:
    """What is printed after a run."""
    posts, patches = "" if done.posts == 1 else "s", "" if done.patches == 1 else "es"
    logged = [textwrap.fill(line, WIDTH, initial_indent=LOGGED, subsequent_indent=f"{LOGGED}  ") for line in done.log]
    return [
        f"  The log of try {done.tries}:",
        *"\n".join(logged).splitlines(),
        f"  Success: {done.posts} POST{posts}, {done.patches} PATCH{patches}. "
        f"PayArc has {done.customers} customers, {done.twice} of them twice.",
    ]


def closing(seconds: float) -> list[str]:
    """What is printed at the end."""
    return [
        "",
        f"{LAST} the runs, their logs and the page of customers in Airflow's UI:",
        "  .demo/ui.sh",
        f"{LAST} the ledger, a table in the CRM's database:",
        "  . .demo/env.sh",
        "  python -m payarc_provider.ledger --ledger-conn-id crm status",
        "",
        f"The demo took {seconds:.0f} s.",
    ]
