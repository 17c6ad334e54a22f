"""Named points at which a test can stop or kill a run. They do nothing unless a test sets a listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Checkpoint = Literal[
    "before_claim",
    "after_claim",
    "before_send",
    "sending",
    "after_response",
    "before_record",
    "after_record",
    "before_renewal",
    "after_renewal",
    "before_takeover",
    "after_takeover",
    "in_lookup",
    "before_lookup_record",
    "after_lookup_record",
    "before_update_claim",
    "after_update_claim",
    "before_update",
    "sending_update",
    "after_update_response",
    "before_write_back",
    "after_write_back",
]

listener: Callable[[str], None] | None = None
"""Called with the name of each point that a run reaches; only tests set it."""


def reach(name: Checkpoint) -> None:
    """Report that the run has reached this point. ``sending`` is reported by the thread that sends the request."""
    if listener is not None:
        listener(name)
