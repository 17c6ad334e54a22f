"""A fork server: every line on its standard input is a :class:`Spec` and becomes a process.

It is forked before anything is connected or any thread is started, as Airflow's executors do it. So it starts in
milliseconds and can be killed without taking anything else along. To the file descriptor that is its argument the
server tells, one JSON object per line, the process id of each attempt, when one is stopped, and how each ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from payarc_provider.exceptions import PayarcError

FAILED = 1  # the attempt ended with one of the package's own errors, as a task fails that Airflow then retries
BROKEN = 2  # anything else, which no attempt may end with
REJECTED = 3  # records were refused: Airflow does not retry


@dataclass
class Spec:
    """What one attempt is told.

    :param folder: where it writes ``<name>.json``, ``<name>.log`` and ``<name>.trace``
    :param url: the sandbox's base URL
    :param ledger: the ledger's SQLAlchemy URL
    :param rows: the records, or None to read ``source_table`` from ``source_url``
    :param settings: of ``payarc_provider.sync.settings.Settings``
    :param stop_at: the checkpoint at which the process sends itself ``stop_by``, the ``stop_nth`` time it is reached
    :param stop_after: seconds after that, so that something may be on its way
    :param stop_pause: seconds for which the checkpoint is held before, so that a transaction under way can end
    :param busy: seconds for which SQLite waits for a lock
    :param release: seconds for which the engine tries to release its rows at its end
    :param max_pages: the most pages that the ledger's SQLite file may have
    """

    folder: str
    name: str
    url: str
    token: str
    ledger: str
    table: str
    settings: dict[str, Any]
    source: str = "crm"
    rows: list[dict[str, Any]] | None = None
    source_url: str = ""
    source_table: str = ""
    key: list[str] = field(default_factory=lambda: ["id"])
    run_id: str = "run"
    max_rejected: int = 0
    stop_at: str | None = None
    stop_nth: int = 1
    stop_by: str = "SIGKILL"
    stop_after: float = 0.0
    stop_pause: float = 0.0
    busy: float | None = None
    release: float | None = None
    max_pages: int | None = None

    def path(self, ending: str) -> Path:
        """One of the attempt's files."""
        return Path(self.folder) / f"{self.name}.{ending}"

    def as_line(self) -> str:
        """The form that the server reads."""
        return json.dumps(asdict(self)) + "\n"


Run = Callable[[Spec], dict[str, Any]]
"""Runs an attempt; what it gives has ``error`` (None for success) and ``refused``, and is written to its file."""


def _in_child(line: str, run: Run) -> int:
    spec = Spec(**json.loads(line))
    output = os.open(spec.path("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr, force=True)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        result = run(spec)
    except PayarcError as problem:
        result = {"error": f"{type(problem).__name__}: {problem}", "rejected_too_many": False}
    except BaseException:  # noqa: BLE001 - the process ends here, and its exit status tells
        traceback.print_exc()
        return BROKEN
    part = spec.path("part")
    part.write_text(json.dumps(result))
    part.replace(spec.path("json"))
    if result["error"]:
        return FAILED
    return REJECTED if result["rejected_too_many"] else 0


def serve(run: Run) -> None:
    """Fork an attempt for every line on standard input, until its end."""
    waiting: dict[int, str] = {}
    lines = b""
    open_ = True
    while open_ or waiting:
        if open_ and select.select([0], [], [], 0.01)[0]:
            chunk = os.read(0, 1 << 20)
            open_ = bool(chunk)
            lines += chunk
            *whole, lines = lines.split(b"\n")
            for line in whole:
                _fork(line.decode(), waiting, run)
        elif not open_:
            for pid in waiting:  # whoever asked is gone
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        _reap(waiting)


def _fork(line: str, waiting: dict[int, str], run: Run) -> None:
    pid = os.fork()
    if pid == 0:
        status = BROKEN
        try:
            status = _in_child(line, run)
        finally:
            os._exit(status)
    name = waiting[pid] = json.loads(line)["name"]
    _tell(name, pid=pid)


def _reap(waiting: dict[int, str]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                _tell(waiting[pid], stopped=True)
            else:
                _tell(waiting.pop(pid), exit=os.waitstatus_to_exitcode(status))


def _tell(name: str, **what: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(int(sys.argv[1]), json.dumps({"name": name, **what}).encode() + b"\n")
