"""Deferral: how a run releases its worker slot during a long wait, and what it carries over to its next slice.

A deferred run releases all that it holds. The next slice reads the input again from its beginning, which costs no
request for a record that has its customer. What it carries over, in a fact of the ledger, is what the rate limiter has
learned and the counts; nothing else rests on it.
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
from payarc_provider.sync.settings import TaskIdentity

MAX_FRUITLESS = 3
_PREFIX = "deferred:"


class Deferral(PayarcRunStopped):
    """Nothing can be sent for a while: the run has released everything and is to be resumed later.

    :param seconds: how long nothing can be sent
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"PayArc's rate limit allows no request for {seconds:.0f} s")
        self.seconds = seconds


@dataclass(slots=True)
class Carried:
    """What a slice leaves to the next one of the same try.

    :param try_number: the task's; another try begins anew
    :param began: the database's clock when the first slice began, ISO
    :param started: this machine's clock then, Unix seconds
    :param counts: requests by kind, of all slices so far
    :param deferrals: how often the run was deferred
    :param fruitless: how many slices in a row got no usable answer
    :param limits: what the rate limiter has learned; and ``left_at``, when that was, Unix seconds
    """

    try_number: int
    began: str
    started: float
    counts: dict[str, int] = field(default_factory=dict)
    deferrals: int = 0
    fruitless: int = 0
    limits: dict[str, Any] = field(default_factory=dict)
    left_at: float = 0.0

    @property
    def began_at(self) -> datetime.datetime:
        """The database's clock when the first slice began."""
        return datetime.datetime.fromisoformat(self.began)

    def add(self, spent: Mapping[str, int]) -> None:
        """Count what a slice has spent."""
        for name, number in spent.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def leave(self, limits: dict[str, Any], *, answers: int, unknown: int) -> None:
        """
        A slice is deferred.

        :param limits: what the rate limiter has learned
        :param answers: how many usable answers the slice got
        :param unknown: how many of its requests got none
        :raises PayarcRunStopped: slice after slice got no usable answer
        """
        self.deferrals += 1
        self.fruitless = self.fruitless + 1 if unknown and not answers else 0
        self.limits = limits
        self.left_at = time.time()
        if self.fruitless > MAX_FRUITLESS:
            raise PayarcRunStopped(
                f"PayArc gave no usable answer in {self.fruitless} windows of its rate limit in a row. "
                "Run again when it works: what was sent will be looked up, nothing is sent twice"
            )


class CarriedFact:
    """The fact of the ledger in which one task instance keeps what it carries over."""

    def __init__(self, ledger: Ledger, task: TaskIdentity) -> None:
        self._ledger = ledger
        self._try_number = task.try_number
        identity = json.dumps([task.dag_id, task.run_id, task.task_id, task.map_index], default=str)
        self._name = _PREFIX + hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    def read(self) -> Carried | None:
        """What an earlier slice of this try has left, None if there is none."""
        text = self._ledger.fact(self._name)
        try:
            carried = Carried(**json.loads(text)) if text else None
        except (TypeError, ValueError):  # written by another version
            return None
        return carried if carried is not None and carried.try_number == self._try_number else None

    def write(self, carried: Carried) -> None:
        """Keep this in place of what was kept before."""
        self._ledger.replace_fact(self._name, json.dumps(asdict(carried)))

    def remove(self) -> None:
        """Keep nothing."""
        if self._ledger.fact(self._name) is not None:
            self._ledger.replace_fact(self._name, None)
