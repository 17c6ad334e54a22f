"""One attempt of a sync in a process of its own, which a test may kill: the real engine, wired as by the operator.

As a program, a fork server of such attempts (see :mod:`.forking`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from payarc_provider.api.client import CustomerPage, PayarcClient
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcError
from payarc_provider.sync import checkpoints, engine
from payarc_provider.sync.account import find_account
from payarc_provider.sync.batches import Batches
from payarc_provider.sync.engine import Run
from payarc_provider.sync.ledger import Claimant, Ledger, database
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.results import Results
from payarc_provider.sync.settings import Settings
from payarc_provider.sync.sources import DatabaseSource, ListSource, Source
from payarc_provider.sync.states import Created
from payarc_provider.sync.threads import (
    SystemClock,
    ThreadedFeed,
    ThreadedLedger,
    ThreadedPayarc,
    run_to_end,
    threads,
)

from .forking import Spec, serve


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
    made = sa.create_engine(url, hide_parameters=True, pool_pre_ping=True)
    if spec.max_pages is not None:

        @sa.event.listens_for(made, "connect")
        def _full(connection: Any, _record: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {spec.max_pages}")

    return made


def _source(spec: Spec, reader: RecordReader) -> Source:
    if spec.rows is not None:
        return ListSource(spec.rows, f"task {spec.source}")
    made = sa.create_engine(spec.source_url, hide_parameters=True, pool_pre_ping=True)
    name = f"table {spec.source_table} of {spec.source}"
    return DatabaseSource(made, reader.key_columns, None, name=name, table_name=spec.source_table)


def attempt(spec: Spec) -> dict[str, Any]:
    """Run once; what the operator would hand to XCom, and what it took."""
    listener = Listener(spec)
    checkpoints.listener = listener
    if spec.busy is not None:
        database.SQLITE_BUSY_SECONDS = spec.busy
    if spec.release is not None:
        engine.RELEASE_SECONDS = spec.release
    settings = Settings(**spec.settings)
    settings.check()
    limiter = RateLimiter()
    client = PayarcClient(spec.url, lambda renewed: spec.token, timeout=settings.timeout, limiter=limiter)
    ledger = Ledger(_engine(spec.ledger, spec), spec.table)
    ledger.open()
    identity = Identity.of(spec.url.split("/")[2], None, spec.token)
    reader = RecordReader(spec.key, None, ledger.ledger_id)
    source = _source(spec, reader)
    me = Claimant(
        account=find_account(ledger, identity, client.get_customer),
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
            feed=ThreadedFeed(Batches(source, reader, settings.batch_size), pools.source),
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


if __name__ == "__main__":
    serve(attempt)
