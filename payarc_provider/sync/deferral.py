"""Deferral: how a run releases its worker slot during a long wait, and what it carries over to its next slice.

A deferred run releases all rows that it owns. The next slice reads the input again from the beginning; records that
have a customer cost no request. Only the rate limiter's state and the counts are carried over, in a fact of the ledger
without keys or values. Losing them does no harm. The fact is deleted when the run ends; if the run is never resumed, a
later run of the ledger deletes it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.limit_waits import MAX_SECONDS, nothing_let_through
from payarc_provider.sync.settings import TaskIdentity

MAX_FRUITLESS = 3
KEPT_SECONDS = 7 * 86400.0
"""After how long without its next slice a run counts as abandoned. Far longer than any window of a rate limit."""
_PREFIX = "deferred:"


class Deferral(PayarcRunStopped):
    """Nothing can be sent for a while: the run has released its rows and must be resumed later.

    :param seconds: how long nothing can be sent
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"PayArc's rate limit allows no request for {seconds:.0f} s")
        self.seconds = seconds


@dataclass(slots=True)
class CarryOver:
    """What a slice passes on to the next slice of the same try.

    :param try_number: the try number of the task instance; another try starts afresh
    :param started_at: the database's time when the first slice started, in ISO format
    :param started_seconds: this machine's time at that moment, in Unix seconds
    :param counts: requests by kind, in all slices so far
    :param records: records by result, in the latest slice, which counts those of earlier slices too
    :param deferrals: how often the run was deferred
    :param fruitless: the number of slices in a row that got no usable response
    :param fruitless_since: when the first of those slices ended, in Unix seconds
    :param limiter: the state of the rate limiter, exported at ``saved_at`` (Unix seconds)
    """

    try_number: int
    started_at: str
    started_seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    deferrals: int = 0
    fruitless: int = 0
    fruitless_since: float = 0.0
    limiter: dict[str, Any] = field(default_factory=dict)
    saved_at: float = 0.0

    @property
    def started(self) -> datetime.datetime:
        """The database's time when the first slice started."""
        return datetime.datetime.fromisoformat(self.started_at)

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Add the counts of a slice."""
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def note_deferral(self, limiter: dict[str, Any], *, responses: int, unknown: int, rate_limited: int = 0) -> None:
        """Take note of a slice that ends with a deferral.

        :param limiter: the exported state of the rate limiter
        :param responses: the number of usable responses that the slice got
        :param unknown: the number of its requests without a usable response
        :param rate_limited: the number of its requests that got a 429
        :raises PayarcRunStopped: too many slices in a row got no usable response
        """
        self.deferrals += 1
        self.fruitless = self.fruitless + 1 if (unknown or rate_limited) and not responses else 0
        self.limiter = limiter
        self.saved_at = time.time()
        if self.fruitless <= 1:
            self.fruitless_since = self.saved_at
        if self.fruitless <= MAX_FRUITLESS:
            return
        if unknown:
            raise PayarcRunStopped(
                f"PayArc gave no usable response in {self.fruitless} windows of its rate limit in a row. "
                "Run again when PayArc works; nothing is sent twice"
            )
        if (seconds := self.saved_at - self.fruitless_since) >= MAX_SECONDS:  # others may have used some of the windows
            raise nothing_let_through(seconds)


class CarryOverStore:
    """Keeps the carry-over of one task instance in a fact of the ledger."""

    def __init__(self, ledger: Ledger, task: TaskIdentity) -> None:
        self._ledger = ledger
        self._try_number = task.try_number
        identity = json.dumps([task.dag_id, task.run_id, task.task_id, task.map_index], default=str)
        self._name = _PREFIX + hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    def load(self) -> CarryOver | None:
        """What an earlier slice of this try passed on, or None."""
        text = self._ledger.fact(self._name)
        try:
            carry_over = CarryOver(**json.loads(text)) if text else None
        except (TypeError, ValueError):  # written by another version
            return None
        return carry_over if carry_over is not None and carry_over.try_number == self._try_number else None

    def save(self, carry_over: CarryOver) -> None:
        """Store this, replacing what was stored before."""
        self._ledger.replace_fact(self._name, json.dumps(asdict(carry_over)))

    def delete(self) -> None:
        """Delete what is stored."""
        if self._ledger.fact(self._name) is not None:
            self._ledger.replace_fact(self._name, None)

    def delete_abandoned(self) -> None:
        """Delete what runs of any task have stored that were not resumed within `KEPT_SECONDS`."""
        oldest = time.time() - KEPT_SECONDS
        for name, text in self._ledger.facts(_PREFIX).items():
            if name != self._name and _saved_at(text) < oldest:
                self._ledger.replace_fact(name, None)


def _saved_at(text: str) -> float:
    """When a carry-over was stored, in Unix seconds; 0.0 if it cannot be read."""
    try:
        return float(json.loads(text)["saved_at"])
    except (TypeError, ValueError, KeyError):
        return 0.0
