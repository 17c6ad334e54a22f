"""What can be read off a customer object, whichever of its two shapes PayArc sends.

The guide shows ``id``, and ``created_at`` as text without a zone; observed answers have ``customer_id`` and Unix
seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from payarc_provider.exceptions import PayarcConfigError

__all__ = ["UNKNOWN_ZONE", "created_between", "customer_id", "path_id", "strip_prefix"]

#: Seconds either way by which a time without a zone may be off: zones reach from UTC-12 to UTC+14.
UNKNOWN_ZONE = 14 * 3600.0

_PATH_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNIX_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)


def customer_id(customer: Mapping[str, object]) -> str | None:
    """The customer's id without ``cus_``: from ``customer_id``, else from ``id``; None where neither holds one."""
    for name in ("customer_id", "id"):
        value = customer.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            found = strip_prefix(str(value))
            if found:
                return found
    return None


def strip_prefix(customer_id: str) -> str:
    """The id as PayArc's API takes it: PayArc's SDKs show it with ``cus_`` before it (observed)."""
    return customer_id.strip().removeprefix("cus_")


def path_id(customer_id: str) -> str:
    """The id, fit to stand in a URL's path; ``cus_`` is stripped.

    :raises PayarcConfigError: it is not a customer id, so no request is made with it
    """
    found = strip_prefix(customer_id) if isinstance(customer_id, str) else ""
    if not _PATH_ID.fullmatch(found):
        raise PayarcConfigError(
            "not a PayArc customer id (1 to 64 letters, digits, - or _): give the customer_id that PayArc returned"
        )
    return found


def created_between(customer: Mapping[str, object]) -> tuple[float, float] | None:
    """Between which two Unix times, in seconds, the customer was created; None where ``created_at`` cannot be read.

    Numbers and texts with a zone are exact, and both ends are the same. Text without a zone may mean any: it counts as
    UTC, `UNKNOWN_ZONE` either way.
    """
    value = customer.get("created_at")
    if isinstance(value, str):
        text = value.strip()
        return _from_number(float(text)) if _UNIX_SECONDS.fullmatch(text) else _from_iso(text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_number(value)
    return None


def _from_number(value: float) -> tuple[float, float] | None:
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return (seconds, seconds) if math.isfinite(seconds) else None


def _from_iso(text: str) -> tuple[float, float] | None:
    if ":" not in text:
        return None  # a day alone is no moment
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return _from_number(moment.timestamp())
        seconds = moment.replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds - UNKNOWN_ZONE, seconds + UNKNOWN_ZONE
