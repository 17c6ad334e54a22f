"""A reporter for tests, which keeps the run's progress."""

from __future__ import annotations

from collections import Counter

from payarc_provider.api.tracing import NO_TRACER
from payarc_provider.sync.results import Progress


class Watcher:
    """Keeps the last progress that a run reported, and whether it was deferred."""

    span = staticmethod(NO_TRACER.span)

    def __init__(self) -> None:
        self.end = Progress()
        self.deferred = False

    @property
    def counts(self) -> Counter[str]:
        """The run's counts; see `payarc_provider.sync.results`."""
        return self.end.counts

    def progress(self, progress: Progress) -> None:
        """Keep it."""
        self.end = progress

    def ended(self, progress: Progress, *, deferred: bool) -> None:
        """Keep it."""
        self.end, self.deferred = progress, deferred
