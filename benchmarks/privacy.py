"""What each tool writes of the records and of the token: to its output, to its files, and to Airflow's database.

Every person has an email address that occurs nowhere else. PayArc rejects some of the people, and the responses
for some others are lost. Afterwards, all that the tool has written is searched for these words and for the token.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.people import mark, write_crm
from benchmarks.roster import Contender
from benchmarks.sandbox import Sandbox
from benchmarks.speed import THREADS
from benchmarks.world import Child, World, crash_safe, say

PEOPLE, REJECTED, LOST = 40, 3, 3
DEFAULT_LOGS = {"BENCH_DEFAULT_LOGS": "1", "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}
OURS = {"crm.db", "bodies.json"}
"""The benchmarks' own files, from which the tools read."""


def privacy(world: World, sandbox: Sandbox, roster: Sequence[Contender]) -> dict[str, Any]:
    """Return for each tool whose values it has written where, after two runs."""
    found = {}
    for number, contender in enumerate(roster):
        found[contender.name] = _privacy(world, sandbox, contender, f"v{number}")
        say(f"privacy: {contender.name}: {found[contender.name]}")
    return found


def _privacy(world: World, sandbox: Sandbox, contender: Contender, word: str) -> dict[str, Any]:
    state = Path((arguments := contender.fresh(world))["state"])
    crm = write_crm(world.folder() / "crm.db", PEOPLE)
    marks = mark(crm, word)
    arguments |= {"url": sandbox.url, "token": sandbox.token, "crm": str(crm), "threads": THREADS, "limit": None}
    if contender.ledger:
        arguments |= {"timeout": 5, "settle": 5, "lease": 10}
    sandbox.begin(taken={"email": [f"{one}@example.com" for one in marks[:REJECTED]]})
    sandbox.fail(*({"kind": "lost_after", "match": {"email": f"{one}@example.com"}} for one in marks[-LOST:]))
    said = ""
    for _ in range(2):  # a rejected record lets every run fail, so that success is not waited for
        child = Child(contender.call, arguments, world.environment() | DEFAULT_LOGS)
        with crash_safe(child):
            said += child.ended()[1]
    sandbox.fail()
    files = [_content(path) for path in _files(state)]
    airflow = [_content(path) for path in _files(world.home / "airflow")] if contender.in_airflow else None
    return {
        "people": PEOPLE,
        "output": occurrences(marks, sandbox.token, [said.encode()]),
        "files": occurrences(marks, sandbox.token, files),
        "airflow": occurrences(marks, sandbox.token, airflow) if airflow is not None else None,
    }


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name not in OURS)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def occurrences(marks: Sequence[str], token: str, texts: Iterable[bytes]) -> dict[str, Any]:
    """Return of how many people a text has a value, and whether one has the token."""
    everything = b"\n".join(texts).lower()
    people = sum(one.lower().encode() in everything for one in marks)
    return {"people": people, "token": token.lower().encode() in everything}
