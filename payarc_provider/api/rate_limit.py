"""How fast PayArc lets this token go, learnt from its answers, per endpoint. See docs/rate_limit.md."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from payarc_provider.api import http
from payarc_provider.api.http import now as machine_clock
from payarc_provider.api.shared_window import Asking, Granted
from payarc_provider.api.window import Length, Sent, Window

__all__ = ["RateLimiter", "Sent"]

_WITHOUT_ACCOUNT = 5.0  # seconds for which nothing is asked of an account that could not be reached


class RateLimiter:
    """Tells callers when the next request may go. Thread-safe; it never sleeps.

    Every ``delay`` that gave 0.0 ends in ``learn`` or ``release``. The client sees to it for each request it tried to
    send; a place that was not used, or that ``before_send`` gave up, is for the caller to release.

    :param clock: seconds; it should run on while the machine is suspended
    """

    def __init__(self, clock: Callable[[], float] = machine_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[str, Window] = {}
        self._ticks = 0
        self.waited = 0.0  #: seconds of waiting told to callers, all of them together
        self.limited = 0  #: how many requests were answered 429

    def delay(self, endpoint: str) -> float:
        """Seconds after which to ask again, or 0.0: go now, a place is reserved for ``endpoint``."""
        with self._lock:
            window, now = self._at(endpoint)
            wait = window.wait(now, self._ticks)
            if wait > 0:
                self.waited += wait
                return wait
            window.reserve(now)
            return 0.0

    def release(self, endpoint: str) -> None:
        """Give back a place that was not used."""
        with self._lock:
            window, _ = self._at(endpoint)
            window.release(None)
            window.stock += window.number is not None

    def depart(self, endpoint: str) -> Sent:
        """A request leaves; what this gives is for ``learn``."""
        with self._lock:
            _, now = self._at(endpoint)
            return Sent(endpoint, self._ticks, now)

    def learn(self, sent: Sent, status: int | None, headers: Mapping[str, str]) -> None:
        """Take in an answer; ``status`` None stands for a request that was sent and got none. Never raises."""
        limit = http.count(headers, "X-RateLimit-Limit")
        remaining = http.count(headers, "X-RateLimit-Remaining")
        with self._lock:
            window, now = self._at(sent.endpoint)
            window.release(sent)
            if status == 429:
                self.limited += 1
                window.limit = limit or window.limit
                window.refuse(http.retry_in(headers), sent, now, self._ticks)
            elif status is None:
                window.lose(sent, self._ticks)
            elif limit and remaining is not None:
                window.count(limit, remaining, http.reset_in(headers), sent, now, self._ticks)
            else:
                window.pass_over(sent, self._ticks)

    # ---- a worker that leaves, and one that goes on ---------------------------------------------------------------

    def export(self) -> dict[str, dict[str, Any]]:
        """What is known, as JSON can hold it; for ``restore``, also in another process.

        Endpoint → ``limit``, ``length`` (between how many and how many seconds a window lasts), ``used`` and ``left``
        (seconds) of the present window; what is not known is None.
        """
        with self._lock:
            now, known = self._clock(), {}
            for endpoint, window in self._windows.items():
                length = window.length
                window.pass_end(now, self._ticks)
                known[endpoint] = {
                    "limit": window.limit,
                    "length": None if length.seconds is None else [length.more_than, length.at_most],
                    "used": window.used + window.lost + window.going,
                    "left": None if window.end is None else window.end - now,
                }
            return known

    def restore(self, state: Mapping[str, Mapping[str, Any]], elapsed: float) -> None:
        """Go on with what a limiter has exported so many seconds ago."""
        with self._lock:
            for endpoint, known in state.items():
                window, now = self._at(endpoint)
                window.limit = known["limit"]
                window.length = Length(*known["length"]) if known["length"] else Length()
                if known["left"] is not None and known["left"] > elapsed:
                    window.ends_by = now + known["left"] - elapsed
                    window.used = window.mine = known["used"]
                    window.heard = window.used > 0

    # ---- several workers on one token -----------------------------------------------------------------------------

    def use_account(self, endpoint: str) -> None:
        """The endpoint's windows have a common account: where others use them too, it is to be asked for places."""
        with self._lock:
            self._at(endpoint)[0].account_from = self._clock()

    def asking(self, endpoint: str, worker: str, want: int) -> Asking | None:
        """What is to be asked of the account now; None if nothing is. ``granted`` is to follow."""
        with self._lock:
            window, now = self._at(endpoint)
            window.pass_end(now, self._ticks)
            return window.ask(worker, want, now)

    def granted(self, endpoint: str, granted: Granted | None) -> None:
        """What the account has answered; None: it cannot be reached."""
        with self._lock:
            window, now = self._at(endpoint)
            if granted is None:
                window.news = window.seen = window.heard
                window.account_from = now + _WITHOUT_ACCOUNT
            else:
                window.adopt(granted, now, self._ticks)

    def _at(self, endpoint: str) -> tuple[Window, float]:
        self._ticks += 1
        return self._windows.setdefault(endpoint, Window()), self._clock()
