"""What a run waits for, for its progress lines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from payarc_provider.sync.wording import clock_time

SHORT = 1.0  # seconds


class Waits:
    """The waits of a run that have begun.

    :param now: seconds, by any clock
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: dict[str, float] = {}

    def begin(self, what: str, seconds: float) -> None:
        """A wait begins, or ends later than was known.

        :param what: continues the word "waiting", with ``{}`` for the time at which the wait ends
        :param seconds: how long it lasts, from now; a short wait is not worth a word
        """
        if seconds >= SHORT:
            self._until[what] = self._now() + seconds

    def end(self, what: str) -> None:
        """The wait is over."""
        self._until.pop(what, None)

    @contextlib.contextmanager
    def during(self, what: str, seconds: float) -> Iterator[None]:
        """A wait that is over when the context is left; see `begin`."""
        self.begin(what, seconds)
        try:
            yield
        finally:
            self.end(what)

    @property
    def text(self) -> str:
        """What follows the word "waiting" at the moment; empty if the run waits for nothing."""
        now = self._now()
        return " and ".join(what.format(clock_time(until - now)) for what, until in self._until.items() if until > now)
