"""An event loop in simulated time, one per simulated process, driven by one seeded scheduler for all of them."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class Crashed(BaseException):
    """The process is dead: whatever it still tries has no effect."""


class Process(asyncio.AbstractEventLoop):
    """One simulated process: an event loop that can be suspended, and killed at any moment."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.dead = False
        self.suspended = False
        self.suspended_for = 0.0
        self._suspended_at = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._postponed: list[Callable[[], None]] = []

    # ---- life ---------------------------------------------------------------------------------------------------

    def start(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.create_task(main)
        self.step()
        return task

    def kill(self) -> None:
        self.dead = True
        self._ready.clear()
        self._postponed.clear()

    def suspend(self) -> None:
        if not self.suspended:
            self.suspended = True
            self._suspended_at = self.scheduler.now

    def resume(self) -> None:
        if self.suspended and not self.dead:
            self.suspended = False
            self.suspended_for += self.scheduler.now - self._suspended_at
            postponed, self._postponed = self._postponed, []
            for action in postponed:
                self.act(action)
            self.step()

    def act(self, action: Callable[[], None]) -> None:
        """Something this process does by itself (a thread of it): not while suspended, never after its death."""
        if self.dead:
            return
        if self.suspended:
            self._postponed.append(action)
            return
        action()
        self.step()

    def step(self) -> None:
        """Run what is ready."""
        if self.dead or self.suspended:
            return
        asyncio._set_running_loop(self)
        try:
            ready = self._ready
            while ready:
                handle = ready.popleft()
                if not handle._cancelled:  # type: ignore[attr-defined]
                    handle._run()
                if self.dead:
                    return
        finally:
            asyncio._set_running_loop(None)

    # ---- what asyncio's tasks and futures ask of a loop -----------------------------------------------------------

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.scheduler.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.scheduler.at(when, lambda: self._fire(handle))
        return handle

    def _fire(self, handle: asyncio.TimerHandle) -> None:
        if handle._cancelled or self.dead:  # type: ignore[attr-defined]
            return
        self.act(handle._run)

    def time(self) -> float:
        return self.scheduler.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        pass


class Scheduler:
    """Simulated time: what is due happens in the order of its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when if when > self.now else self.now, self._count, action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, action))

    def run(self, until: Callable[[], bool], most: int) -> None:
        """Let time pass until the condition holds."""
        queue = self._queue
        while queue and not until():
            self.now, _, action = heapq.heappop(queue)
            self.events += 1
            action()
            if self.events > most:
                raise AssertionError(f"no end after {most} events")
