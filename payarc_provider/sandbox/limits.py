"""Rate limits: fixed windows that open with their first request, like those of Laravel's throttle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from email.utils import formatdate

from payarc_provider.sandbox.settings import SandboxSettings


@dataclass(frozen=True, slots=True)
class Quota:
    """The state of a window after one request; ``remaining`` already counts it, and ``ends_in`` is in seconds."""

    limit: int
    remaining: int
    ends_in: float
    exceeded: bool


class RateWindows:
    """Counts requests. A window opens with its first request; requests over the limit do not count."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, ...], tuple[float, int]] = {}

    def hit(self, merchant: str, token: str, endpoint: str, settings: SandboxSettings, now: float) -> Quota | None:
        """Count one request; None where there is no limit. ``now`` comes from a clock that never jumps."""
        limit = settings.rate_limit
        if limit is None:
            return None
        counted = ("user", merchant) if settings.rate_limit_per == "user" else ("endpoint", token, endpoint)
        opened, hits = self._windows.get(counted, (now, 0))
        if now - opened >= settings.rate_window:
            opened, hits = now, 0
        exceeded = hits >= limit
        hits += not exceeded
        self._windows[counted] = opened, hits
        return Quota(limit, max(0, limit - hits), opened + settings.rate_window - now, exceeded)


def quota_headers(quota: Quota | None, settings: SandboxSettings) -> dict[str, str]:
    """The headers about the limit that every answer carries."""
    if quota is None or not settings.rate_headers:
        return {}
    return {"X-RateLimit-Limit": str(quota.limit), "X-RateLimit-Remaining": str(quota.remaining)}


def retry_headers(ends_in: float, now: float, settings: SandboxSettings) -> dict[str, str]:
    """The further headers of a 429. ``now`` is PayArc's time in Unix seconds; times are rounded up to whole seconds."""
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
