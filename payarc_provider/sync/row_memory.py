"""What a run remembers of the rows that it has sent and recorded, to notice if the ledger loses them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from payarc_provider.sync.ledger import Evidence

MOST = 10_000
"""How many rows are remembered, so that memory stays constant."""

SECONDS = 300.0
"""For how long a recorded row is compared with the ledger: longer than a failover takes."""


class RowMemory:
    """The latest rows for which this run has sent a request or recorded a customer.

    :param now: seconds, by any clock
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sent: dict[str, Evidence] = {}
        self._recorded: dict[str, tuple[float, Evidence]] = {}

    def note_sent(self, key: str, evidence: Evidence) -> None:
        """A request was sent whose outcome this run has not recorded."""
        self._sent.pop(key, None)
        self._sent[key] = evidence
        _shorten(self._sent)

    def note_recorded(self, key: str, attempt: int, customer_id: str) -> None:
        """A customer was recorded."""
        self._sent.pop(key, None)
        self._recorded.pop(key, None)
        self._recorded[key] = self._now(), Evidence(attempt, customer_id)
        _shorten(self._recorded)

    def all(self) -> dict[str, Evidence]:
        """Key → what its row must show, for the rows of the last minutes."""
        oldest = self._now() - SECONDS
        for key in list(self._recorded):
            if self._recorded[key][0] >= oldest:
                break
            del self._recorded[key]
        return self._sent | {key: known for key, (_, known) in self._recorded.items()}

    def of(self, keys: Collection[str]) -> dict[str, Evidence]:
        """Key → what its row must show, for those of these keys that are remembered."""
        recorded = {key: self._recorded[key][1] for key in keys if key in self._recorded}
        return {key: self._sent[key] for key in keys if key in self._sent} | recorded


def _shorten(entries: dict[str, Any]) -> None:
    if len(entries) > MOST:
        del entries[next(iter(entries))]
