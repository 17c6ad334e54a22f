"""A reporter for tests: it keeps how far the run had come when it ended."""

from __future__ import annotations

from collections import Counter

from payarc_provider.api.tracing import NO_TRACER
from payarc_provider.sync.results import Progress


class Watcher:
    """Keeps the last progress that a run reported."""

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
