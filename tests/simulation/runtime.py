"""The runtime of a simulated run: its clock, its transactions, its requests, and the trouble that they meet."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from payarc_provider.api.client import CustomerPage
from payarc_provider.exceptions import PayarcRateLimited, PayarcUnknownOutcome
from payarc_provider.sync.ledger import Claimant, LedgerLost, LedgerUnavailable, Row
from payarc_provider.sync.outcomes import LeaseTooShort
from payarc_provider.sync.records import Record
from payarc_provider.sync.runtime import CREATE, UPDATE
from payarc_provider.sync.settings import Settings

from .ledger import moment
from .loop import Process

if TYPE_CHECKING:
    from .world import World


class RecordingLedger:
    """The ledger's model within one transaction; logs each call and its result in the history's trace."""

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process
        self.name = "transaction"
        self.recorded: tuple[Any, Any] | None = None  # resolutions, and which of them were recorded

    def now(self) -> Any:
        """The ledger's time; the model has it as a number."""
        self.name = "now"
        return moment(self.world.ledger.now)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.world.ledger, name)
        self.name = name

        def call(*args: Any, **options: Any) -> Any:
            world = self.world
            world.losses.see(self.process, name, args)
            result = method(*args, **options)
            if name == "record":
                self.recorded = args[1], result
            if name == "created_since":
                self.process.controls = result
            if (
                name == "record_absence"
                and self.process.misled
                and not world.has_controls(result, self.process.controls)
            ):
                world.beyond_proof = True
                world.end()
            if name == "claim_updates":
                world.updates.note_claims(args[1], result)
            if name == "record_updates":
                world.updates.note_recorded(args[1], result)
            if name == "note_unchanged":
                world.updates.note_unchanged(args[1], result)
            if name in ("claim", "claim_updates", "renew", "take_over") and world.scenario.clock_steps:
                world.note_leases(name, args, result)
            if name == "record_absence":
                world.absences.update(dict.fromkeys(result, world.scheduler.now))
            if world.trace is not None:
                world.log(self.process.name, name, "->", _short(result))
            return result

        return call


def _deliver(future: Any, result: Any) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result() if callable(result) else result)


def _latency(rng: random.Random) -> float:
    """Seconds that a message to or from the ledger takes."""
    return 0.001 + 0.049 * rng.random()


def _short(result: Any) -> Any:
    if isinstance(result, dict) and result and isinstance(next(iter(result.values())), Row):
        return {
            key: f"{row.state} {row.customer_id or row.owner or ''} #{row.attempt} {row.digest[:3]}"
            for key, row in result.items()
        }
    return sorted(result) if isinstance(result, set) else result


class RateLimit:
    """PayArc's rate limit, for one process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.left = world.scenario.limit
        self.shut_until = 0.0

    def acquire(self) -> float:
        now, limit = self.world.scheduler.now, self.world.scenario.limit
        if now < self.shut_until:
            return self.shut_until - now
        if limit is not None and self.left is not None:
            if self.left == 0:
                self.left = limit
                self.shut_until = now + self.world.rng.uniform(0.5, 8.0)
                return self.shut_until - now
            self.left -= 1
        return 0.0

    def release(self) -> None:
        if self.left is not None:
            self.left += 1


class SimRuntime:
    """A `Runtime` in the simulated world, for one run of one process.

    Transactions run one after the other. Each may fail before or after it takes effect.
    """

    def __init__(
        self,
        world: World,
        process: Process,
        me: Claimant,
        records: list[Record],
        settings: Settings,
        *,
        clock_offset: float,
        rate_limit: RateLimit,
    ) -> None:
        self.world, self.process, self.me = world, process, me
        self.settings = settings
        self._clock_offset = clock_offset
        self._rate_limit = rate_limit
        size = settings.batch_size
        self._batches = [records[start : start + size] for start in range(0, len(records), size)]
        self._queue: list[tuple[Callable[[Any], Any], Any]] = []
        self._running = False

    # ---- time -----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        stopped = self.process.suspended_for if self.world.process_clock_stops else 0.0
        return self.world.scheduler.now + self._clock_offset - stopped

    async def sleep(self, seconds: float) -> None:
        future = self.process.create_future()
        self.process.call_later(seconds, lambda: future.done() or future.set_result(None))
        await future

    def _answer(self, future: Any, delay: float, result: Any) -> None:
        self.world.scheduler.after(delay, lambda: self.process.act(lambda: _deliver(future, result)))

    # ---- the input ------------------------------------------------------------------------------------------------

    async def next_batch(self) -> list[Record] | None:
        return self._batches.pop(0) if self._batches else None

    # ---- the ledger -----------------------------------------------------------------------------------------------

    async def transact(self, call: Callable[[Any], Any]) -> Any:
        future = self.process.create_future()
        self._queue.append((call, future))
        if not self._running:
            self._next_transaction()
        return await future

    def _next_transaction(self) -> None:
        if not self._queue:
            self._running = False
            return
        self._running = True
        call, future = self._queue.pop(0)
        world = self.world
        trouble = world.trouble_at(self.process, self.me, call.__code__.co_names[0])  # the method that the lambda calls
        if trouble.startswith("suspended before"):
            world.suspend_for_long(self.process)
            self.process.act(lambda: self._happen(call, future, trouble))
            return
        world.scheduler.after(_latency(world.rng), lambda: self._happen(call, future, trouble))

    def _happen(self, call: Callable[[Any], Any], future: Any, trouble: str) -> None:
        world = self.world
        if self.process.dead and world.rng.random() < 0.5:
            return
        dice = world.rng.random()
        outage = world.scenario.outage
        if dice < world.rates.ledger_before or (outage and outage[0] < world.scheduler.now < outage[1]):
            world.fault(self.process.name, "cannot reach the ledger")
            result: Any = LedgerUnavailable("unreachable")
        else:
            world.ledger.now = world.scheduler.now + world.ledger_offset
            ledger = RecordingLedger(world, self.process)
            try:
                result = call(ledger)
            except LedgerLost as error:
                result = error
            if dice < world.rates.ledger_before + world.rates.ledger_after or trouble.endswith("response lost"):
                world.fault(self.process.name, ledger.name, "takes effect, but its response is lost")
                result = LedgerUnavailable("response lost")
            elif ledger.recorded is not None:
                world.losses.recorded(self.process, *ledger.recorded)
        if trouble == "suspended after":
            world.suspend_for_long(self.process)
        elif trouble == "killed after":
            world.kill(self.process)

        def answer() -> None:
            _deliver(future, result)
            self._next_transaction()

        world.scheduler.after(_latency(world.rng), lambda: self.process.act(answer))

    # ---- PayArc ---------------------------------------------------------------------------------------------------

    async def acquire(self, endpoint: str, ready: int = 1) -> float:
        return self._rate_limit.acquire() if endpoint in (CREATE, UPDATE) else 0.0

    def release(self, endpoint: str) -> None:
        if endpoint in (CREATE, UPDATE):
            self._rate_limit.release()

    async def list_page(self, page: int) -> CustomerPage:
        self.process.misled = self.process.misled or bool(self.world.scenario.misleading)
        return await self._read(lambda: self.world.payarc.list_page(page))

    async def get_customer(self, customer_id: str) -> dict[str, Any]:
        return await self._read(lambda: self.world.payarc.get(customer_id))

    async def _read(self, look: Callable[[], Any]) -> Any:
        world, future = self.world, self.process.create_future()

        def there() -> None:
            result = look()
            if world.rng.random() < world.rates.read_fails:
                world.fault(self.process.name, "cannot read the list")
                result = PayarcUnknownOutcome(may_have_acted=False)
            elif world.trace is not None and isinstance(result, CustomerPage):
                ids = [one["customer_id"] for one in result.customers]
                world.log(self.process.name, "reads page", result.page, ids, "of", result.total)
            self._answer(future, world.rng.uniform(0.005, 0.1), result)

        world.scheduler.after(world.rng.uniform(0.005, 0.3), there)
        return await future

    async def create(
        self, fields: Mapping[str, str], idempotency_key: str, attempt: int, pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        def receive() -> tuple[float, Any]:
            return self.world.payarc.receive(self.process, self.me, fields, idempotency_key, self.settings)

        return await self._send(pass_gate, receive)

    async def update(
        self, customer_id: str, fields: Mapping[str, str], pass_gate: Callable[[], None]
    ) -> dict[str, Any]:
        def receive() -> tuple[float, Any]:
            return self.world.payarc.receive_update(self.process, self.me, customer_id, fields, self.settings)

        return await self._send(pass_gate, receive)

    async def _send(self, pass_gate: Callable[[], None], receive: Callable[[], tuple[float, Any]]) -> dict[str, Any]:
        world, future = self.world, self.process.create_future()

        def hand_over() -> None:
            try:
                pass_gate()
            except LeaseTooShort as error:
                world.log(self.process.name, "does not send", repr(error))
                self._answer(future, 0.0, error)
                return
            delay, answer = receive()
            if isinstance(answer, PayarcRateLimited):
                until = world.scheduler.now + delay + (answer.retry_after or 0.0)
                self._rate_limit.shut_until = max(self._rate_limit.shut_until, until)
            self._answer(future, delay, answer)

        # Between the decision to send and the lease check, a request waits for a thread and for the rate limit.
        wait = world.rng.uniform(0.0, 0.02) if world.rng.random() < 0.8 else world.rng.uniform(0.0, 12.0)
        world.scheduler.after(wait, lambda: self.process.act(hand_over))
        return await future
