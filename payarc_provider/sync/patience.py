"""Waiting for a ledger whose database is unavailable: for how long, what is logged, and obeying SIGTERM meanwhile."""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotYet
from typing import TypeVar

from payarc_provider.api.http import now as machine_clock
from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.ledger import LedgerUnavailable
from payarc_provider.sync.runtime import DaemonPool
from payarc_provider.sync.wording import clock_time

log = logging.getLogger(__name__)
T = TypeVar("T")

REPORT_SECONDS = 30.0
LONGEST_PAUSE = 5.0
_GLANCE = 0.1


class LedgerWaits:
    """What the waits for a ledger log: a warning as they begin, one every 30 s, and a line when the ledger works again.

    :param now: seconds, by any clock
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: dict[object, float] = {}
        self._reported = 0.0

    def check(self, wait: object, since: float, patience: float, error: LedgerUnavailable) -> None:
        """A call has failed: say so unless that was said just now.

        :param wait: the same for all calls that are tries of one
        :param since: when the first of them began
        :param patience: seconds after that when the wait is given up
        :raises LedgerUnavailable: it is given up
        """
        now = self._now()
        is_first = not self._since
        left = self._since.setdefault(wait, since) + patience - now
        if left < 0:
            raise error
        if is_first or now - self._reported >= REPORT_SECONDS:
            self._reported = now
            log.warning("%s. Trying again until %s (ledger_patience)", error, clock_time(left))

    def succeed(self, wait: object) -> None:
        """A call has succeeded."""
        since = self._since.pop(wait, None)
        if since is not None and not self._since:
            log.warning("The ledger's database works again, after %.0f s", self._now() - since)

    def give_up(self, wait: object) -> None:
        """Nothing waits for this any more."""
        self._since.pop(wait, None)


def task_stopped() -> PayarcRunStopped:
    """The error that ends a run when Airflow stops its task."""
    return PayarcRunStopped("The task was stopped. Run it again; nothing is sent twice")


def wait_for_ledger(call: Callable[[], T], patience: float, is_stopped: Callable[[], bool] = lambda: False) -> T:
    """The result of ``call``, which uses the ledger and may be repeated, outside of the engine's loop.

    It runs in a thread of its own: this one may be the main thread, which must stay free for signals.

    :param patience: seconds for which an unavailable ledger is waited for
    :param is_stopped: looked at several times a second
    :raises LedgerUnavailable: the database stayed unavailable
    :raises PayarcRunStopped: it was stopped; the call may go on in its thread, and has no effect on this one
    """
    waits, began = LedgerWaits(machine_clock), machine_clock()
    pool = DaemonPool(1, "payarc-ledger-start")
    pause = _GLANCE
    try:
        while True:
            try:
                result = _result(pool, call, is_stopped)
            except LedgerUnavailable as error:
                waits.check(call, began, patience, error)
            else:
                waits.succeed(call)
                return result
            until = machine_clock() + pause
            while machine_clock() < until:
                _check(is_stopped)
                time.sleep(_GLANCE)
            pause = min(LONGEST_PAUSE, pause * 2)
    finally:
        pool.shutdown()


def _result(pool: DaemonPool, call: Callable[[], T], is_stopped: Callable[[], bool]) -> T:
    context = contextvars.copy_context()
    future = pool.submit(lambda: context.run(call))
    while True:
        _check(is_stopped)
        try:
            return future.result(_GLANCE)
        except NotYet:
            if future.done():
                raise


def _check(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise task_stopped()
