"""The real world behind the engine's ports: threads for requests, one thread for the ledger, one for the source."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime
import functools
import gc
import queue
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

from payarc_provider.api.client import CustomerPage, PayarcClient
from payarc_provider.api.http import now as machine_clock
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.sync.batches import Batches
from payarc_provider.sync.ledger import Claimant, Known, Ledger, Recorded, Resolution, Retry, Row
from payarc_provider.sync.records import Record
from payarc_provider.sync.send import attempt_of
from payarc_provider.sync.states import Created
from payarc_provider.sync.throttle import Throttle

T = TypeVar("T")
CREATE = "POST /customers"
LIST = "GET /customers"
_LITTLE_GARBAGE = 20_000  # objects, some megabytes


class SystemClock:
    """This machine's clock."""

    def now(self) -> float:
        """Seconds; runs on while the machine is suspended."""
        return machine_clock()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class DaemonPool(Executor):
    """Threads that do not keep the process from ending.

    A task that is told to stop has seconds, and a request may be without an answer for longer; its row stays open.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._name = name
        self._started = 0
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call in a thread; to be called from one thread only, the event loop's."""
        future: Future[T] = Future()
        self._calls.put((future, functools.partial(call, *args, **kwargs)))
        if self._started < self._threads:
            self._started += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end when they have done what they are at; never waits."""
        for _ in range(self._started):
            self._calls.put(None)

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            future, call = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to who waits for the future
                future.set_exception(error)
            else:
                future.set_result(result)


class Threads:
    """The pools of one run; leaving the context waits for no request that is still open."""

    def __init__(self, concurrency: int) -> None:
        self.requests = DaemonPool(concurrency, "payarc-request")
        self.reads = DaemonPool(1, "payarc-read")
        self.ledger = DaemonPool(1, "payarc-ledger")
        self.source = DaemonPool(1, "payarc-source")

    def shutdown(self) -> None:
        """Start nothing more."""
        for pool in (self.requests, self.reads, self.ledger, self.source):
            pool.shutdown()


async def _in(pool: Executor, call: Callable[[], T]) -> T:
    # In the caller's context, so that a request's span lies within the run's.
    return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, call)


class ThreadedFeed:
    """The input, read in the source's thread."""

    def __init__(self, batches: Batches, pool: Executor) -> None:
        self.total = batches.total
        self._batches = batches
        self._pool = pool

    async def next_batch(self) -> list[Record] | None:
        """The next records, or None at the end."""
        return await _in(self._pool, self._batches.next_batch)


class ThreadedPayarc:
    """PayArc over HTTP, a thread per open request.

    :param limiter: the same one that the client teaches
    :param ledger: the ledger through which workers share the rate limit; None: nothing is shared
    """

    def __init__(
        self,
        client: PayarcClient,
        limiter: RateLimiter,
        threads: Threads,
        ledger: Ledger | None = None,
        me: Claimant | None = None,
    ) -> None:
        self._client = client
        self._threads = threads

        async def transact(call: Callable[[Ledger], T]) -> T:
            return await _in(threads.ledger, lambda: call(cast("Ledger", ledger)))

        account, worker = ("", "") if me is None else (me.account, me.owner[:12])
        self._throttle = Throttle(limiter, None if ledger is None else transact, account, worker)

    async def ping(self) -> float | None:
        """One cheap authenticated call."""
        return await _in(self._threads.reads, self._client.ping)

    async def create(self, fields: Mapping[str, str], idempotency_key: str, guard: Callable[[], None]) -> Created:
        """One POST."""

        def send() -> Created:
            customer = self._client.create_customer(
                fields, idempotency_key=idempotency_key, before_send=guard, attempt=attempt_of(idempotency_key)
            )
            return Created(customer["customer_id"], customer)

        return await _in(self._threads.requests, send)

    async def list_page(self, page: int) -> CustomerPage:
        """One page of 100 customers."""
        return await _in(self._threads.reads, lambda: self._client.list_page(page, 100))

    async def acquire(self, reading: bool, ready: int = 1) -> float:
        """See Throttle.acquire."""
        return await self._throttle.acquire(LIST if reading else CREATE, ready)

    def release(self, reading: bool) -> None:
        """See Throttle.release."""
        self._throttle.release(LIST if reading else CREATE)


class ThreadedLedger:
    """The ledger in its own thread, so that its transactions never overlap each other."""

    def __init__(self, ledger: Ledger, me: Claimant, threads: Threads, *, retry_rejected: Retry) -> None:
        self._ledger = ledger
        self._me = me
        self._pool = threads.ledger
        self._retry_rejected = retry_rejected

    async def known(self, keys: Collection[str]) -> dict[str, Known]:
        """See Ledger.known."""
        return await _in(self._pool, lambda: self._ledger.known(self._me, keys))

    async def rows(self, keys: Collection[str]) -> dict[str, Row]:
        """See Ledger.rows."""
        return await _in(self._pool, lambda: self._ledger.rows(self._me, keys))

    async def claim(
        self, records: Sequence[Record], references: Mapping[str, str | None], sent_after: datetime.datetime
    ) -> dict[str, Row]:
        """See Ledger.claim."""
        return await _in(
            self._pool,
            lambda: self._ledger.claim(self._me, records, references, sent_after, retry_rejected=self._retry_rejected),
        )

    async def record(self, answers: Sequence[Resolution]) -> Recorded:
        """See Ledger.record."""
        return await _in(self._pool, lambda: self._ledger.record(self._me, answers))

    async def renew(self) -> set[str]:
        """See Ledger.renew."""
        return await _in(self._pool, lambda: self._ledger.renew(self._me))

    async def release(self, unsent: Collection[str]) -> None:
        """See Ledger.release."""
        await _in(self._pool, lambda: self._ledger.release(self._me, unsent))

    async def give_up(self, keys: Collection[str]) -> None:
        """See Ledger.give_up."""
        await _in(self._pool, lambda: self._ledger.give_up(self._me, keys))

    async def take_over(self) -> dict[str, Row]:
        """See Ledger.take_over."""
        return await _in(self._pool, lambda: self._ledger.take_over(self._me))

    async def waiting(self) -> tuple[int, float | None]:
        """See Ledger.waiting."""
        return await _in(self._pool, lambda: self._ledger.waiting(self._me))

    async def record_absence(self, keys: Collection[str]) -> set[str]:
        """See Ledger.record_absence."""
        return await _in(self._pool, lambda: self._ledger.record_absence(self._me, keys))

    async def ids_with_rows(self, customer_ids: Collection[str]) -> set[str]:
        """See Ledger.ids_with_rows."""
        return await _in(self._pool, lambda: self._ledger.ids_with_rows(self._me, customer_ids))

    async def references_with_rows(self, references: Collection[str]) -> set[str]:
        """See Ledger.references_with_rows."""
        return await _in(self._pool, lambda: self._ledger.references_with_rows(self._me, references))

    async def open_without_reference(self) -> bool:
        """See Ledger.open_without_reference."""
        return await _in(self._pool, lambda: self._ledger.open_without_reference(self._me))

    async def made(self) -> int:
        """See Ledger.made."""
        return await _in(self._pool, lambda: self._ledger.made(self._me))

    async def alters_values(self, noticed: bool) -> bool:
        """Whether PayArc is known to alter this account's values."""
        name = f"alters_values:{self._me.account}"
        if noticed:
            return await _in(self._pool, lambda: self._ledger.remember(name, "yes") == "yes")
        return await _in(self._pool, lambda: self._ledger.fact(name) == "yes")


class NoLedger:
    """A ledger that does not exist yet, for a dry run: every record is new."""

    async def known(self, keys: Collection[str]) -> dict[str, Known]:
        """No rows."""
        return {}

    async def rows(self, keys: Collection[str]) -> dict[str, Row]:
        """No rows."""
        return {}


def run_to_end(main: Coroutine[Any, Any, None]) -> None:
    """Run the coroutine, also where this thread already runs an event loop (a notebook)."""
    if asyncio._get_running_loop() is None:
        asyncio.run(main)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, asyncio.run, main).result()


@contextlib.contextmanager
def only_new_garbage() -> Iterator[None]:
    """Let the garbage collector pass over what is there already, and look for new garbage less often.

    Airflow's half a million objects take it 50 ms each time, in which every request waits.
    """
    before, freezes = gc.get_threshold(), not gc.get_freeze_count()  # else somebody has seen to it
    if freezes:
        gc.freeze()
    if before[0]:  # 0: it is switched off
        gc.set_threshold(max(before[0], _LITTLE_GARBAGE), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if freezes:
            gc.unfreeze()


@contextlib.contextmanager
def threads(concurrency: int) -> Iterator[Threads]:
    """The pools of one run."""
    pools = Threads(concurrency)
    try:
        yield pools
    finally:
        pools.shutdown()
