"""The rate limit: how many requests, counted for each endpoint or for all together, in how long a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from payarc_provider.probe.findings import Certainty, Finding
from payarc_provider.probe.session import Seen

TOPIC = "Rate limit"
_CREATE = "POST /customers"
_RECORDS = 100_000
_SCOPES = {
    True: "counted for each endpoint",
    False: "counted for all endpoints together",
    None: "counted in a way that was not found out",
}
_NO_HEADERS = {"rate_headers": False}
_BLIND = "Without headers, a run sends as fast as concurrency allows until it gets a 429."


def limit_finding(seen: Sequence[Seen]) -> Finding:
    """What the responses show of the rate limit."""
    headers = any(one.limit for one in seen)
    limit, apart, certainty = _by_headers(seen) if headers else _by_429(seen)
    if limit is None:
        return Finding(
            TOPIC, f"no rate-limit headers, and no 429 for {len(seen)} requests", "unknown", _BLIND, _NO_HEADERS
        )
    window = _window(seen, apart)
    found = f"{limit} requests {f'in about {window} s' if window else 'per window'}, {_SCOPES[apart]}"
    settings: dict[str, Any] = {"rate_limit": limit, **({} if headers else _NO_HEADERS)}
    if apart is not None:
        settings["rate_limit_per"] = "endpoint" if apart else "user"
    if window:
        settings["rate_window"] = window
    meaning = _meaning(limit, window, apart) + ("" if headers else f" {_BLIND}")
    return Finding(TOPIC, found, certainty, meaning, settings)


def _meaning(limit: int, window: int | None, apart: bool | None) -> str:
    hours = _RECORDS / limit * (window or 60) / 3600
    condition = "" if window else " if a window is a minute, as PayArc's guide says"
    text = f"Creating {_RECORDS:,} customers takes at least {hours:.1f} hours{condition}."
    if apart:
        return f"{text} Look-ups and updates have limits of their own."
    if apart is None:
        return text
    return f"{text} Look-ups, updates and all other programs of this user count towards the same limit."


def _by_headers(seen: Sequence[Seen]) -> tuple[int | None, bool | None, Certainty]:
    """The limit, whether each endpoint has its own, and how sure that is, by the headers of all responses."""
    limits = {one.endpoint: one.limit for one in seen if one.limit}
    limit = limits.get(_CREATE) or next(iter(limits.values()))
    together = apart = 0
    own: dict[str, int] = {}
    last: int | None = None
    for one in seen:
        if one.limit is None or one.remaining is None or not one.counted:
            continue
        used = one.limit - one.remaining
        expected = own.get(one.endpoint, 0) + 1
        if last is not None and last + 1 != expected:  # others may use the same window, so it may be more
            together += used == last + 1 or (used > last and last + 1 > expected)
            apart += used == expected
        own[one.endpoint] = last = used
    votes = sorted((together, apart))
    if len(set(limits.values())) > 1:
        return limit, True, "certain"
    if votes[1] < 2 or votes[0] * 2 > votes[1]:
        return limit, None, "likely"
    return limit, apart > together, "certain" if votes[0] * 5 <= votes[1] and votes[1] > 4 else "likely"


def _by_429(seen: Sequence[Seen]) -> tuple[int | None, bool | None, Certainty]:
    """The same by the first 429, where no response has headers."""
    first = next((place for place, one in enumerate(seen) if not one.counted), None)
    if first is None:
        return None, None, "unknown"
    before = seen[:first]
    other = seen[first + 1] if first + 1 < len(seen) and seen[first + 1].endpoint != seen[first].endpoint else None
    apart = other.counted if other is not None else None
    count = sum(one.endpoint == seen[first].endpoint for one in before) if apart else len(before)
    return (count or None), apart, "likely"


def _window(seen: Sequence[Seen], apart: bool | None) -> int | None:
    """Whole seconds that a window lasts: from its first request to the end that a 429 states."""
    for place, one in enumerate(seen):
        if one.counted or one.left is None:
            continue
        window = [one_before for one_before in seen[:place] if not apart or one_before.endpoint == one.endpoint]
        opened = next(
            (each for each in reversed(window) if each.counted and each.limit == (each.remaining or 0) + 1), None
        )
        if opened is None and window and not any(each.limit for each in window):
            opened = window[0]
        if opened is not None:
            return math.floor(max(0.0, one.sent_at + one.left[0] - opened.received_at) + 1e-6) + 1
    return None
