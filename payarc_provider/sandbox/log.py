"""The log: every POST that arrived and what became of it, and counts of everything else."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Outcome = Literal["open", "created", "replayed", "rejected", "rate_limited", "unauthorized", "not_created"]
"""``open``: being handled, or still to be committed late. ``not_created``: a fault was in the way."""


@dataclass(slots=True)
class Post:
    """One POST to ``/customers``.

    :param sequence: 1, 2, 3… in the order of arrival; a customer's ``created_by_request``
    :param arrived: seconds of this machine's monotonic clock, which its processes share
    :param outcome: what became of it
    :param customer_id: what it created
    :param committed: when, on the same clock
    :param status: of the answer; None while there is none, or if none could be sent
    :param told: whether an answer that bears the customer's id was sent
    :param fault: the kind of the fault that hit it
    """

    sequence: int
    arrived: float
    idempotency_key: str | None
    description: str | None
    merchant: str | None = None
    outcome: Outcome = "open"
    customer_id: str | None = None
    committed: float | None = None
    status: int | None = None
    told: bool = False
    fault: str | None = None

    def created(self, customer_id: str) -> None:
        """It made a customer just now."""
        self.outcome, self.customer_id, self.committed = "created", customer_id, time.monotonic()


class Log:
    """What happened since the start or the last reset.

    :param first: the number of the first POST; a state file may hold customers of earlier ones
    """

    def __init__(self, first: int = 1) -> None:
        self._first = first
        self.posts: list[Post] = []
        self.requests: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.unanswered = 0
        self.rate_limited = 0
        self.connections = 0

    def post(self, idempotency_key: str | None, description: object) -> Post:
        """Note that a POST has arrived."""
        text = description if isinstance(description, str) else None
        post = Post(self._first + len(self.posts), time.monotonic(), idempotency_key, text)
        self.posts.append(post)
        return post

    def answered(self, status: int | None) -> None:
        """Note an answer; None where none could be sent."""
        if status is None:
            self.unanswered += 1
        else:
            self.answers[str(status)] += 1

    def stats(self) -> dict[str, Any]:
        """All counts. ``posts.lost``: POSTs that made a customer, and whose answer did not tell its id."""
        outcomes = Counter(post.outcome for post in self.posts)
        return {
            "requests": dict(self.requests),
            "answers": dict(self.answers),
            "unanswered": self.unanswered,
            "posts": {
                "received": len(self.posts),
                **{outcome: outcomes[outcome] for outcome in get_args(Outcome)},
                "lost": sum(post.outcome == "created" and not post.told for post in self.posts),
            },
            "rate_limited": self.rate_limited,
            "faults": dict(self.faults),
            "connections": self.connections,
        }

    def as_json(self) -> list[dict[str, Any]]:
        """The POSTs in the order of their arrival."""
        return [asdict(post) for post in self.posts]
