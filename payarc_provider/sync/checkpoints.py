"""Crash points with names: where a test can stop or kill a run. Free while nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Checkpoint = Literal[
    "before_claim",
    "after_claim",
    "before_send",
    "sending",
    "after_answer",
    "before_record",
    "after_record",
    "before_renewal",
    "after_renewal",
    "before_takeover",
    "after_takeover",
    "in_lookup",
    "before_lookup_record",
    "after_lookup_record",
]

listener: Callable[[str], None] | None = None
"""Called with the name of each point that is reached; only tests set it."""


def reach(name: Checkpoint) -> None:
    """Say that a point is reached. ``sending`` is reached in the request's thread, with the request on its way."""
    if listener is not None:
        listener(name)
