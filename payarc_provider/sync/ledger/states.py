"""The states of a ledger row."""

from __future__ import annotations

import datetime
from enum import StrEnum

Errors = dict[str, list[str]]
"""Field → why it is rejected."""
Retry = bool | datetime.datetime
"""Which rejected rows are sent again though their data are the same: all, none, or those rejected before a moment."""


class State(StrEnum):
    """The state of a ledger row."""

    PENDING = "pending"
    """A customer is to be created or may have been: while ``sent_after`` is set, the outcome may be unknown."""
    CREATED = "created"
    """The customer exists and the row has its id."""
    REJECTED = "rejected"
    """PayArc or the rules rejected the record. It is sent again when its data changes."""
