"""What a run reports: ids in input order, rejections, counts and progress.

The counts, by name:

- records: ``created``, ``adopted``, ``updated``, ``known``, ``rejected``; ``changed`` (accepted with data that differs
  from what PayArc has); ``stale`` (of these, the data is older than PayArc's); ``altered`` (PayArc has shown other
  values than were sent); ``conflicts`` (edited at PayArc); ``other_source`` (accepted with a row of another source);
  ``rejected_new`` (no other run reported the same rejection before); ``erased`` (rejected because their keys are
  erased); in dry runs ``would_create`` (and of these ``without_email``), ``would_update``, ``pending``
- recorded by this run, and not counted again by a retry: ``recorded_created``, ``recorded_adopted``,
  ``recorded_updated``, ``recorded_rejected``; and ``known_rejected``, rejections that it only read from the ledger
- ``recorded_for_others``: of these, customers created for records of other runs, which a look-up has found
- ``written_back`` (rows of the source that received the id of their customer)
- requests: ``unknown`` (no usable response), ``rate_limited`` (429), ``found`` (customers found by a look-up)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from payarc_provider.api.tracing import NO_TRACER, Tracer
from payarc_provider.exceptions import PayarcGuardStopped
from payarc_provider.sync.records import Errors, Record
from payarc_provider.sync.rejections import Rejections

SHOWN_REASONS = 10
SUMMARY = (
    "created",
    "adopted",
    "updated",
    "known",
    "changed",
    "stale",
    "altered",
    "conflicts",
    "rejected",
    "rejected_new",
    "erased",
)


class Status(StrEnum):
    """How an accepted record got its customer."""

    CREATED = "created"
    """Created by this task in this DAG run, in this try or an earlier one."""
    ADOPTED = "adopted"
    """PayArc already had the customer, and ``match_existing`` recognized it."""
    UPDATED = "updated"
    """Its customer was changed by this task in this DAG run, in this try or an earlier one."""
    KNOWN = "known"
    """The ledger had the id from another run or task."""


def status_of_this_task(matched_by: str | None, *, was_updated: bool) -> Status:
    """The status of a record whose row this task wrote in this DAG run."""
    if was_updated:
        return Status.UPDATED
    return Status.ADOPTED if matched_by == "email" else Status.CREATED


class ResultSink(Protocol):
    """Receives the result of each record, in any order."""

    def accept(self, record: Record, customer_id: str, status: Status, *, changed: bool, stale: bool = False) -> None:
        """The record has a customer.

        :param changed: its data differs from what PayArc has
        :param stale: PayArc has newer data
        """

    def reject(self, record: Record, errors: Errors, *, new: bool) -> None:
        """The record is rejected; ``new``: no other run reported the same rejection before."""


@dataclass
class Progress:
    """How far a run has come; its values change while the run goes on.

    :param counts: described in this module's docstring
    :param records_read: records read from the source so far
    :param total: records in the source; None if unknown in advance
    :param repeated: records skipped because they repeat an earlier record exactly
    :param seconds: seconds since the run started
    :param requests: requests sent, by HTTP method
    :param problems: what came instead of usable responses, such as ``503`` or ``timeout``, and how often
    :param waiting: what follows the word "waiting": for what and until when; empty if the run waits for nothing
    :param rate_limit_wait: seconds for which the rate limit has held requests back
    :param columns: PayArc field → source column, for the columns that are sent
    :param lookalikes: source column that is not sent → the PayArc field whose name it resembles
    :param personal_keys: how many keys look like personal data, by its kind, such as ``email address``
    """

    counts: Counter[str] = field(default_factory=Counter)
    records_read: int = 0
    total: int | None = None
    repeated: int = 0
    seconds: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    waiting: str = ""
    rate_limit_wait: float = 0.0
    columns: Mapping[str, str] = field(default_factory=dict)
    lookalikes: Mapping[str, str] = field(default_factory=dict)
    personal_keys: Mapping[str, int] = field(default_factory=dict)

    @property
    def records_done(self) -> int:
        """Records whose result is known."""
        names = ("created", "adopted", "updated", "known", "rejected", "would_create", "would_update", "pending")
        return sum(self.counts[name] for name in names)


class Results:
    """Collects the results of a run.

    :param keep: False keeps counts only, so that memory does not grow with the input
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._accepted: list[tuple[int, str, str, Status, bool, bool]] = []
        self._rejected: list[tuple[int, str | None, Errors]] = []
        self.summary: dict[str, Any] = {}  #: the XCom ``summary``; filled when the run has succeeded
        self.rejections = Rejections()  #: the rejected records by reason, for a log
        self.plan: list[dict[str, Any]] = []  #: the XCom ``plan``; filled by a dry run
        self.refusal: PayarcGuardStopped | None = None  #: by a dry run: why a run would stop before its first request

    def accept(self, record: Record, customer_id: str, status: Status, *, changed: bool, stale: bool = False) -> None:
        """The record has a customer."""
        if self._keep:
            self._accepted.append((record.index, record.key or "", customer_id, status, changed, stale))

    def reject(self, record: Record, errors: Errors, *, new: bool) -> None:
        """The record is rejected."""
        if self._keep:
            self._rejected.append((record.index, record.key, errors))
        self.rejections.add(errors, record.key)

    def customer_ids(self) -> list[str]:
        """The ids of the accepted records, in input order."""
        return [customer_id for _, _, customer_id, *_ in sorted(self._accepted)]

    def customers(self) -> list[dict[str, Any]]:
        """The accepted records, in input order."""
        return [
            {"key": key, "customer_id": customer_id, "status": str(status), "changed": changed}
            | ({"stale": True} if stale else {})
            for _, key, customer_id, status, changed, stale in sorted(self._accepted)
        ]

    def rejected(self) -> list[dict[str, Any]]:
        """The rejected records, in input order."""
        return [
            {"key": key, "errors": errors}
            for _, key, errors in sorted(self._rejected, key=lambda rejected: rejected[0])
        ]

    def summarize(self, progress: Progress, requests: Mapping[str, int], seconds: float, *, dry_run: bool) -> None:
        """Fill ``summary``.

        :param requests: requests by kind and deferrals, in all slices of the run
        :param seconds: seconds since the first slice started
        """
        counts = progress.counts
        self.summary = {"records": progress.records_read - progress.repeated}
        for name in SUMMARY:
            self.summary[name] = counts[name]
        self.summary["repeated"] = progress.repeated
        self.summary["reasons"] = [str(group) for group in self.rejections.groups()[:SHOWN_REASONS]]
        if dry_run:
            dry = ("would_create", "without_email", "would_update", "pending")
            self.summary |= {"dry_run": True} | {name: counts[name] for name in dry}
        self.summary |= {**requests, "seconds": round(seconds, 3)}


class Reporter(Tracer, Protocol):
    """Reports a run in logs, metrics and traces. Must not raise, and never receives a record's values."""

    def progress(self, progress: Progress) -> None:
        """Called every ten seconds."""

    def ended(self, progress: Progress, *, deferred: bool) -> None:
        """Called once, however the run ends.

        :param deferred: whether the run gave up its worker slot and will resume, reading its input again
        """


class _SilentReporter:
    span = NO_TRACER.span

    def progress(self, progress: Progress) -> None: ...

    def ended(self, progress: Progress, *, deferred: bool) -> None: ...


SILENT: Reporter = _SilentReporter()
