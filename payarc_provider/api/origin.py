"""Tells PayArc's own responses from those of a gateway, a proxy or a firewall in front of it.

PayArc sends the 4xx of this module before it processes a request, or instead of processing it. Something in front of
PayArc may return the same codes at any time, even after the customer was created. So a response counts as PayArc's own
only if it has one of these marks, and otherwise its request has an unknown outcome:

- *PayArc's envelope*: a message with ``status: "error"``, with the response's own ``status_code``, or with ``errors``.
- *A sentence that only PayArc's application writes*: those of its framework, Laravel, about a missing route or model or
  about invalid data, and one about a missing customer.
- *The headers of PayArc's rate limit*, which its application adds to every response, next to a message alone. A gateway
  that answers by itself has no such headers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from payarc_provider.api.http import Response

__all__ = ["is_from_payarc", "read_json", "read_object"]

_QUOTA_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining")
_MAX_SENTENCE = 1000  # characters
_NOT_FOUND = re.compile(
    r"The route \S+ could not be found\.?|No query results for model\b.*|(The )?customer (was )?not found\.?",
    re.DOTALL | re.IGNORECASE,
)
_INVALID = re.compile(r"The given data was invalid\.?")


def is_from_payarc(response: Response) -> bool:
    """Whether a 400, 401, 404, 409, 422 or 429 has the form that PayArc's own responses have."""
    status, body = response.status, read_json(response.text)
    if status == 409 and _is_list_of_texts(body):
        return True
    if not isinstance(body, dict):
        return status == 429 and _has_quota(response.headers, 1)
    message = body.get("message")
    if status == 401:
        return any(str(body.get(name) or "").startswith("Unauthenticated") for name in ("error", "message"))
    if status == 429:
        return _has_quota(response.headers, 1) or message == "Too Many Attempts."
    if not isinstance(message, str):
        return False
    sentence = _NOT_FOUND if status == 404 else _INVALID
    return (
        _is_envelope(body, status)
        or _has_quota(response.headers, len(_QUOTA_HEADERS))
        or (len(message) <= _MAX_SENTENCE and sentence.fullmatch(message) is not None)
    )


def _is_envelope(body: Mapping[str, Any], status: int) -> bool:
    errors = body.get("errors")
    has_errors = isinstance(errors, dict) and bool(errors)
    return body.get("status") == "error" or body.get("status_code") == status or has_errors


def _is_list_of_texts(body: object) -> bool:
    return isinstance(body, list) and bool(body) and all(isinstance(text, str) for text in body)


def _has_quota(headers: Mapping[str, str], needed: int) -> bool:
    """Whether the response has the first ``needed`` headers of PayArc's rate limit, with numbers."""
    values = {name.lower(): value for name, value in headers.items()}
    return all(values.get(name.lower(), "").strip().isdecimal() for name in _QUOTA_HEADERS[:needed])


def read_object(text: str) -> dict[str, Any] | None:
    """A response's body as a JSON object; None if it is anything else."""
    body = read_json(text)
    return body if isinstance(body, dict) else None


def read_json(text: str) -> object:
    """A response's body as JSON; None if it is not JSON, too deeply nested, or holds a number of too many digits."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
