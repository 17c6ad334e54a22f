"""A line every ten seconds, and one at the end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from payarc_provider.sync.ports import Clock

EVERY_SECONDS = 10.0


class Progress:
    """Tells how a run is getting on.

    :param read: how many records have been read so far
    :param total: how many there are, where it is known
    :param also: called with each line, for whoever else is to be told
    """

    def __init__(
        self,
        clock: Clock,
        log: logging.Logger,
        counts: Counter[str],
        read: Callable[[], int],
        total: int | None,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._log = log
        self._counts = counts
        self._read = read
        self._total = total
        self._also = also
        self._started = clock.now()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock.now() - self._started

    def done(self) -> int:
        """Records that are finished with."""
        return sum(
            self._counts[name] for name in ("created", "adopted", "known", "rejected", "would_create", "pending")
        )

    async def tell(self) -> None:
        """A line every ten seconds, for ever."""
        while True:
            await self._clock.sleep(EVERY_SECONDS)
            self._log.info("%s", self.line())
            self._also()

    def line(self) -> str:
        """Where the run is: counts, rate, and time left where the total is known."""
        done, seconds = self.done(), max(self.seconds, 0.001)
        of = f" of {self._total}" if self._total is not None else ""
        left = ""
        if self._total is not None and 0 < done < self._total:
            left = f", about {_duration((self._total - done) * seconds / done)} left"
        return f"{done}{of} records: {self.outcome()}; {done / seconds:.1f}/s{left}"

    def outcome(self) -> str:
        """The counts in words."""
        counts = self._counts
        names = ["created", "adopted", "known", "rejected", "would_create", "pending"]
        always = {"created", "known", "rejected"}
        words = [f"{counts[name]} {name.replace('_', ' ')}" for name in names if counts[name] or name in always]
        return ", ".join(words)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
