"""What a run hands on: ids in input order, refusals, counts."""

from __future__ import annotations

from typing import Any

from payarc_provider.sync.keys import display_key
from payarc_provider.sync.records import Errors, Record
from payarc_provider.sync.states import Status

SHOWN_REASONS = 10


class Results:
    """Collects what the engine reports.

    :param keep: False keeps counts only, so that memory does not grow with the input
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._accepted: list[tuple[int, str, str, Status, bool]] = []
        self._refused: list[tuple[int, str | None, Errors]] = []
        self.refused_count = 0
        self.refused_new = 0
        self.reasons: list[str] = []

    def accepted(self, record: Record, customer_id: str, status: Status, *, changed: bool) -> None:
        """The record has a customer."""
        if self._keep:
            self._accepted.append((record.index, record.key or "", customer_id, status, changed))

    def refused(self, record: Record, errors: Errors, *, new: bool) -> None:
        """The record is refused."""
        self.refused_count += 1
        self.refused_new += new
        if self._keep:
            self._refused.append((record.index, record.key, errors))
        if len(self.reasons) < SHOWN_REASONS:
            words = "; ".join(f"{field} {' '.join(texts)}" for field, texts in errors.items())
            self.reasons.append(f"{display_key(record.key)}: {words}")

    def would_create(self, record: Record) -> None:
        """Counted by the engine; nothing to keep."""

    def customer_ids(self) -> list[str]:
        """The ids of the accepted records, in input order."""
        return [customer_id for _, _, customer_id, _, _ in sorted(self._accepted)]

    def customers(self) -> list[dict[str, Any]]:
        """The accepted records, in input order."""
        return [
            {"key": key, "customer_id": customer_id, "status": str(status), "changed": changed}
            for _, key, customer_id, status, changed in sorted(self._accepted)
        ]

    def rejected(self) -> list[dict[str, Any]]:
        """The refused records, in input order."""
        return [{"key": key, "errors": errors} for _, key, errors in sorted(self._refused, key=lambda one: one[0])]
