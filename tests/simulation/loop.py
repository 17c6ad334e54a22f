"""Event loops in simulated time: one for each simulated process, all driven by one scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

CONTEXT = contextvars.Context()  # one for all callbacks saves copies; nothing here uses context variables


class Handle:
    """A minimal `asyncio.Handle`: a callback that can be cancelled. An exception in it ends the history."""

    __slots__ = ("args", "callback", "off")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.off = False

    def cancel(self) -> None:
        self.off = True

    def cancelled(self) -> bool:
        return self.off

    def run(self) -> None:
        if not self.off:
            self.callback(*self.args)


class Process(asyncio.AbstractEventLoop):
    """One simulated process: an event loop that can be suspended, and killed at any moment."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.dead = False
        self.suspended = False
        self.suspended_for = 0.0
        self._suspended_at = 0.0
        self.controls: dict[str, Any] = {}  # by which its last look-up checked PayArc's list
        self.misled = False  # whether it has read a list that misleads
        self.planned: Any = None  # its run, if that has a plan or guards
        self.readings: list[dict[str | None, str]] = []  # what it has read for that run: key → digest
        self._ready: deque[Handle] = deque()
        self._postponed: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[Any]] = []

    # ---- life ---------------------------------------------------------------------------------------------------

    def start(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.create_task(main)
        self.step()
        return task

    def kill(self) -> None:
        self.dead = True
        self._ready.clear()
        self._postponed.clear()

    def bury(self) -> None:
        """Close a dead process's coroutines. What they still do has no effect."""
        self.kill()
        for task in self._tasks:
            for _ in range(3):  # once for each nested ``finally`` that awaits
                if task.done():
                    break
                with contextlib.suppress(RuntimeError):
                    task.get_coro().close()  # type: ignore[union-attr]
                    break
        self._tasks.clear()

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
        """Do something in one of this process's threads: after a suspension, and never after its death."""
        if self.dead:
            return
        if self.suspended:
            self._postponed.append(action)
            return
        action()
        self.step()

    def step(self) -> None:
        """Run the callbacks that are ready."""
        if self.dead or self.suspended:
            return
        if self.scheduler.running is not self:
            self.scheduler.running = self
            asyncio._set_running_loop(self)
        ready = self._ready
        while ready:
            handle = ready.popleft()
            if not handle.off:
                handle.callback(*handle.args)

    # ---- what asyncio's tasks and futures need of a loop ----------------------------------------------------------

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args)
        if not self.dead:
            self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self.scheduler.now + delay, callback, *args)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args)
        self.scheduler.at(when, lambda: self._fire(handle))
        return handle

    def _fire(self, handle: Handle) -> None:
        if not handle.off and not self.dead:
            self.act(handle.run)

    def time(self) -> float:
        return self.scheduler.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name or self.name, context=CONTEXT)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        pass


class Scheduler:
    """Simulated time, and the actions scheduled in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.over = False
        self.running: Process | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when if when > self.now else self.now, self._count, action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, action))

    def clear(self) -> None:
        """Cancel all scheduled actions."""
        self._queue.clear()

    def run(self, until: float, most: int) -> None:
        """Run scheduled actions in order until the given time, or until ``over`` is set."""
        queue, pop = self._queue, heapq.heappop
        try:
            while queue and self.now <= until and not self.over:
                self.now, _, action = pop(queue)
                self.events += 1
                action()
                if self.events > most:
                    raise AssertionError(f"no end after {most} events")
        finally:
            self.running = None
            asyncio._set_running_loop(None)
