"""A claimed record on its way, and the gate through which its request must go."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from payarc_provider.sync.records import Record
from payarc_provider.sync.states import LeaseTooShort


@dataclass(slots=True)
class Claim:
    """A row that this attempt owns, with the record to be sent for it.

    :param attempt: the row's attempt number, committed before sending
    :param reference: the code that its description carries, None where there is no room or it is turned off
    :param lease_end: this process's clock at which the lease is over, reckoned from before it was asked for
    :param open: whether the request was handed to the HTTP library and may have created a customer
    :param checked_at: this process's clock at the last lease check that let a request out
    """

    record: Record
    attempt: int
    reference: str | None
    lease_end: float
    open: bool = False
    checked_at: float = 0.0
    lost: bool = False
    _gate: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def key(self) -> str:
        """The record's key."""
        return self.record.key or ""

    def holds(self, now: float) -> bool:
        """Whether nobody else can have had the row since it was claimed."""
        return not self.lost and now < self.lease_end

    def let_out(self, now: float, deadline: float) -> None:
        """Pass only if the lease covers the whole of the request.

        :param deadline: the request's total deadline in seconds
        :raises LeaseTooShort: if not; nothing was sent
        """
        with self._gate:
            if self.lost or self.lease_end - now < deadline:
                raise LeaseTooShort
            self.checked_at = now
            self.open = True

    def close_gate(self) -> bool:
        """Let nothing out any more; returns whether something that was let out may have created a customer."""
        with self._gate:
            self.lost = True
            return self.open
