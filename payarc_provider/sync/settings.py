"""What one run is told, and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.ledger import Retry


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's parameters; times in seconds.

    :param timeout: the total deadline of one request
    :param settle: within which PayArc commits a request after the lease check that precedes it
    :param lease: for which a claim holds without being renewed
    :param max_new: how many customers the DAG run may create, None for any number
    :param margin: by how much PayArc's clocks may differ from each other
    :param defer_after: waits for the rate limit from this on end the run with a Deferral; None waits them out
    :param patience: for which an unreachable ledger, or records in other hands that do not move, are waited for
    """

    concurrency: int = 8
    batch_size: int = 500
    reference: bool = True
    retry_rejected: Retry = False
    max_new: int | None = None
    match_existing: Literal["email"] | None = None
    dry_run: bool = False
    defer_after: float | None = None
    timeout: float = 30.0
    settle: float = 60.0
    lease: float = 120.0
    margin: float = 300.0
    ledger_patience: float = 300.0
    held_patience: float = 1800.0
    max_unknown_in_a_row: int = 20
    max_connection_failures_in_a_row: int = 8
    max_pauses: int = 3
    max_tries: int = 3

    def check_counts(self) -> None:
        """
        Refuse what can be seen to be wrong before the connection is known.

        :raises PayarcConfigError: naming the parameter and what to set
        """
        for name in ("concurrency", "batch_size"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise PayarcConfigError(f"{name}: give a whole number from 1")
        if self.max_new is not None and (type(self.max_new) is not int or self.max_new < 0):
            raise PayarcConfigError("max_new: give a whole number, or None for no brake")
        if self.match_existing not in (None, "email"):
            raise PayarcConfigError('match_existing: give "email", or None')
        for name in ("settle", "lease", "defer_after"):
            seconds = getattr(self, name)
            if seconds is None and name == "defer_after":
                continue
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise PayarcConfigError(f"{name}: give seconds, more than 0")

    def check(self) -> None:
        """
        Refuse what would break the guarantee.

        :raises PayarcConfigError: naming the parameter and what to set
        """
        if self.settle < self.timeout:
            raise PayarcConfigError(
                f"settle: {self.settle:g} s is shorter than the connection's timeout of {self.timeout:g} s, so a "
                "request could be "
                f"committed after it is looked up; give at least {self.timeout:g}"
            )
        if self.lease < 1.5 * self.timeout:
            raise PayarcConfigError(
                f"lease: {self.lease:g} s does not cover a request of up to {self.timeout:g} s between renewals; "
                f"give at least {1.5 * self.timeout:g}, or a shorter timeout in the connection"
            )

    @property
    def renew_every(self) -> float:
        """Seconds between renewals: often enough that the lease always covers one more request."""
        return min(self.lease / 3, (self.lease - self.timeout) / 2)
