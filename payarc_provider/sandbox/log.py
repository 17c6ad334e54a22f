"""The log: every POST that arrived and its outcome, and counts of everything else."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

PostOutcome = Literal[
    "open", "created", "merged", "replayed", "rejected", "rate_limited", "unauthorized", "not_created"
]
"""``open``: still being handled, or to be committed late. ``merged``: the response shows an
older customer. ``not_created``: a fault prevented it."""


@dataclass(slots=True)
class Post:
    """One POST to ``/customers``.

    :param sequence: 1, 2, 3… in the order of arrival; a customer's ``created_by_request``
    :param arrived: seconds of the monotonic clock, which all processes of this machine share
    :param outcome: what became of it
    :param customer_id: the customer that it created
    :param committed: when it created the customer, by the same clock
    :param status: the status of the response; None as long as none was sent
    :param id_sent: whether a response with the id of the new customer was sent
    :param fault: the kind of the fault that hit it
    """

    sequence: int
    arrived: float
    idempotency_key: str | None
    description: str | None
    merchant: str | None = None
    outcome: PostOutcome = "open"
    customer_id: str | None = None
    committed: float | None = None
    status: int | None = None
    id_sent: bool = False
    fault: str | None = None

    def created(self, customer_id: str) -> None:
        """Note that it has just created a customer."""
        self.outcome, self.customer_id, self.committed = "created", customer_id, time.monotonic()


class Log:
    """What happened since the start or the last reset.

    :param first: the number of the first POST; a state file may contain customers of earlier ones
    """

    def __init__(self, first: int = 1) -> None:
        self._first = first
        self.posts: list[Post] = []
        self.requests: Counter[str] = Counter()
        self.responses: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.unanswered = 0
        self.rate_limited = 0
        self.connections = 0

    def post(self, idempotency_key: str | None, description: object) -> Post:
        """Log a POST that has arrived."""
        text = description if isinstance(description, str) else None
        post = Post(self._first + len(self.posts), time.monotonic(), idempotency_key, text)
        self.posts.append(post)
        return post

    def response(self, status: int | None) -> None:
        """Count a response; None if none could be sent."""
        if status is None:
            self.unanswered += 1
        else:
            self.responses[str(status)] += 1

    def stats(self) -> dict[str, Any]:
        """All counts. ``posts.lost``: POSTs that created a customer whose id no response has reported."""
        outcomes = Counter(post.outcome for post in self.posts)
        return {
            "requests": dict(self.requests),
            "responses": dict(self.responses),
            "unanswered": self.unanswered,
            "posts": {
                "received": len(self.posts),
                **{outcome: outcomes[outcome] for outcome in get_args(PostOutcome)},
                "lost": sum(post.outcome == "created" and not post.id_sent for post in self.posts),
            },
            "rate_limited": self.rate_limited,
            "faults": dict(self.faults),
            "connections": self.connections,
        }

    def as_json(self) -> list[dict[str, Any]]:
        """The POSTs in the order of arrival."""
        return [asdict(post) for post in self.posts]
