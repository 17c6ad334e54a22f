"""What an answer, or the lack of one, means: one error each, chosen in one place.

Three kinds are never mixed up: refused (the data), not processed (send later), unknown (look it up before anything is
sent again). What fits none of them says that the run is set up wrongly. When in doubt, it is unknown.

No text holds a value, a token, a URL's query or a body: only statuses, remedies and PayArc's own words with
everything struck out that it may have quoted.
"""

from __future__ import annotations

import html
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from urllib3 import exceptions as urllib3_errors

from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConnectionFailed,
    PayarcError,
    PayarcNotFound,
    PayarcRateLimited,
    PayarcRefused,
    PayarcUnexpectedAnswer,
    PayarcUnknownOutcome,
)

if TYPE_CHECKING:
    from payarc_provider.api.http import Request, Response

__all__ = ["error_for", "read_object", "strike", "transport_failure", "unknown_outcome"]

_LONGEST_TEXT = 300
_MOST_FIELDS = 20
_MOST_TEXTS = 5


def error_for(request: Request, response: Response) -> PayarcError | None:  # noqa: PLR0911 - one decision
    """The error that a response stands for; None for a success that can be read."""
    method, status, text = request.method, response.status, response.text
    if 200 <= status < 300:
        # Deleting answers without a body. Any other success that cannot be read says nothing about what was done.
        if (method == "DELETE" and not text.strip()) or read_object(text) is not None:
            return None
        return unknown_outcome(method, f"PayArc answered {status} with a body that cannot be read", status=status)
    if status < 200 or status == 408 or status >= 500:
        # The server gave up somewhere on the way: before, during or after the work.
        return unknown_outcome(method, f"PayArc answered {status}", status=status)
    if status in (401, 403):
        # Checked before the request is handled, for every request alike.
        return _not_accepted(status)
    if status == 429:
        # Laravel's throttle refuses before the request is handled.
        return _rate_limited(response.retry_after)
    if status == 404 and request.customer_id is not None:
        return PayarcNotFound(status=status)
    if status in (400, 409, 422):
        # A refusal counts as PayArc's only in PayArc's shape: a proxy or a firewall on the way answers 400 as well.
        words = _payarcs_words(text, request.fields or {})
        if words is not None:
            message, errors = words
            return PayarcRefused(message or f"PayArc refused the data ({status})", status=status, errors=errors)
    # A redirect, 404 or 405 on the collection, a foreign 4xx: this is not the API, or not the way to it.
    return PayarcUnexpectedAnswer(
        f"the server answered {method} with {status}, which is not an answer of PayArc's customer API: check the "
        "connection's host and environment, and any proxy on the way",
        status=status,
    )


def transport_failure(method: str, exc: BaseException) -> PayarcError:
    """The error for a request that got no complete answer, from what requests or urllib3 raised.

    `PayarcConnectionFailed` only where it is certain that nothing was sent; everything else is `PayarcUnknownOutcome`.
    Raise it ``from None``: what requests raised carries the request, and with it the token and the record.
    """
    causes = list(_causes(exc))
    kind = type(causes[-1]).__name__
    if any(_before_sending(cause) for cause in causes):
        return PayarcConnectionFailed(
            f"could not connect to {_host(exc)} ({kind}), nothing was sent: check the connection's host, the network "
            "and any proxy, then try again"
        )
    return unknown_outcome(method, f"no complete answer from {_host(exc)} ({kind})")


def unknown_outcome(method: str, what: str, *, status: int | None = None) -> PayarcUnknownOutcome:
    """The error for a request whose effect is not known; reading changes nothing, so a GET may simply be repeated."""
    if method == "GET":
        return PayarcUnknownOutcome(f"{what}: nothing was changed, try again", status=status, may_have_acted=False)
    return PayarcUnknownOutcome(
        f"{what}: PayArc may have acted on the {method}, look the customer up before anything is sent again",
        status=status,
    )


def read_object(body_text: str) -> dict[str, Any] | None:
    """The body as a JSON object; None where it is anything else."""
    body = _read_json(body_text)
    return body if isinstance(body, dict) else None


def strike(text: str, sent: Mapping[str, str]) -> str:
    """PayArc's words without what they may quote, in one line of at most 300 characters.

    Struck out are the values sent, everything in quotes, email addresses and five or more digits in a row.
    """
    text = html.unescape(text)
    if re.search(r"<[a-zA-Z!/]", text):
        return "(a text with markup, left out)"
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    for value in sorted((" ".join(value.split()) for value in sent.values()), key=len, reverse=True):
        if value:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "…", text, flags=re.IGNORECASE)
    text = _QUOTABLE.sub("…", text)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


_QUOTABLE = re.compile(
    r"""
      "[^"]*" | “[^”]*” | `[^`]*`
    | (?<!\w)'.*?'(?!\w)               # not the apostrophe of "isn't", nor that inside 'O'Brien'
    | ‘.*?’(?!\w)
    | [^\s@"'<>,;:()]+@[^\s@"'<>,;()]+
    | \+?[0-9](?:[ .()/-]{0,2}[0-9]){4,}   # also in groups, as a telephone number is written
    """,
    re.VERBOSE,
)


# urllib3's ProxyError is not among them: it also wraps a connection that was reset after the request had gone out.
_NOT_SENT = (
    # No address, no route, refused, or too slow to accept; NameResolutionError and NewConnectionError are kinds of it.
    urllib3_errors.ConnectTimeoutError,
    requests.ConnectTimeout,
    # The certificate is checked in the handshake, before the first byte of the request.
    ssl.SSLCertVerificationError,
    # An address, of the host or of a proxy, that no connection can be made from.
    urllib3_errors.LocationValueError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
)


def _not_accepted(status: int) -> PayarcAuthError:
    if status == 401:
        text = (
            "PayArc does not accept the access token (401): put a valid token into the connection's password, and see "
        )
        return PayarcAuthError(text + "that environment (test or live) is the one it was made in", status=status)
    text = "PayArc forbids this request (403): see that the access token may manage customers, and that no firewall "
    return PayarcAuthError(text + "or proxy on the way refuses it", status=status)


def _rate_limited(wait: float | None) -> PayarcRateLimited:
    when = "later" if wait is None else f"after {wait:g} seconds"
    return PayarcRateLimited(
        f"PayArc's rate limit is used up (429), nothing was done: send the request again {when}", retry_after=wait
    )


def _payarcs_words(body_text: str, sent: Mapping[str, str]) -> tuple[str, dict[str, list[str]]] | None:
    """PayArc's message and errors by field, cleared; None where the body has none of the shapes observed.

    Those are an envelope (``message`` with ``status: "error"`` or ``status_code``, or ``errors`` by field) and, for
    some 409s, a bare list of texts.
    """
    body = _read_json(body_text)
    if isinstance(body, list) and body and all(isinstance(text, str) for text in body):
        return strike(" ".join(body[:_MOST_TEXTS]), sent), {}
    if not isinstance(body, dict):
        return None
    message, errors = body.get("message"), body.get("errors")
    by_field = errors if isinstance(errors, dict) else {}
    enveloped = isinstance(message, str) and (body.get("status") == "error" or "status_code" in body)
    if not (enveloped or by_field):
        return None
    cleared = {
        strike(str(field), {})[:64]: [strike(str(text), sent) for text in _as_list(texts)[:_MOST_TEXTS]]
        for field, texts in list(by_field.items())[:_MOST_FIELDS]
    }
    return strike(message, sent) if isinstance(message, str) else "", cleared


def _as_list(texts: object) -> list[object]:
    return texts if isinstance(texts, list) else [texts]


def _read_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _before_sending(cause: BaseException) -> bool:
    if isinstance(cause, _NOT_SENT):
        return True
    # http.client's words for a proxy that refuses CONNECT; there is no class for it.
    return isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The error and those it wraps, outermost first. Not ``__context__``: that may be of an earlier request."""
    inner: object = exc
    for _ in range(8):
        if not isinstance(inner, BaseException):
            return
        yield inner
        wrapped = (getattr(inner, "reason", None), getattr(inner, "original_error", None), *reversed(inner.args))
        inner = next((error for error in wrapped if isinstance(error, BaseException)), None)


def _host(exc: BaseException) -> str:
    request = getattr(exc, "request", None)
    return urlsplit(getattr(request, "url", None) or "").hostname or "PayArc"
