"""One attempt: a run in its own process, which a test can kill. The run is started as the operator starts it.

Run as a program, this module is a fork server of such attempts (see :mod:`.forking`).
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from network import enter_namespace
from watcher import Watcher

from payarc_provider.api import http
from payarc_provider.api.client import MAX_PAGE_SIZE, CustomerPage, PayarcClient
from payarc_provider.api.http import Request, Response
from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcError
from payarc_provider.sync import checkpoints, engine, limit_waits, write_back
from payarc_provider.sync.account import find_account
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.keys import check_key
from payarc_provider.sync.ledger import Ledger, database
from payarc_provider.sync.patience import wait_for_ledger
from payarc_provider.sync.results import Results
from payarc_provider.sync.runner import run
from payarc_provider.sync.settings import Settings, TaskIdentity
from payarc_provider.sync.sources import ListSource, Source

from .forking import OBEYS_SIGTERM, Spec, serve

T = TypeVar("T")


class Listener:
    """Counts the checkpoints that are reached, and stops or kills this process at the one the spec names."""

    def __init__(self, spec: Spec) -> None:
        self.reached: Counter[str] = Counter()
        self._spec = spec
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        """Called when a checkpoint is reached."""
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
        time.sleep(0.05)  # the signal may reach another thread first; until then, this one must not continue


class TracedClient(PayarcClient):
    """Writes down when each POST and PATCH checked its lease, so that a `World` can compare it with the sandbox's log.

    PATCHes get a unique ``Idempotency-Key``, by which the sandbox's log knows them.
    """

    def __init__(self, *args: Any, trace: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._run, self._patches = trace.stem, itertools.count(1)  # threads share it, which a generator would not allow
        self.pages = 0

    def _request(
        self, request: Request, before_send: Callable[[], None] | None = None, attributes: Any = None
    ) -> Response:
        if before_send is None:
            return super()._request(request, None, attributes)
        if request.method == "PATCH":
            request = replace(request, idempotency_key=f"{self._run}-{next(self._patches)}")

        def traced() -> None:
            os.write(self._trace, f"{request.idempotency_key} {time.monotonic()}\n".encode())
            before_send()

        return super()._request(request, traced, attributes)

    def list_page(self, page: int, limit: int = MAX_PAGE_SIZE) -> CustomerPage:
        """Read one page of PayArc's list; count it unless it is a ping, which asks for one customer."""
        self.pages += limit > 1
        return super().list_page(page, limit)


def _engine(url: str, spec: Spec) -> sa.Engine:
    made = sa.create_engine(url, hide_parameters=True)
    if spec.max_pages is not None:

        @sa.event.listens_for(made, "connect")
        def _full(connection: Any, _record: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {spec.max_pages}")

    return made


def _source(spec: Spec) -> Source:
    if spec.rows is not None:
        return ListSource(spec.rows, f"task {spec.source}")
    made = sa.create_engine(spec.source_url, hide_parameters=True, pool_pre_ping=True)
    name = f"table {spec.source_table} of {spec.source}"
    columns = {argument: spec.settings.get(argument) for argument in ("version", "write_back")}
    return DatabaseSource(made, check_key(spec.key), None, name=name, table_name=spec.source_table, **columns)


def attempt(spec: Spec) -> dict[str, Any]:
    """Run once; return what the operator would push to XCom, and what the run did."""
    listener = Listener(spec)
    checkpoints.listener = listener
    if spec.busy is not None:
        database.SQLITE_BUSY_SECONDS = spec.busy
    if spec.release is not None:
        engine.RELEASE_SECONDS = spec.release
    if spec.limit_patience is not None:
        limit_waits.MAX_SECONDS = spec.limit_patience
    if spec.write_back_batch is not None:
        write_back.BATCH, write_back.GATHER_SECONDS = spec.write_back_batch, 0.02
    if spec.namespace is not None:
        enter_namespace(spec.namespace)
        http.is_loopback = lambda host: True  # the sandbox has no certificate
    settings = Settings(key=spec.key, **spec.settings)
    settings.check_timing()
    client = TracedClient(spec.url, lambda renewed: spec.token, timeout=settings.timeout, trace=spec.path("trace"))
    ledger = Ledger(_engine(spec.ledger, spec), spec.table)
    told: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    logging.getLogger(__name__).warning(OBEYS_SIGTERM)

    def patiently(call: Callable[[], T]) -> T:
        return wait_for_ledger(call, settings.ledger_patience, lambda: bool(told))

    identity = Identity.of(spec.url.split("/")[2], None, spec.token)
    watcher, results, error = Watcher(), Results(), None
    try:
        patiently(ledger.open)
        results = run(
            _source(spec),
            client,
            ledger,
            settings,
            account=patiently(lambda: find_account(ledger, identity, client.get_customer)),
            task=TaskIdentity("dag", spec.run_id, "create"),
            reporter=watcher,
            on_start=_terminate_on_signal,
        )
    except PayarcError as problem:
        error = problem
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return {
        "error": f"{type(error).__name__}: {error}" if error else None,
        "rejected_too_many": len(results.rejected()) > spec.max_rejected,
        "ids": results.customer_ids(),
        "customers": results.customers(),
        "rejected": results.rejected(),
        "counts": dict(watcher.counts),
        "requests": client.requests_sent,
        "pages": client.pages,
        "reached": dict(listener.reached),
    }


def _terminate_on_signal(terminate: Callable[[], None]) -> None:
    """End the run on SIGTERM, as Airflow does by calling ``on_kill``."""
    signal.signal(signal.SIGTERM, lambda *_: terminate())


if __name__ == "__main__":
    serve(attempt)
