"""Words for logs and messages: counts with their nouns, and times."""

from __future__ import annotations

import datetime
from collections.abc import Mapping


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 record``, ``2 records``.

    :param plural: of the noun, unless it only gets an s
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def times(count: int) -> str:
    """``once``, ``twice``, ``3 times``."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def tally(counts: Mapping[str, int]) -> str:
    """``503 (5 times), timeout (twice)``, the most frequent first."""
    return ", ".join(
        f"{name} ({times(count)})" for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count
    )


def clock_time(seconds: float) -> str:
    """The time of day in so many seconds, in UTC: ``09:05:00 UTC``."""
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)).strftime("%H:%M:%S UTC")
