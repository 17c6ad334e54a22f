"""The settings of a run, and the task instance that it belongs to."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from payarc_provider.api.fields import Validation
from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.sources import check_source


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """The task instance that a run belongs to."""

    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int = -1
    try_number: int = 1


_CHOICES = {
    "on_changed": ("report", "update"),
    "on_empty": ("keep", "clear", "reject"),
    "on_conflict": ("overwrite", "keep", "reject"),
    "validation": ("guide", "payarc"),
}


_PLAN = re.compile("plan-[0-9a-f]{32}")


def is_limit(value: object) -> bool:
    """Whether this says how many records are allowed: a number from 0 (int), or a share of all (float)."""
    return 0 <= value <= 1 if isinstance(value, float) else type(value) is int and value >= 0


@dataclass(frozen=True, slots=True)
class Settings:
    """A run's settings, with times in seconds. CreateCustomerOperator documents those that are also its parameters.

    :param source: the name under which the ledger keeps the rows; None for the source's own
    :param write_back: the source's column that receives the ids of customers; None writes none
    :param keep_results: False keeps counts only, so that memory does not grow with the input
    :param retry_rejected: which rejected records to send again: all, none, or those rejected before a moment
    :param defer_after: waits for the rate limit of this length or more end the run with a `Deferral`; None never does
    :param timeout: the total deadline of one request, from the connection
    :param margin: how much the clocks of PayArc's servers may differ
    :param ledger_patience: how long to wait for an unavailable ledger
    :param held_patience: how long to wait, without any progress, for records claimed by other runs
    :param max_unknown_in_a_row: after how many requests in a row without a usable response to pause until a look-up
    :param max_connection_failures_in_a_row: after how many failures per concurrent request to stop the run
    :param max_pauses: how many such pauses in a row, without a usable response in between, a run survives
    :param max_tries: after how many requests without a usable response a run stops sending a record
    """

    key: str | Sequence[str] = "id"
    fields: Mapping[str, str] | None = field(default=None, hash=False)
    source: str | None = None
    partition: tuple[int, int] | None = None
    keep_results: bool = True
    concurrency: int = 8
    batch_size: int = 500
    reference: bool = True
    retry_rejected: bool | datetime.datetime = False
    approved_plan: str | None = None
    max_new: int | float | None = None
    max_changed: int | float | None = None
    min_records: int | None = None
    match_existing: Literal["email"] | None = None
    version: str | None = None
    on_changed: Literal["report", "update"] = "report"
    on_empty: Literal["keep", "clear", "reject"] = "keep"
    on_conflict: Literal["overwrite", "keep", "reject"] = "overwrite"
    validation: Validation = "guide"
    dry_run: bool = False
    write_back: str | None = None
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

    def check_values(self) -> None:
        """Reject values that are wrong for every connection.

        :raises PayarcConfigError: naming the parameter and what to set
        """
        for name in ("concurrency", "batch_size"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise PayarcConfigError(f"{name}: give a whole number from 1")
        self._check_guards()
        if self.source is not None:
            check_source(self.source)
        if self.match_existing not in (None, "email"):
            raise PayarcConfigError('match_existing: give "email", or None')
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise PayarcConfigError(f"{name}: give " + ", ".join(f'"{choice}"' for choice in choices))
        if self.version is not None and not (isinstance(self.version, str) and self.version):
            raise PayarcConfigError('version: give the name of a column, such as version="updated_at"')
        if self.write_back is not None and not (isinstance(self.write_back, str) and self.write_back):
            raise PayarcConfigError('write_back: give the name of a column, such as write_back="payarc_customer_id"')
        for name in ("settle", "lease", "defer_after"):
            seconds = getattr(self, name)
            if seconds is None and name == "defer_after":
                continue
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise PayarcConfigError(f"{name}: give a number of seconds above 0")

    def _check_guards(self) -> None:
        for name in ("max_new", "max_changed"):
            if (most := getattr(self, name)) is not None and not is_limit(most):
                raise PayarcConfigError(f"{name}: give a whole number of records, or a share between 0.0 and 1.0")
        if self.min_records is not None and (type(self.min_records) is not int or self.min_records < 0):
            raise PayarcConfigError("min_records: give a whole number from 0, or None for no limit")
        if self.approved_plan is not None and not _PLAN.fullmatch(str(self.approved_plan)):
            raise PayarcConfigError('approved_plan: give the value of "plan" in the summary of a dry run')

    def check_timing(self, connection: str = "the connection") -> None:
        """Reject a ``settle`` or ``lease`` that is too short for the connection's timeout.

        :param connection: how the error names it
        :raises PayarcConfigError: naming the parameter and what to set
        """
        if self.settle < self.timeout:
            raise PayarcConfigError(
                f"settle: {self.settle:g} s is shorter than the timeout of {connection}, {self.timeout:g} s, so PayArc "
                f"could process a request after it was looked up; give at least {self.timeout:g}"
            )
        if self.lease < 1.5 * self.timeout:
            raise PayarcConfigError(
                f"lease: {self.lease:g} s does not cover a request of up to {self.timeout:g} s between renewals; "
                f"give at least {1.5 * self.timeout:g}, or a shorter timeout in {connection}"
            )

    @property
    def is_guarded(self) -> bool:
        """Whether something has to be decided before the first request, which takes one more reading of the source."""
        return any(one is not None for one in (self.approved_plan, self.max_new, self.max_changed, self.min_records))

    @property
    def renew_every(self) -> float:
        """Seconds between renewals: often enough that the lease always covers one more request."""
        return min(self.lease / 3, (self.lease - self.timeout) / 2)
