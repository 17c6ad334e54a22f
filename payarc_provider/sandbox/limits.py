"""Rate limits: fixed windows per token and endpoint, as Laravel's throttle keeps them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from email.utils import formatdate

from payarc_provider.sandbox.settings import SandboxSettings


@dataclass(frozen=True, slots=True)
class Quota:
    """Where one request found its window: ``remaining`` counts it already, ``ends_in`` is in seconds."""

    limit: int
    remaining: int
    ends_in: float
    exceeded: bool


class RateWindows:
    """Counts requests. A window opens with its first request; requests that are refused do not count."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def hit(self, token: str, endpoint: str, settings: SandboxSettings, now: float) -> Quota | None:
        """Count one request; None where there is no limit. ``now`` comes from a clock that never jumps."""
        limit = settings.rate_limit
        if limit is None:
            return None
        opened, hits = self._windows.get((token, endpoint), (now, 0))
        if now - opened >= settings.rate_window:
            opened, hits = now, 0
        exceeded = hits >= limit
        hits += not exceeded
        self._windows[token, endpoint] = opened, hits
        return Quota(limit, max(0, limit - hits), opened + settings.rate_window - now, exceeded)

    def clear(self) -> None:
        """Close every window."""
        self._windows.clear()


def quota_headers(quota: Quota | None, settings: SandboxSettings) -> dict[str, str]:
    """What every answer says about the limit."""
    if quota is None or not settings.rate_headers:
        return {}
    return {"X-RateLimit-Limit": str(quota.limit), "X-RateLimit-Remaining": str(quota.remaining)}


def retry_headers(ends_in: float, now: float, settings: SandboxSettings) -> dict[str, str]:
    """What a 429 says besides. ``now`` is PayArc's time in Unix seconds; everything is rounded up."""
    if not settings.rate_headers:
        return {}
    reset = math.ceil(now + ends_in)
    headers = {"X-RateLimit-Reset": str(reset)}
    if settings.rate_limit is not None:
        headers["X-RateLimit-Remaining"] = "0"
    if settings.retry_after == "seconds":
        headers["Retry-After"] = str(max(1, math.ceil(ends_in)))
    elif settings.retry_after == "date":
        headers["Retry-After"] = formatdate(reset, usegmt=True)
    return headers
