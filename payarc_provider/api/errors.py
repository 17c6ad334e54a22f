"""Maps responses, and missing responses, to errors. No other module decides this.

Three outcomes are never mixed up: rejected (fix the data), not processed (send again later) and unknown (look the
customer up before anything is sent again). Any other response means that the run is misconfigured. When in
doubt, the outcome is unknown.

No error text contains a value, a token, a URL's query or a response body. Of PayArc's own texts, `reasons` shows what
is known to be harmless.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from urllib3 import exceptions as urllib3_errors

from payarc_provider.api.origin import is_from_payarc, read_json, read_object
from payarc_provider.api.reasons import TextFilter
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

__all__ = ["error_for", "transport_failure", "unknown_outcome"]

_MAX_TEXTS = 5  # of a list of texts


def error_for(  # noqa: PLR0911 - one decision
    request: Request, response: Response, tokens: Sequence[str] = (), *, verbatim: bool = False
) -> PayarcError | None:
    """The error that a response means; None for a success that can be read.

    :param tokens: the access tokens that the request was sent with, which no text may show
    :param verbatim: whether to show PayArc's texts as they are; see `reasons`
    """
    method, status, text = request.method, response.status, response.text
    if 200 <= status < 300:
        # A successful DELETE has no body. An unreadable body after any other request leaves its effect unknown.
        if (method == "DELETE" and not text.strip()) or read_object(text) is not None:
            return None
        return unknown_outcome(method, f"PayArc returned {status} with an unreadable body", status=status)
    if status < 200 or status == 408 or status >= 500:
        # The server may have failed before, during or after it processed the request.
        return unknown_outcome(method, f"PayArc returned {status}", status=status)
    if method != "GET" and status in (400, 401, 409, 422, 429) and not is_from_payarc(response):
        # A gateway may return these after PayArc has processed the request.
        return unknown_outcome(method, f"a {status} came back that PayArc itself did not send", status=status)
    if status in (401, 403):
        # The token is checked before the request is processed.
        return _auth_error(status)
    if status == 429:
        # Laravel's throttle runs before the request is processed.
        return _rate_limited(response.retry_after)
    if status == 404 and request.customer_id is not None:
        if is_from_payarc(response):
            return PayarcNotFound(status=status)
        if method != "GET":  # nobody knows what PayArc has done
            return unknown_outcome(method, "a 404 came back that PayArc itself did not send", status=status)
    if status in (400, 409, 422) and is_from_payarc(response):
        message, errors = _read_rejection(text, TextFilter(request.fields or {}, tokens, verbatim=verbatim))
        return PayarcRefused(message or f"PayArc rejected the data ({status})", status=status, errors=errors)
    # A redirect, a 404 or 405 on the collection, or any other 4xx does not come from PayArc's customer API.
    return PayarcUnexpectedAnswer(
        f"the response to {method} is a {status}, which PayArc's customer API does not return: check the "
        "connection's host and environment, and any proxy",
        status=status,
    )


def transport_failure(method: str, exc: BaseException) -> PayarcError:
    """The error for a request without a complete response, from an exception of requests or urllib3.

    Returns `PayarcConnectionFailed` if it is certain that nothing was sent, otherwise `PayarcUnknownOutcome`. Raise it
    outside the ``except`` block: the library's exception carries the request, which contains the token and the record.
    """
    causes = list(_causes(exc))
    kind = type(causes[-1]).__name__
    if any(_failed_before_sending(cause) for cause in causes):
        return PayarcConnectionFailed(
            f"could not connect to {_host(exc)} ({kind}), so nothing was sent: check the connection's host, the "
            "network and any proxy, then try again"
        )
    timed_out = any(isinstance(cause, _TIMEOUTS) for cause in causes)
    return unknown_outcome(method, f"no complete response from {_host(exc)} ({kind})", timed_out=timed_out)


def unknown_outcome(
    method: str, problem: str, *, status: int | None = None, timed_out: bool = False
) -> PayarcUnknownOutcome:
    """The error for a request whose effect is unknown. A GET changes nothing and can be repeated safely."""
    may_have_acted = method != "GET"
    remedy = "nothing was changed: try again"
    if may_have_acted:
        remedy = f"PayArc may have acted on the {method}: look the customer up before you send anything again"
    return PayarcUnknownOutcome(
        f"{problem}; {remedy}", status=status, may_have_acted=may_have_acted, timed_out=timed_out
    )


# urllib3's ProxyError is not included: it also wraps a connection that was reset after the request had been sent.
_NOT_SENT = (
    # No address, no route, not accepted, or not in time; includes NameResolutionError and NewConnectionError.
    urllib3_errors.ConnectTimeoutError,
    requests.ConnectTimeout,
    # The certificate is checked in the handshake, before the first byte of the request.
    ssl.SSLCertVerificationError,
    # The address of the host or of a proxy is invalid.
    urllib3_errors.LocationValueError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
)

_TIMEOUTS = (TimeoutError, requests.Timeout, urllib3_errors.TimeoutError)


def _auth_error(status: int) -> PayarcAuthError:
    if status == 401:
        text = (
            "PayArc does not accept the access token (401): put a valid token into the connection's password. It must "
        )
        text += "belong to the connection's environment and be a merchant's own token, not a partner or agent key"
        return PayarcAuthError(text, status=status)
    text = "PayArc forbids this request (403): make sure that the access token may manage customers, and that no "
    return PayarcAuthError(text + "firewall or proxy blocks the request", status=status)


def _rate_limited(wait: float | None) -> PayarcRateLimited:
    when = "later" if wait is None else f"after {wait:g} seconds"
    return PayarcRateLimited(
        f"PayArc's rate limit is used up (429) and nothing was done: send the request again {when}", retry_after=wait
    )


def _read_rejection(body_text: str, texts: TextFilter) -> tuple[str, dict[str, list[str]]]:
    """The message and the errors by field of PayArc's own rejection, filtered.

    The body is an object with ``message`` and perhaps ``errors`` or, for some 409s, a bare list of texts.
    """
    body = read_json(body_text)
    if isinstance(body, list):
        return texts.text(" ".join(body[:_MAX_TEXTS])), {}
    if not isinstance(body, dict):
        return "", {}
    message, errors = body.get("message"), body.get("errors")
    return texts.text(str(message or "")), texts.errors(errors if isinstance(errors, dict) else {})


def _failed_before_sending(cause: BaseException) -> bool:
    if isinstance(cause, _NOT_SENT):
        return True
    # http.client has no exception class for a proxy that rejects CONNECT, only this text.
    return isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The exception and those it wraps, outermost first. ``__context__`` may belong to an earlier request."""
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
