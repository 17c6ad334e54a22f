"""How long the rate limit held requests back, on the wall and not per request: eight that wait a second wait one."""

from __future__ import annotations


class Waits:
    """Adds up waits that may overlap; times in seconds of one clock."""

    def __init__(self) -> None:
        self._total = 0.0
        self._until = float("-inf")

    def told(self, now: float, seconds: float) -> None:
        """Somebody is to wait so long from now on."""
        until = now + seconds
        if until > self._until:
            self._total += until - max(now, self._until)
            self._until = until

    def so_far(self, now: float) -> float:
        """Seconds of waiting until now; what is still ahead does not count."""
        return self._total - max(0.0, self._until - now)
