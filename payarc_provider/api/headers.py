"""The answer's headers that carry a time or a count.

``Date`` is the server's clock. Times that an answer gives are read against it, so that no two clocks need to agree.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

__all__ = ["count", "date", "reset_in", "retry_after", "retry_in"]

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
    """Seconds to wait, never negative; None if the answer does not say. See `retry_in`."""
    left = retry_in(headers)
    return None if left is None else left[1]


def retry_in(headers: Mapping[str, str]) -> tuple[float, float] | None:
    """Between how many and how many seconds are to be waited; None if the answer does not say.

    ``Retry-After`` (seconds or a date) comes before ``X-RateLimit-Reset``. Whole seconds are taken as rounded up.
    """
    asked = _get(headers, "Retry-After")
    if _NUMBER.fullmatch(asked):
        return max(0.0, float(asked) - 1), float(asked)
    until = _http_date(asked)
    return reset_in(headers) if until is None else _left(headers, until)


def reset_in(headers: Mapping[str, str]) -> tuple[float, float] | None:
    """Between how many and how many seconds the window still lasts, by ``X-RateLimit-Reset``; None if it is not given.

    It is Unix seconds (Laravel's throttle); a small number is taken as seconds from now.
    """
    reset = _get(headers, "X-RateLimit-Reset")
    if not _NUMBER.fullmatch(reset):
        return None
    until = float(reset)
    return (max(0.0, until - 1), until) if until < _UNIX_TIME_FROM else _left(headers, until)


def _left(headers: Mapping[str, str], until: float) -> tuple[float, float]:
    here = date(headers)
    left = until - (time.time() if here is None else here)
    return max(0.0, left - 2), max(0.0, left)  # both moments are whole seconds


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
