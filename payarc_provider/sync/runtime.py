"""The engine's interface to the outside world, and its implementation with threads, a database and HTTP.

The engine consists of coroutines that never block. Requests, transactions and reads of the source block, so they run in
threads. The simulation has its own `Runtime`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, cast

from payarc_provider.api.client import CustomerPage, PayarcClient
from payarc_provider.api.http import now as machine_clock
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.exceptions import PayarcLedgerError
from payarc_provider.sync.ledger import Claimant, KnownRow, Ledger, Row
from payarc_provider.sync.records import Record
from payarc_provider.sync.sources import Batches
from payarc_provider.tracebacks import bare

log = logging.getLogger(__name__)

Transact = Callable[[Callable[[Ledger], Any]], Awaitable[Any]]

_PATIENCE = 10.0  # seconds to wait for the ledger before going on by PayArc's responses alone


class Throttle:
    """Asks the limiter for slots, and the ledger where other workers use the same merchant's windows.

    A worker that is alone asks the ledger once in a window. The ledger's fact ``rate_limit:<account>`` holds numbers,
    times and the workers' random ids.

    :param transact: runs a call with the ledger; None where there is no ledger, and nothing is shared
    :param worker: a random id of this run
    """

    def __init__(
        self,
        limiter: RateLimiter,
        transact: Transact | None,
        account: str,
        worker: str,
    ) -> None:
        self._limiter = limiter
        self._transact = transact
        self._fact = f"rate_limit:{account}"
        self._worker = worker
        self._asking = False
        self._sharing = True

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        """Seconds after which to ask again; 0.0: a slot is taken for one request.

        :param ready: how many requests could go now
        """
        if self._transact is not None and not self._asking and self._limiter.asks_ledger(endpoint):
            self._asking = True
            try:
                await self._ask_ledger(self._transact, endpoint, ready)
            finally:
                self._asking = False
        return self._limiter.acquire(endpoint)

    def release(self, endpoint: str) -> None:
        """Return a slot that was not used."""
        self._limiter.release(endpoint)

    async def _ask_ledger(self, transact: Transact, endpoint: str, ready: int) -> None:
        def change(value: str | None, now: float) -> str:
            return self._limiter.exchange(value, now, endpoint, self._worker, max(1, ready))

        try:
            await asyncio.wait_for(transact(lambda ledger: ledger.update_fact(self._fact, change)), _PATIENCE)
        except (PayarcLedgerError, TimeoutError) as error:
            self._limiter.go_alone(endpoint)
            if self._sharing:
                log.warning(
                    "The ledger could not share the rate limit among workers (%s); PayArc's responses limit the rate",
                    str(error) or "it did not respond in time",
                )
            self._sharing = False
        else:
            self._sharing = True


T = TypeVar("T")

CREATE = "POST /customers"
UPDATE = "PATCH /customers/{id}"
LIST = "GET /customers"

_GARBAGE_THRESHOLD = 20_000  # objects: some megabytes


class Runtime(Protocol):
    """One run's access to time, the ledger, PayArc and the input."""

    def now(self) -> float:
        """Seconds since a fixed moment, by a clock that keeps running while the process or the machine is suspended."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def transact(self, call: Callable[[Ledger], T]) -> T:
        """The result of ``call``, which makes one transaction. Transactions never overlap.

        :raises LedgerUnavailable: the database is unavailable; the transaction may or may not have taken effect
        """

    async def next_batch(self) -> list[Record] | None:
        """The next records of the input, None at its end."""

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        """0.0 if a slot of the rate limit was taken for one request, otherwise the seconds after which to ask again.

        :param ready: how many requests are ready to be sent
        """

    def release(self, endpoint: str) -> None:
        """Return a slot that was not used."""

    async def create(
        self, fields: Mapping[str, str], idempotency_key: str, attempt: int, pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        """The customer created by one POST.

        :param attempt: the number of this POST for its record
        :param pass_gate: called right before the request is sent; may raise `LeaseTooShort`
        """

    async def update(
        self, customer_id: str, fields: Mapping[str, str], pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        """The customer after one PATCH.

        :param fields: an empty value clears the field
        :param pass_gate: as for `create`
        :raises PayarcNotFound: PayArc has no such customer
        """

    async def list_page(self, page: int) -> CustomerPage:
        """One page of PayArc's list, newest first, counted from 1."""

    async def get_customer(self, customer_id: str) -> dict[str, Any]:
        """One customer by id.

        :raises PayarcNotFound: PayArc has no such customer
        """


class DaemonPool(Executor):
    """A thread pool that does not keep the process alive.

    A task that is told to stop has only seconds, and a response may take longer. The row of such a request stays open.
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
        """Let each thread end after its current call, without waiting for it."""
        for _ in range(self._started):
            self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
                future.set_exception(bare(error))
            else:
                future.set_result(result)


class ThreadedRuntime:
    """The real runtime: one thread per POST or PATCH in flight, and one each for reads, the ledger and the source.

    A context manager. Leaving it ends the threads, without waiting for requests in flight.

    :param client: its limiter learns from the responses
    :param ledger: None if there is no ledger yet (dry runs), or if only PayArc's list is read
    :param batches: the input; None if only PayArc's list is read
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
        """This machine's clock in seconds. It keeps running while the machine is suspended."""
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

    async def in_source_thread(self, call: Callable[[], T]) -> T:
        """The result of ``call``, run between two batches of the source."""
        return await _run_in(self._source, call)

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        """See `Throttle.acquire`."""
        return await self._throttle.acquire(endpoint, ready)

    def release(self, endpoint: str) -> None:
        """See `Throttle.release`."""
        self._throttle.release(endpoint)

    async def create(
        self, fields: Mapping[str, str], idempotency_key: str, attempt: int, pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        """One POST."""

        def send() -> dict[str, Any]:
            return self._client.create_customer(
                fields, idempotency_key=idempotency_key, attempt=attempt, before_send=pass_gate
            )

        return await _run_in(self._requests, send)

    async def update(
        self, customer_id: str, fields: Mapping[str, str], pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        """One PATCH."""
        return await _run_in(
            self._requests, lambda: self._client.update_customer(customer_id, fields, before_send=pass_gate)
        )

    async def list_page(self, page: int) -> CustomerPage:
        """One page of 100 customers."""
        return await _run_in(self._reads, lambda: self._client.list_page(page))

    async def get_customer(self, customer_id: str) -> dict[str, Any]:
        """One customer by id."""
        return await _run_in(self._reads, lambda: self._client.get_customer(customer_id))


class _MissingLedger:
    """Stands in for a ledger that does not exist yet: no record has a row."""

    def check_losses(self, _account: str) -> None:
        return None

    def known(self, _me: Claimant, _keys: object) -> dict[str, KnownRow]:
        return {}

    def rows(self, _me: Claimant, _keys: object) -> dict[str, Row]:
        return {}


async def _run_in(pool: Executor, call: Callable[[], T]) -> T:
    # In the caller's context, so that the spans of requests are children of the run's span.
    return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, call)


def run_to_end(main: Coroutine[Any, Any, T]) -> T:
    """The result of the coroutine. Also works in a thread that already runs an event loop, such as a notebook's."""
    if asyncio._get_running_loop() is None:
        return asyncio.run(main)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, main).result()


@contextlib.contextmanager
def collecting_less_garbage() -> Iterator[None]:
    """Exclude existing objects from garbage collection, and collect less often.

    Each collection of Airflow's half a million objects takes 50 ms, during which every request waits.
    """
    before = gc.get_threshold()
    freezes = not gc.get_freeze_count()  # otherwise the caller has frozen the objects already
    if freezes:
        gc.freeze()
    if before[0]:  # 0: collection is turned off
        gc.set_threshold(max(before[0], _GARBAGE_THRESHOLD), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if freezes:
            gc.unfreeze()
