"""One attempt of a sync in a process of its own, which a test may kill: the real engine, wired as the operator wires it.

As a program it is a small fork server: every line on its standard input is a spec (see :class:`Spec`) and becomes a
process, forked before anything is connected or any thread is started, as Airflow's executors do it. So an attempt
starts in milliseconds and can be killed without taking anything else along. On its standard output it tells, one JSON
object per line, the process id of each attempt, when one is stopped, and how each ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from payarc_provider.api.client import CustomerPage, PayarcClient
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.api.token import read_claims
from payarc_provider.exceptions import PayarcError
from payarc_provider.sync import checkpoints, database
from payarc_provider.sync.account import Identity, find_scope, token_user
from payarc_provider.sync.engine import Run
from payarc_provider.sync.feed import BatchReader
from payarc_provider.sync.ledger import Claimant, Ledger
from payarc_provider.sync.records import Reader
from payarc_provider.sync.results import Results
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.sources import DatabaseSource, ListSource, Source
from payarc_provider.sync.states import Created
from payarc_provider.sync.threads import (
    SystemClock,
    ThreadedFeed,
    ThreadedLedger,
    ThreadedPayarc,
    Threads,
    run_to_end,
    threads,
)

FAILED = 1  # the attempt ended with one of the package's own errors, as a task fails that Airflow then retries
BROKEN = 2  # anything else, which no attempt may end with
REFUSED = 3  # records were refused: Airflow does not retry


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
    max_pages: int | None = None

    def path(self, ending: str) -> Path:
        """One of the attempt's files."""
        return Path(self.folder) / f"{self.name}.{ending}"


class Listener:
    """Counts the checkpoints, and stops this process where the spec says."""

    def __init__(self, spec: Spec) -> None:
        self.reached: Counter[str] = Counter()
        self._spec = spec
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        """A checkpoint is reached."""
        spec = self._spec
        with self._lock:
            self.reached[name] += 1
            if name != spec.stop_at or self.reached[name] != spec.stop_nth:
                return
        time.sleep(spec.stop_pause)
        if spec.stop_after:
            threading.Timer(spec.stop_after, self._stop).start()
        else:
            self._stop()

    def _stop(self) -> None:
        os.kill(os.getpid(), getattr(signal, self._spec.stop_by))
        time.sleep(0.05)  # a signal may reach another thread first, and this one goes on for a moment


class TracedPayarc(ThreadedPayarc):
    """Notes when each request asked its lease, so that a judge can tell whether PayArc kept to ``settle``."""

    def __init__(self, *args: Any, trace: Path) -> None:
        super().__init__(*args)
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.pages = 0

    async def create(self, fields: Mapping[str, str], idempotency_key: str, guard: Callable[[], None]) -> Created:
        """One POST."""

        def traced() -> None:
            os.write(self._trace, f"{idempotency_key} {time.monotonic()}\n".encode())
            guard()

        return await super().create(fields, idempotency_key, traced)

    async def list_page(self, page: int) -> CustomerPage:
        """One page of a look-up."""
        self.pages += 1
        return await super().list_page(page)


def _engine(url: str, spec: Spec) -> sa.Engine:
    engine = sa.create_engine(url, hide_parameters=True, pool_pre_ping=True)
    if spec.max_pages is not None and engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _full(connection: Any, _record: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {spec.max_pages}")

    return engine


def _source(spec: Spec, reader: Reader) -> Source:
    if spec.rows is not None:
        return ListSource(spec.rows, f"task {spec.source}")
    engine = sa.create_engine(spec.source_url, hide_parameters=True, pool_pre_ping=True)
    name = f"table {spec.source_table} of {spec.source}"
    return DatabaseSource(engine, reader.key_columns, None, name=name, table_name=spec.source_table)


def attempt(spec: Spec) -> dict[str, Any]:
    """Run once; what the operator would hand to XCom, and what it took."""
    listener = Listener(spec)
    checkpoints.listener = listener
    if spec.busy is not None:
        database.SQLITE_BUSY_SECONDS = spec.busy
    settings = Settings(**spec.settings)
    settings.check()
    limiter = RateLimiter()
    client = PayarcClient(spec.url, lambda renewed: spec.token, timeout=settings.timeout, limiter=limiter)
    ledger = Ledger(_engine(spec.ledger, spec), spec.table)
    ledger.open()
    identity = Identity(spec.url.split("/")[2], None, token_user(read_claims(spec.token).sub, spec.token))
    reader = Reader(spec.key, None, ledger.ledger_id)
    source = _source(spec, reader)
    me = Claimant(
        account=find_scope(ledger, identity, client.get_customer),
        owner=uuid.uuid4().hex,
        source=source.name,
        lease=settings.lease,
        settle=settings.settle,
        dag_id="dag",
        run_id=spec.run_id,
        task_id="create",
    )
    results = Results()
    with threads(settings.concurrency) as pools:
        payarc = TracedPayarc(client, limiter, pools, trace=spec.path("trace"))
        run = Run(
            me,
            settings,
            ledger.ledger_id,
            reader,
            feed=ThreadedFeed(BatchReader(source, reader, settings.batch_size), pools.source),
            ledger=ThreadedLedger(ledger, me, pools, retry_rejected=settings.retry_rejected),
            payarc=payarc,
            sink=results,
            clock=SystemClock(),
        )
        error: PayarcError | None = None
        try:
            run_to_end(_until_told_to_stop(run))
        except PayarcError as problem:
            error = problem
    return {
        "error": f"{type(error).__name__}: {error}" if error else None,
        "refused": results.refused_count > spec.max_rejected,
        "ids": results.customer_ids(),
        "customers": results.customers(),
        "rejected": results.rejected(),
        "counts": dict(run.counts),
        "requests": client.requests_sent,
        "pages": payarc.pages,
        "reached": dict(listener.reached),
    }


async def _until_told_to_stop(run: Run) -> None:
    """As the operator does: SIGTERM makes Airflow call ``on_kill``, which tells the engine to leave."""
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(run.terminate))
    try:
        await run.run()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _in_child(line: str) -> int:
    spec = Spec(**json.loads(line))
    output = os.open(spec.path("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr, force=True)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        result = attempt(spec)
    except PayarcError as problem:
        result = {"error": f"{type(problem).__name__}: {problem}", "refused": False}
    except BaseException:  # noqa: BLE001 - the process ends here, and its exit status tells
        traceback.print_exc()
        return BROKEN
    part = spec.path("part")
    part.write_text(json.dumps(result))
    part.replace(spec.path("json"))
    if result["error"]:
        return FAILED
    return REFUSED if result["refused"] else 0


def serve() -> None:
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
                _fork(line.decode(), waiting)
        elif not open_:
            for pid in waiting:  # whoever asked is gone
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        _reap(waiting)


def _fork(line: str, waiting: dict[int, str]) -> None:
    pid = os.fork()
    if pid == 0:
        status = BROKEN
        try:
            status = _in_child(line)
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
        print(json.dumps({"name": name, **what}), flush=True)


def as_line(spec: Spec) -> str:
    """The spec in the form that the server reads."""
    return json.dumps(asdict(spec)) + "\n"


if __name__ == "__main__":
    serve()
