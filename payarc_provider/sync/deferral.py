"""Giving the worker slot back: what ends a slice of a run, and what the next slice must know.

A run that is deferred is cut into slices. Each one releases every row it holds and leaves a note in the ledger. The
next one reads the whole input again, which costs no request for known records. The note carries counts and speed only.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.ledger import Ledger

MAX_FRUITLESS = 3
_PREFIX = "deferred:"


class Deferral(PayarcRunStopped):
    """Nothing can be sent for a while: the run has let go of everything and is to go on later.

    :param seconds: how long nothing can be sent
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"PayArc's rate limit lets nothing through for {seconds:.0f} s")
        self.seconds = seconds


@dataclass(slots=True)
class Note:
    """What a slice leaves to the next one of the same try.

    :param try_number: of the task; another try does not use the note
    :param source: where the records come from, and by which key; a run over another source does not use the note
    :param began: the database's clock when the first slice began
    :param started: this machine's clock then, Unix seconds
    :param counts: requests and the like, of all slices so far
    :param deferrals: how often the slot has been given back
    :param fruitless: how many slices in a row got no usable answer at all
    :param met: records that an earlier slice found known or rejected, and that its metrics have counted
    :param limits: what the rate limiter has learnt, and ``left_at``, Unix seconds
    """

    try_number: int
    source: str
    began: str
    started: float
    counts: dict[str, int] = field(default_factory=dict)
    deferrals: int = 0
    fruitless: int = 0
    limits: dict[str, Any] = field(default_factory=dict)
    left_at: float = 0.0
    met: dict[str, int] = field(default_factory=dict)

    def add(self, counts: dict[str, int]) -> None:
        """Count what a slice did."""
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def meet(self, met: Mapping[str, int]) -> None:
        """Remember what a slice found known or rejected; the next one finds it again."""
        for name, number in met.items():
            self.met[name] = max(self.met.get(name, 0), number)

    def leave(self, *, answers: int, unknown: int) -> None:
        """
        The slice ends here.

        :param answers: how many usable answers it got
        :param unknown: how many requests got none
        :raises PayarcRunStopped: when slice after slice gets nothing but unusable answers
        """
        self.deferrals += 1
        self.fruitless = self.fruitless + 1 if unknown and not answers else 0
        self.left_at = time.time()
        if self.fruitless > MAX_FRUITLESS:
            raise PayarcRunStopped(
                f"PayArc has given no usable answer in {self.fruitless} windows of its rate limit in a row: run again "
                "when it works; what was sent will be looked up, and nothing is sent twice"
            )


class Notes:
    """The note of one task instance, kept in the ledger.

    :param task: what tells it from all others: the DAG, its run, the task, its map index
    """

    def __init__(self, ledger: Ledger, task: Sequence[object]) -> None:
        self._ledger = ledger
        self._name = _PREFIX + hashlib.blake2b(json.dumps([*task], default=str).encode(), digest_size=16).hexdigest()

    def read(self, try_number: int, source: str) -> Note | None:
        """The note that this try of this task has left for this source, if there is one."""
        text = self._ledger.fact(self._name)
        try:
            note = Note(**json.loads(text)) if text else None
        except (TypeError, ValueError):  # of another version
            return None
        return note if note is not None and (note.try_number, note.source) == (try_number, source) else None

    def write(self, note: Note) -> None:
        """Leave a note, in place of an earlier one."""
        self._ledger.replace_fact(self._name, json.dumps(asdict(note)))

    def remove(self) -> None:
        """There is nothing more to go on with."""
        if self._ledger.fact(self._name) is not None:
            self._ledger.replace_fact(self._name, None)
