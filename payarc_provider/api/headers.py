"""The answer's headers that carry a time or a count.

``Date`` is the server's clock. Times that an answer gives are read against it, so that no two clocks need to agree.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

__all__ = ["count", "date", "retry_after"]

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_UNIX_TIME_FROM = 1e9  # a wait of 30 years: larger numbers are points in time


def date(headers: Mapping[str, str]) -> float | None:
    """The server's clock from ``Date``, in Unix seconds; None where it is missing or unreadable."""
    return _http_date(_get(headers, "Date"))


def count(headers: Mapping[str, str], name: str) -> int | None:
    """A whole number, such as ``X-RateLimit-Remaining``; None where it is missing or unreadable."""
    text = _get(headers, name)
    return int(text) if _NUMBER.fullmatch(text) and "." not in text else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, never negative; None if the answer does not say.

    ``Retry-After`` (seconds or a date) comes before ``X-RateLimit-Reset``.
    ``X-RateLimit-Reset`` is Unix seconds (Laravel's throttle); a small number is taken as seconds to wait.
    """
    asked = _get(headers, "Retry-After")
    if _NUMBER.fullmatch(asked):
        return float(asked)
    until = _http_date(asked)
    if until is None:
        reset = _get(headers, "X-RateLimit-Reset")
        if not _NUMBER.fullmatch(reset):
            return None
        until = float(reset)
        if until < _UNIX_TIME_FROM:
            return until
    here = date(headers)
    return max(0.0, until - (time.time() if here is None else here))


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _get(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if value is None:
        value = next((value for key, value in headers.items() if key.lower() == name.lower()), "")
    return value.strip()
