"""A fork server: it reads a :class:`Spec` from each line of its standard input and forks a process for it.

It forks before it opens a connection or starts a thread, as Airflow's executors do. An attempt therefore starts in
milliseconds and can be killed without harming the others. The server reports events to the file descriptor given as
its argument, one JSON object per line: the process id of each attempt, when it stops, and how it ends.
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

OBEYS_SIGTERM = "SIGTERM ends this attempt from now on"  # in its log
FAILED = 1  # the attempt raised one of the package's own errors; Airflow would retry the task
BROKEN = 2  # the attempt raised anything else, which is a bug
REJECTED = 3  # too many records were rejected; Airflow would not retry the task


@dataclass
class Spec:
    """The parameters of one attempt.

    :param folder: where the attempt writes ``<name>.json``, ``<name>.log`` and ``<name>.trace``
    :param url: the sandbox's base URL
    :param ledger: the ledger's SQLAlchemy URL
    :param rows: the records, or None to read ``source_table`` from ``source_url``
    :param settings: arguments of ``payarc_provider.sync.settings.Settings``
    :param stop_at: the checkpoint at which the process sends itself the signal ``stop_by``
    :param stop_nth: how many times that checkpoint must be reached first
    :param stop_after: seconds from the checkpoint to the signal, so that a request can be in flight
    :param stop_pause: seconds to wait at the checkpoint before that, so that an open transaction can end
    :param busy: seconds for which SQLite waits for a lock
    :param release: seconds for which the engine tries to release its rows when it ends
    :param limit_patience: seconds for which a run waits while the rate limit lets nothing through
    :param write_back_batch: the number of keys whose ids are written in one transaction
    :param namespace: the network namespace in which the attempt runs
    :param max_pages: maximum number of pages in the ledger's SQLite file
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
    limit_patience: float | None = None
    write_back_batch: int | None = None
    namespace: str | None = None

    def path(self, ending: str) -> Path:
        """One of the attempt's files."""
        return Path(self.folder) / f"{self.name}.{ending}"

    def as_line(self) -> str:
        """The line that the server reads."""
        return json.dumps(asdict(self)) + "\n"


Run = Callable[[Spec], dict[str, Any]]
"""Runs an attempt. Its result has ``error`` (None for success) and ``rejected_too_many``; it is written to a file."""


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
    except BaseException:  # noqa: BLE001 - the process ends here; its exit status reports the failure
        traceback.print_exc()
        return BROKEN
    part = spec.path("part")
    part.write_text(json.dumps(result))
    part.replace(spec.path("json"))
    if result["error"]:
        return FAILED
    return REJECTED if result["rejected_too_many"] else 0


def serve(run: Run) -> None:
    """Fork an attempt for every line on standard input, until standard input is closed."""
    running: dict[int, str] = {}
    lines = b""
    open_ = True
    while open_ or running:
        if open_ and select.select([0], [], [], 0.01)[0]:
            chunk = os.read(0, 1 << 20)
            open_ = bool(chunk)
            lines += chunk
            *whole, lines = lines.split(b"\n")
            for line in whole:
                _fork(line.decode(), running, run)
        elif not open_:
            for pid in running:  # the tests have ended
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        _reap(running)


def _fork(line: str, running: dict[int, str], run: Run) -> None:
    pid = os.fork()
    if pid == 0:
        status = BROKEN
        try:
            status = _in_child(line, run)
        finally:
            os._exit(status)
    name = running[pid] = json.loads(line)["name"]
    _report(name, pid=pid)


def _reap(running: dict[int, str]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                _report(running[pid], stopped=True)
            else:
                _report(running.pop(pid), exit=os.waitstatus_to_exitcode(status))


def _report(name: str, **event: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(int(sys.argv[1]), json.dumps({"name": name, **event}).encode() + b"\n")
