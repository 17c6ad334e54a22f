"""What the engine needs from the outside world, and the real one: threads, a database, HTTP.

The engine itself is coroutines that decide. Requests, transactions and the reading of the source block, so they run in
threads of their own. A simulation brings another `Runtime`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, cast

from payarc_provider.api.client import CustomerPage, PayarcClient
from payarc_provider.api.http import now as machine_clock
from payarc_provider.sync.batches import Batches
from payarc_provider.sync.ledger import Claimant, Known, Ledger, Row
from payarc_provider.sync.records import Record
from payarc_provider.sync.throttle import Throttle

T = TypeVar("T")

CREATE = "POST /customers"
LIST = "GET /customers"

_GARBAGE_THRESHOLD = 20_000  # objects: some megabytes


class Runtime(Protocol):
    """Time, the ledger, PayArc and the input, as one run reaches them."""

    def now(self) -> float:
        """Seconds since any fixed moment, by a clock that runs on while the process or the machine is suspended."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def transact(self, call: Callable[[Ledger], T]) -> T:
        """The result of ``call``, which makes one transaction; transactions never overlap each other.

        :raises LedgerUnavailable: the database cannot be used now; the transaction may have taken effect or not
        """

    async def next_batch(self) -> list[Record] | None:
        """The next records of the input, None at its end."""

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        """Seconds after which to ask again; 0.0 has taken a slot of the rate limit for one request.

        :param ready: how many requests are waiting to go
        """

    def release(self, endpoint: str) -> None:
        """Return a slot that was not used."""

    async def ping(self) -> float | None:
        """One cheap authenticated request; PayArc's clock in Unix seconds if the answer shows it."""

    async def create(
        self, fields: Mapping[str, str], idempotency_key: str, attempt: int, pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        """The customer that one POST has created.

        :param attempt: which request for this record it is
        :param pass_gate: called directly before the request goes out; it may raise `LeaseTooShort`
        """

    async def list_page(self, page: int) -> CustomerPage:
        """One page of PayArc's list, newest first, counted from 1."""


class DaemonPool(Executor):
    """Threads that do not keep the process from ending.

    A task that has to stop has a few seconds, and a request may take longer; its row stays open.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._name = name
        self._started = 0
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call in a thread. Call this from one thread only, the event loop's."""
        future: Future[T] = Future()
        self._calls.put((future, functools.partial(call, *args, **kwargs)))
        if self._started < self._threads:
            self._started += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end after their present call; never waits."""
        for _ in range(self._started):
            self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits the future
                future.set_exception(error)
            else:
                future.set_result(result)


class ThreadedRuntime:
    """The real world: a thread for each open request, one for reads, one for the ledger, one for the source.

    Leave its context to end the threads; that waits for no open request.

    :param client: with the rate limiter that its answers teach
    :param ledger: None for a dry run where there is no ledger yet, and where only PayArc's list is read
    :param batches: the input; None where only PayArc's list is read
    """

    def __init__(
        self,
        client: PayarcClient,
        ledger: Ledger | None = None,
        batches: Batches | None = None,
        *,
        me: Claimant | None = None,
        concurrency: int = 1,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._batches = batches
        self._requests = DaemonPool(concurrency, "payarc-request")
        self._reads = DaemonPool(1, "payarc-read")
        self._transactions = DaemonPool(1, "payarc-ledger")
        self._source = DaemonPool(1, "payarc-source")
        shared = self.transact if ledger is not None and me is not None else None
        account, worker = (me.account, me.owner[:12]) if me is not None else ("", "")
        self._throttle = Throttle(client.limiter, shared, account, worker)

    def __enter__(self) -> ThreadedRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._requests, self._reads, self._transactions, self._source):
            pool.shutdown()

    def now(self) -> float:
        """Seconds; this machine's clock, suspensions included."""
        return machine_clock()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def transact(self, call: Callable[[Ledger], T]) -> T:
        """The result of ``call``, run in the ledger's thread."""
        ledger = cast("Ledger", _MissingLedger()) if self._ledger is None else self._ledger
        return await _run_in(self._transactions, lambda: call(ledger))

    async def next_batch(self) -> list[Record] | None:
        """The next records, read in the source's thread."""
        return None if self._batches is None else await _run_in(self._source, self._batches.next_batch)

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        """See `Throttle.acquire`."""
        return await self._throttle.acquire(endpoint, ready)

    def release(self, endpoint: str) -> None:
        """See `Throttle.release`."""
        self._throttle.release(endpoint)

    async def ping(self) -> float | None:
        """One cheap authenticated request."""
        return await _run_in(self._reads, self._client.ping)

    async def create(
        self, fields: Mapping[str, str], idempotency_key: str, attempt: int, pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        """One POST."""

        def send() -> dict[str, Any]:
            return self._client.create_customer(
                fields, idempotency_key=idempotency_key, attempt=attempt, before_send=pass_gate
            )

        return await _run_in(self._requests, send)

    async def list_page(self, page: int) -> CustomerPage:
        """One page of 100 customers."""
        return await _run_in(self._reads, lambda: self._client.list_page(page))


class _MissingLedger:
    """Stands in for a ledger that does not exist yet: no record has a row."""

    def known(self, _me: Claimant, _keys: object) -> dict[str, Known]:
        return {}

    def rows(self, _me: Claimant, _keys: object) -> dict[str, Row]:
        return {}


async def _run_in(pool: Executor, call: Callable[[], T]) -> T:
    # In the caller's context, so that a request's span lies within the run's.
    return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, call)


def run_to_end(main: Coroutine[Any, Any, T]) -> T:
    """The result of the coroutine, also where this thread already runs an event loop (a notebook)."""
    if asyncio._get_running_loop() is None:
        return asyncio.run(main)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, main).result()


@contextlib.contextmanager
def collecting_less_garbage() -> Iterator[None]:
    """Keep the garbage collector away from the objects that exist already, and let it run less often.

    Each of its runs over Airflow's half a million objects takes 50 ms, for which every request waits.
    """
    before, freezes = gc.get_threshold(), not gc.get_freeze_count()  # frozen: somebody has done this already
    if freezes:
        gc.freeze()
    if before[0]:  # 0: it is switched off
        gc.set_threshold(max(before[0], _GARBAGE_THRESHOLD), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if freezes:
            gc.unfreeze()
