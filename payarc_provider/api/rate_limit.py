"""How fast PayArc lets this token go, learnt from its answers, per endpoint.

Every answer tells limit and remaining of a fixed window (guide); only a 429 tells its end. So the length is learnt:
from a window's first answer to the end that a 429 gives.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from payarc_provider.api import headers as answer_headers

__all__ = ["RateLimiter"]

_PROBE_EVERY = 1.0  # seconds between attempts while nothing tells when the window ends
_ASK_AGAIN = 0.05  # seconds until an answer under way may have changed things
_FORGOTTEN = 120.0  # seconds after which what is still reserved was left behind, and must not block the rest


@dataclass(slots=True)
class _Window:
    """One endpoint's present window, in the clock's seconds."""

    heard: bool = False
    limit: int | None = None
    used: int = 0  # the most that any answer of this window accounts for
    under_way: int = 0  # reserved, not answered
    peak: int = 0  # the most under way at once in this window
    floor: int = 0  # `used` when the first of those under way was reserved: within one window each accounts for more
    refused: bool = False  # by a 429, which is all there is to go by where no answer names a limit
    start: float | None = None  # when the first answer of a window came
    end: float | None = None
    length: float | None = None
    last_go: float = -math.inf

    @property
    def exhausted(self) -> bool:
        return self.refused if self.limit is None else self.used >= self.limit

    def wait(self, now: float) -> float:
        self.under_way = 0 if now - self.last_go > _FORGOTTEN else self.under_way
        self.pass_end(now)
        if self.exhausted and self.end is not None:
            return self.end - now
        if self.exhausted or not self.heard:
            pause = self.last_go + _PROBE_EVERY - now if self.heard else 0.0
            return max(pause, _ASK_AGAIN) if self.under_way or pause > 0 else 0.0  # one request finds out, alone
        if self.limit is not None and self.used + self.under_way >= self.limit:
            return _ASK_AGAIN
        return 0.0

    def reserve(self, now: float) -> None:
        if self.under_way == 0:
            self.floor = self.used
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        self.last_go = now

    def release(self) -> None:
        if self.under_way == 0:
            self.floor = self.used  # nobody reserved: the request was alone
        else:
            self.under_way -= 1

    def open(self) -> None:
        self.used, self.floor, self.peak, self.refused, self.end = 0, 0, self.under_way, False, None

    def pass_end(self, now: float) -> None:
        if self.end is not None and now >= self.end:
            self.open()

    def count(self, limit: int, remaining: int, now: float) -> None:
        self.pass_end(now)
        self.limit, used = limit, max(0, limit - remaining)
        if self.refused and self.end is not None:
            return  # a late answer from before the refusal: the end is known better than it can tell
        # Answers under way together come in any order, so a lower count proves a new window only from the floor down.
        if used <= self.floor:
            self.open()
        if used == 1:
            self.start = now
            self.end = None if self.length is None else now + self.length
        elif self.used == 0 or used + self.peak < self.used:
            self.start = None  # somebody else's request opened this window, or may have
        self.used = max(self.used, used)

    def refuse(self, wait: float | None, now: float) -> None:
        self.refused = True
        self.used = max(self.used, self.limit or 0)
        if wait is None:
            return
        self.end = now + max(wait, _PROBE_EVERY)
        if self.start is not None:
            # Rounded up to PayArc's whole seconds, so as not to ask too early; a much longer wait is a penalty.
            length = float(math.ceil(self.end - self.start))
            self.length = length if self.length is None or length < 2 * self.length else self.length


class RateLimiter:
    """Tells callers when the next request may go. Thread-safe; it never sleeps. ``clock`` gives seconds.

    Every ``delay`` that gave 0.0 ends in ``learn`` or ``release``. The client sees to it for each request it tried to
    send; a place that was not used, or that ``before_send`` gave up, is for the caller to release.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}
        self.waited = 0.0  #: seconds of waiting told to callers, all of them together
        self.limited = 0  #: how many requests were answered 429

    def delay(self, endpoint: str) -> float:
        """Seconds after which to ask again, or 0.0: go now, a place is reserved for ``endpoint``."""
        with self._lock:
            window, now = self._windows.setdefault(endpoint, _Window()), self._clock()
            wait = window.wait(now)
            if wait > 0:
                self.waited += wait
                return wait
            window.reserve(now)
            return 0.0

    def release(self, endpoint: str) -> None:
        """Give back a place that was not used."""
        with self._lock:
            self._windows.setdefault(endpoint, _Window()).release()

    def learn(self, endpoint: str, status: int | None, headers: Mapping[str, str]) -> None:
        """Take in an answer; ``status`` None stands for a request that was sent and got none. Never raises."""
        limit = answer_headers.count(headers, "X-RateLimit-Limit")
        remaining = answer_headers.count(headers, "X-RateLimit-Remaining")
        with self._lock:
            window, now = self._windows.setdefault(endpoint, _Window()), self._clock()
            window.release()
            window.heard = window.heard or status is not None
            if status == 429:
                self.limited += 1
                window.limit = limit or window.limit
                window.refuse(answer_headers.retry_after(headers), now)
            elif limit and remaining is not None:
                window.count(limit, remaining, now)
            else:
                window.used += 1  # PayArc may have counted it all the same
                window.refused = window.refused and status is None
