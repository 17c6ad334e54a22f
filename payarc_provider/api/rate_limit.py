"""PayArc's rate limit, learned from its responses and shared among the workers on one ledger. See docs/rate_limit.md.

PayArc counts requests in fixed windows that open with their first request. A `Budget` is what it counts together: all
endpoints, until its responses show that each endpoint has windows of its own.
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from payarc_provider.api import http

_ASK_AGAIN = 0.05  # seconds until a response in flight may have changed the answer
_PROBE_EVERY = 1.0  # seconds between attempts while nothing shows when the window ends
_LONGEST = 3600.0  # seconds; a longer wait is not believed
_GONE = 60.0  # seconds, or two windows, after which a worker that has not asked the ledger counts as gone
_ALL = "all"  # the budget of all endpoints
_LEDGER = "ledger"  # in place of an endpoint: what the ledger says about the other workers
_NEW_WINDOW = {"taken": 0, "opened": None, "end": None, "probed": None}  # in the ledger


class Sent(NamedTuple):
    """A request that leaves. ``tick`` puts departures and responses in order; ``at`` is the limiter's clock."""

    endpoint: str
    window: int
    tick: int
    at: float


@dataclass(slots=True)
class Budget:
    """One window after the other of what PayArc counts together. Times are the limiter's clock, in seconds."""

    now: float = 0.0  # this moment, by clock and by tick
    tick: int = 0
    limit: float = math.inf
    length: tuple[float, float] = (0.0, math.inf)  # a window lasts longer than the first and at most the second
    waiting: dict[str, tuple[float, float]] = field(default_factory=dict)  # endpoint → since when, until when
    last_taken: float = -math.inf
    opened_before: tuple[float, float, str] | None = None
    number: int = 0
    counts: dict[str, tuple[float, int]] = field(default_factory=dict)  # endpoint → requests used, as of which tick
    in_flight: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    unanswered_at: int = 0
    opened: tuple[float, float, str] | None = None  # between which moments, and by a request to which endpoint
    end: float | None = None
    workers: int = 1
    slots: int = 0  # with several workers: how many requests the ledger lets this one send
    unshared: int = 0  # requests of this window that the ledger has not counted
    shared: int | None = None  # the ledger's number for the window
    is_new: bool = True  # the ledger does not know this window
    has_news: bool = False  # the ledger does not know when it opened or ends
    ask_ledger_at: float = -math.inf

    @property
    def used(self) -> float:
        """The most requests that are accounted for, this worker's or others'."""
        return max((used for used, _ in self.counts.values()), default=0) + self.unanswered

    @property
    def seconds(self) -> float | None:
        """How long a window lasts: the least whole number of seconds that fits, else the most that fits."""
        return None if self.length[1] == math.inf else min(math.floor(self.length[0] + 1e-6) + 1.0, self.length[1])

    def lasts(self, seconds: float) -> bool:
        """Whether the window certainly lasts longer than that from now on."""
        return self.end is not None and self.end - self.now > seconds

    def begin(self) -> None:
        """The window is over. Requests in flight may count in either."""
        self.number = self.tick
        self.opened_before, self.opened, self.end = self.opened, None, None
        self.counts, self.in_flight = {}, Counter()
        self.unanswered = self.slots = self.unshared = 0
        self.has_news, self.is_new = False, True

    def wait(self, endpoint: str) -> float:
        """Seconds until a request may go; 0.0: at once."""
        in_flight, exhausted = self.in_flight.total(), self.used >= self.limit
        if exhausted and self.end is not None:
            return self.end - self.now
        if self.workers > 1 and (exhausted or not self.slots):
            return 0.0 if self.slots else _ASK_AGAIN
        if exhausted:
            pause = self.last_taken + _PROBE_EVERY - self.now
            return max(pause, _ASK_AGAIN) if in_flight or pause > 0 else 0.0
        if not self.counts:  # one request opens the window
            return _ASK_AGAIN if in_flight else 0.0
        # One slot is kept for each endpoint that has waited longer and has nothing in flight: it would starve.
        since, _ = self.waiting.get(endpoint, (self.now, self.now))
        starving = (name for name, (start, until) in self.waiting.items() if start < since and self.now < until)
        kept = sum(not self.in_flight[name] for name in starving)
        left = self.limit - self.used - in_flight
        return 0.0 if kept < (left if self.workers == 1 else min(left, self.slots)) else _ASK_AGAIN

    def take(self, endpoint: str, slots: int = 1) -> None:
        """Take a slot, or give it back (-1)."""
        self.in_flight[endpoint] = max(0, self.in_flight[endpoint] + slots)
        if self.workers > 1:
            self.slots = max(0, self.slots - slots)
        else:
            self.unshared = max(0, self.unshared + slots)

    def count(self, limit: int, remaining: int, left: tuple[float, float] | None, sent: Sent) -> None:
        """A response that shows the count, and may say how many seconds are left of the window."""
        used = float(max(0, limit - remaining))
        for teller in (sent.endpoint, _LEDGER):
            before, at = self.counts.get(teller, (0.0, self.tick))
            if sent.tick > at and used <= before:
                self.begin()  # a request that left after a count was known raises it, unless a new window has opened
        self.limit = limit
        if sent.tick > self.unanswered_at:
            self.unanswered = 0
        if used >= self.counts.get(sent.endpoint, (0.0, 0))[0]:
            self.counts[sent.endpoint] = used, self.tick
        if used == 1 and all(count <= 1 for name, (count, _) in self.counts.items() if name != sent.endpoint):
            self.opened, self.has_news = (sent.at, self.now, sent.endpoint), True
            self.end = None if self.seconds is None else self.now + self.seconds
        if left is not None and left[1] > 0:
            self._learn_end(left, sent)
        if self.used >= limit:
            self.slots = 0

    def exceed(self, limit: int | None, left: tuple[float, float] | None, sent: Sent) -> None:
        """A 429. Where no limit is known, infinitely many requests count as used."""
        self.limit = limit or self.limit
        if not self.counts and left is not None and self.seconds is not None and left[1] <= self.seconds / 2:
            self.opened = self.opened_before  # the window before was longer than expected
        self.counts[sent.endpoint], self.slots = (self.limit, self.tick), 0
        if left is not None:
            self._learn_end((left[0], max(left[1], _PROBE_EVERY)), sent)

    def pass_over(self, sent: Sent, *, processed: bool) -> None:
        """A response that shows no count, or none at all."""
        _, at = self.counts.get(sent.endpoint, (0.0, self.tick))
        if processed:
            if self.used >= self.limit and sent.tick > at:
                self.begin()
            self.counts.setdefault(sent.endpoint, (0.0, self.tick))
        self.unanswered, self.unanswered_at = self.unanswered + (self.limit < math.inf), self.tick

    def _learn_end(self, left: tuple[float, float], sent: Sent) -> None:
        earliest, latest = sent.at + min(left[0], _LONGEST), self.now + min(left[1], _LONGEST)
        expected = None
        if self.opened is not None and self.opened[2] == sent.endpoint:  # others may have windows of their own
            self._learn_length(earliest - self.opened[1], latest - self.opened[0])
            expected = None if self.seconds is None else self.opened[1] + self.seconds
        first, last = max(self.now, earliest), latest + 1
        fitting = [end for end in (expected, self.end) if end is not None and first <= end <= last]
        if expected not in fitting:
            self.opened = None
        end = fitting[0] if fitting else latest
        self.end, self.has_news = end, self.has_news or end != self.end

    def _learn_length(self, more_than: float, at_most: float) -> None:
        if at_most < 2 * self.length[1]:  # else it is a penalty
            low, high = max(more_than, self.length[0]), min(at_most, self.length[1])
            if math.floor(high + 1e-6) <= low + 1e-6:  # no whole number fits: believe neither until it is seen again
                low, high = min(more_than, self.length[0]), max(at_most, self.length[1])
            self.length = low, high

    def exchange(self, window: dict[str, Any], workers: int, ready: int, shift: float) -> None:
        """Tell the ledger's window what this worker knows, learn the rest, and take slots from it.

        :param shift: the seconds by which the database's clock is ahead
        """
        over = self.is_new and window["number"] == self.shared
        if over or (window["end"] is not None and self.now + shift >= window["end"]):
            window |= {"number": window["number"] + 1} | _NEW_WINDOW
        if not self.is_new and window["number"] != self.shared:
            self.begin()
        window["taken"] = max(window["taken"] + self.unshared, min(self.used, self.limit))
        if self.has_news:
            first, last, opener = self.opened or (0.0, 0.0, None)
            window["opened"] = opener and [first + shift, last + shift, opener]
            window["end"] = None if self.end is None else self.end + shift
        if self.seconds is not None:
            window["length"] = self.length
        elif window["length"]:
            self.length = tuple(window["length"])
        self.shared, self.unshared, self.is_new, self.has_news = window["number"], 0, False, False
        self.workers, self.slots = workers, self.slots if workers > 1 else 0
        if workers == 1:
            return
        if self.opened is None and window["opened"]:
            first, last, opener = window["opened"]
            self.opened = first - shift, last - shift, opener
        if window["end"] is not None:
            self.end = min(window["end"] - shift, self.now + _LONGEST)
        left = int(self.limit - window["taken"])
        if left <= 0:
            self.counts[_LEDGER] = self.limit, self.tick
            if window["end"] is None and self.now + shift - (window["probed"] or -math.inf) >= _PROBE_EVERY:
                self.slots, window["probed"] = 1, self.now + shift  # one request finds out when the window ends
        elif not self.slots:
            self.slots = min(ready, max(1, left // workers))
            window["taken"] += self.slots
        self.ask_ledger_at = self.now if self.slots else self.now + 4 * _ASK_AGAIN


class RateLimiter:
    """Says when the next request may go. Thread-safe; it never sleeps.

    Every `acquire` that returns 0.0 must end in `learn` or `release`. `PayarcClient` does that for each request that it
    tries to send.

    :param clock: seconds; should run on while the machine is suspended
    """

    def __init__(self, clock: Callable[[], float] = http.now) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._budgets: dict[str, Budget] = {}
        self._apart: bool | None = None  # whether PayArc counts each endpoint apart; None: not known
        self._tick = 0
        self._ahead = -math.inf  # seconds by which the ledger's database's clock is ahead
        self._waited, self._waits_until = 0.0, -math.inf

    @property
    def waited(self) -> float:
        """Seconds for which requests have been held back; overlapping waits count once."""
        with self._lock:
            return self._waited - max(0.0, self._waits_until - self._clock())

    def acquire(self, endpoint: str) -> float:
        """Seconds after which to ask again, or 0.0: a slot is taken, and one request may go."""
        with self._lock:
            budget = self._at(endpoint)
            now, wait = budget.now, budget.wait(endpoint)
            if wait <= 0 or self._may_try(budget, endpoint):
                budget.waiting.pop(endpoint, None)
                budget.take(endpoint)
                budget.last_taken = now
                return 0.0
            since, _ = budget.waiting.get(endpoint, (now, now))
            budget.waiting[endpoint] = since, now + wait + 10 * _ASK_AGAIN
            self._waited += max(0.0, now + wait - max(now, self._waits_until))
            self._waits_until = max(now + wait, self._waits_until)
            return wait

    def release(self, endpoint: str) -> None:
        """Return a slot that was not used."""
        with self._lock:
            self._at(endpoint).take(endpoint, -1)

    def depart(self, endpoint: str) -> Sent:
        """A request leaves. Hand the result to `learn`."""
        with self._lock:
            budget = self._at(endpoint)
            return Sent(endpoint, budget.number, budget.tick, budget.now)

    def learn(self, sent: Sent, status: int | None, headers: Mapping[str, str]) -> None:
        """Take in a response; ``status`` is None for a request that was sent and got none. Never raises."""
        limit, remaining = http.count(headers, "X-RateLimit-Limit"), http.count(headers, "X-RateLimit-Remaining")
        with self._lock:
            budget = self._at(sent.endpoint)
            if sent.window != budget.number:
                return  # too late to say anything about this window
            budget.in_flight[sent.endpoint] = max(0, budget.in_flight[sent.endpoint] - 1)
            if self._apart is None and limit and remaining is not None:
                self._compare_endpoints(budget, sent, None if status == 429 else limit - remaining)
                budget = self._at(sent.endpoint)
            if status == 429:
                budget.exceed(limit, http.retry_in(headers), sent)
            elif status is not None and limit and remaining is not None:
                budget.count(limit, remaining, http.reset_in(headers), sent)
            else:
                budget.pass_over(sent, processed=status is not None and status < 500)

    def export(self) -> dict[str, Any]:
        """What a later process should know, as JSON can hold it; for `restore`."""
        with self._lock:
            budgets = {name: self._at(name) for name in list(self._budgets)}
            known = {name: (each.seconds and each.length, each.wait(name)) for name, each in budgets.items()}
            return {"apart": self._apart, "budgets": known}

    def restore(self, state: Mapping[str, Any], elapsed: float) -> None:
        """Resume from what a limiter exported ``elapsed`` seconds ago."""
        with self._lock:
            self._apart = state.get("apart")
            for name, (length, wait) in state.get("budgets", {}).items():
                budget = self._budgets[name] = Budget(length=tuple(length or (0.0, math.inf)))
                if wait > elapsed:
                    budget.end, budget.counts[_LEDGER] = self._clock() + wait - elapsed, (math.inf, self._tick)

    def asks_ledger(self, endpoint: str) -> bool:
        """Whether to `exchange` before `acquire`: alone, once in a window; with others, for slots and with news."""
        with self._lock:
            budget = self._at(endpoint)
            if budget.limit == math.inf or budget.now < budget.ask_ledger_at:
                return False
            if budget.workers == 1:
                return budget.is_new and bool(budget.counts)
            return budget.has_news or not (budget.slots or (budget.used >= budget.limit and budget.end is not None))

    def exchange(self, value: str | None, database_now: float, endpoint: str, worker: str, ready: int) -> str:
        """Share the window with other workers: takes what the ledger keeps for them all, returns its new value.

        :param database_now: the ledger's database's clock, in Unix seconds
        :param ready: how many requests this worker could send
        """
        shared: dict[str, Any] = json.loads(value) if value else {"apart": False, "workers": {}, "budgets": {}}
        with self._lock:
            budget = self._at(endpoint)
            if shared["apart"] and not self._apart:
                self._split(budget, endpoint)
                budget = self._at(endpoint)
            gone = max(_GONE, 2 * (budget.seconds or 0.0))
            workers = {name: at for name, at in shared["workers"].items() if database_now - at < gone}
            shared |= {"apart": bool(self._apart), "workers": workers | {worker: database_now}}
            new = {"number": 1, "length": None} | _NEW_WINDOW
            if budget.shared is not None:  # the endpoint that used most of the common window goes on with it
                new |= shared["budgets"].get(_ALL, {})
            window = shared["budgets"].setdefault(endpoint if self._apart else _ALL, new)
            ahead = database_now - budget.now  # at least: this process may have paused since it read the time
            self._ahead = max(ahead, self._ahead) if abs(ahead - self._ahead) < _PROBE_EVERY else ahead
            if budget.limit < math.inf:
                budget.exchange(window, len(shared["workers"]), ready, self._ahead)
            return json.dumps(shared)

    def go_alone(self, endpoint: str) -> None:
        """The ledger cannot be used: go on by PayArc's responses until the next window."""
        with self._lock:
            budget = self._at(endpoint)
            budget.workers, budget.slots, budget.is_new = 1, 0, False

    def _at(self, endpoint: str) -> Budget:
        self._tick += 1
        length = next((budget.length for budget in self._budgets.values()), (0.0, math.inf))
        budget = self._budgets.setdefault(endpoint if self._apart else _ALL, Budget(length=length, number=self._tick))
        budget.now, budget.tick = self._clock(), self._tick
        if budget.end is not None and budget.now >= budget.end:
            budget.begin()
        return budget

    def _may_try(self, budget: Budget, endpoint: str) -> bool:
        # Another endpoint has used most of the window: one request finds out whether this one has windows of its own.
        own, _ = budget.counts.get(endpoint, (0.0, 0))
        others = [used for name, (used, _) in budget.counts.items() if name not in (endpoint, _LEDGER)]
        may = self._apart is None and budget.lasts(_PROBE_EVERY) and own < max(others, default=0.0)
        return may and budget.used >= budget.limit and not budget.in_flight[endpoint]

    def _compare_endpoints(self, budget: Budget, sent: Sent, used: int | None) -> None:
        own, _ = budget.counts.get(sent.endpoint, (0.0, 0))
        earlier = {name: count for name, (count, tick) in budget.counts.items() if tick < sent.tick}
        full = max(earlier.values(), default=0.0) >= budget.limit
        others = max((count for name, count in earlier.items() if name not in (sent.endpoint, _LEDGER)), default=0.0)
        if used is None:  # a 429, although this endpoint has used less than another one
            self._apart = False if full and own < others else None
        elif used <= others and budget.lasts(_PROBE_EVERY / 2):  # counted together, it would be more
            self._split(budget, sent.endpoint)

    def _split(self, budget: Budget, endpoint: str) -> None:
        counts = {name: count for name, count in budget.counts.items() if name != _LEDGER}
        busiest = max(counts, key=lambda name: counts[name], default=endpoint)
        budget.counts = {name: count for name, count in counts.items() if name == busiest}
        budget.in_flight = Counter({busiest: budget.in_flight[busiest]})
        self._apart, self._budgets = True, {busiest: budget}
