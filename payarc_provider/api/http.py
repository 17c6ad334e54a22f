"""One HTTP request to PayArc, sent once: no retries, no redirects, no cookies, and a deadline that holds.

Also the clock for leases, deadlines and the rate limit (`now`), the check of the base URL, and the response headers
that carry a time or a count.
"""

from __future__ import annotations

import ipaddress
import os
import re
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import requests

from payarc_provider import __version__
from payarc_provider.api.deadline import DeadlineAdapter, deadline, now
from payarc_provider.api.errors import transport_failure, unknown_outcome
from payarc_provider.exceptions import PayarcConfigError, PayarcConnectionFailed, PayarcError

__all__ = [
    "Request",
    "Response",
    "Transport",
    "check_base_url",
    "count",
    "is_loopback",
    "now",
    "reset_in",
    "retry_after",
    "retry_in",
    "server_time",
]

_CONNECT_TIMEOUT = 10.0  # seconds
_MAX_BODY = 20_000_000  # bytes
# Seconds after which an idle connection is not used again. Servers close idle connections, often after 5 seconds: a
# POST that meets such a close has an unknown outcome and costs a look-up; a new connection costs milliseconds.
_MAX_IDLE = 4.0


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One request to the customer API. It has no ``repr``, because it holds a record's values.

    :param customer_id: fit to stand in a path, see `fields.path_id`; None for a request to the whole collection
    :param fields: the form's fields
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    customer_id: str | None = None
    fields: Mapping[str, str] | None = None
    params: Mapping[str, str] | None = None
    idempotency_key: str | None = None

    @property
    def path(self) -> str:
        """The path below the base URL."""
        return "/customers" if self.customer_id is None else f"/customers/{self.customer_id}"

    @property
    def endpoint(self) -> str:
        """What the rate limit counts by and spans are named after: ``POST /customers``, ``GET /customers/{id}``."""
        return f"{self.method} {'/customers' if self.customer_id is None else '/customers/{id}'}"


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """A complete response. The names of its headers are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def date(self) -> float | None:
        """PayArc's clock when it sent the response, in Unix seconds; None if the response has no date."""
        return server_time(self.headers)

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before the next request; None where the response does not say."""
        return retry_after(self.headers)


class Transport:
    """Sends requests to one server over one kept-alive connection per thread. Safe to share between threads.

    :param timeout: seconds from handing over a request to the end of its response
    :param verify: True, False, or the path of a CA bundle
    """

    def __init__(self, base_url: str, *, timeout: float, verify: bool | str) -> None:
        self._base_url = base_url
        self._timeout = timeout
        self._verify = verify
        self._local = threading.local()
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()
        self._sent: Counter[str] = Counter()

    @property
    def sent(self) -> Counter[str]:
        """Number of requests sent, by method; requests that are known not to have left do not count."""
        with self._lock:
            return Counter(self._sent)

    def send(self, request: Request, token: str, before_send: Callable[[], None] | None = None) -> Response:
        """Send one request and read its whole response, whatever its status.

        ``before_send`` is called when everything is prepared, directly before the request goes to the HTTP library. If
        it raises, the exception passes through and nothing was sent.

        :raises PayarcConnectionFailed: nothing was sent
        :raises PayarcUnknownOutcome: sent, but no complete response arrived within the deadline and 20 MB
        :raises PayarcConfigError: the CA bundle does not exist; nothing was sent
        """
        session = self._session()
        prepared, settings = self._prepare(session, request, token)
        if isinstance(settings["verify"], str) and not os.path.exists(settings["verify"]):
            raise PayarcConfigError("the CA bundle does not exist: fix verify in the connection's extra")
        # Starts before the decision to send: if this process is suspended right after it, nothing leaves too late.
        deadline.set(self._timeout)
        if before_send is not None:
            before_send()
        try:
            return self._exchange(session, prepared, settings)
        finally:
            self._local.last_used = now()

    def close(self) -> None:
        """Close all connections, and give up the requests that other threads have in flight.

        The transport can still be used and opens new connections.
        """
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def _prepare(
        self, session: requests.Session, request: Request, token: str
    ) -> tuple[requests.PreparedRequest, dict[str, Any]]:
        """The request, and proxies and certificates for it as the environment and the settings say."""
        template, settings = self._template(session, request)
        prepared = template.copy()
        if request.fields:
            prepared.prepare_body(urlencode(request.fields), None)  # requests would check each value's type first
            prepared.headers["Content-Type"] = "application/x-www-form-urlencoded"
        if request.idempotency_key is not None:
            prepared.headers["Idempotency-Key"] = request.idempotency_key
        if request.method == "GET":
            prepared.headers["Cache-Control"] = "no-cache"  # an old copy of the list would hide the newest customers
        prepared.headers["Authorization"] = f"Bearer {token}"  # replaces what requests takes from a .netrc
        return prepared, settings

    def _template(self, session: requests.Session, request: Request) -> tuple[requests.PreparedRequest, dict[str, Any]]:
        """A request without token and body. For POSTs, which a run sends in great number, it is kept by each thread."""
        if request.method == "POST" and self._local.template is not None:
            return self._local.template  # type: ignore[no-any-return]
        url = self._base_url + request.path
        prepared = session.prepare_request(requests.Request(request.method, url, params=request.params))
        template = prepared, dict(session.merge_environment_settings(prepared.url, {}, True, self._verify, None))
        if request.method == "POST":
            self._local.template = template
        return template

    def _exchange(
        self, session: requests.Session, prepared: requests.PreparedRequest, settings: dict[str, Any]
    ) -> Response:
        method = str(prepared.method)
        failure: PayarcError
        try:
            timeout = (min(_CONNECT_TIMEOUT, self._timeout), self._timeout)
            with session.send(prepared, timeout=timeout, allow_redirects=False, **settings) as response:
                body = _read(response)
            if body is not None:
                self._count(method)
                return Response(response.status_code, response.headers, body.decode("utf-8-sig", "replace"))
            failure = unknown_outcome(method, "the response is longer than 20 MB", status=response.status_code)
        except Exception as exc:  # noqa: BLE001 - of responses of odd shapes, libraries raise ValueErrors and others
            failure = transport_failure(method, exc)
        if not isinstance(failure, PayarcConnectionFailed):
            self._count(method)
        # Raised outside the except block so that it does not carry the library's error, and with it the request.
        raise failure

    def _count(self, method: str) -> None:
        with self._lock:
            self._sent[method] += 1

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None or self._local.process != os.getpid():
            # After a fork, two processes on one connection would receive each other's responses.
            session = self._local.session = _new_session(self._base_url)
            self._local.process, self._local.last_used, self._local.template = os.getpid(), now(), None
            with self._lock:
                self._sessions.add(session)
        elif now() - self._local.last_used > _MAX_IDLE:
            session.close()
        return session


def _read(response: requests.Response) -> bytes | None:
    """The body; None if it is longer than `_MAX_BODY`."""
    body = bytearray()
    for chunk in response.iter_content(65536):
        body += chunk
        if len(body) > _MAX_BODY:
            return None
    return bytes(body)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Always None: otherwise requests prepares the redirected request even when it must not follow the redirect."""


def _new_session(base_url: str) -> requests.Session:
    session = _Session()
    session.headers["User-Agent"] = f"airflow-provider-payarc/{__version__}"
    session.headers.update({"Accept": "application/json", "Cache-Control": "no-cache"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    url = urlsplit(base_url)
    # A proxy from the environment must not receive what is meant for this machine.
    session.trust_env = not is_loopback(url.hostname or "")
    session.mount(f"{url.scheme}://", DeadlineAdapter())
    return session


# ---- the base URL ---------------------------------------------------------------------------------------------------

_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
_NOT_IN_A_URL = re.compile(r"[\s\\?#@\x00-\x1f]")
_DEFAULT_PORT = {"https": 443, "http": 80}


def check_base_url(url: str) -> str:
    """Normalize the API's base URL, so that the same server always has the same URL.

    The host is lower case, a default port and a trailing slash are dropped, and an empty path becomes ``/v1``.

    :raises PayarcConfigError: it is not an https URL (http is for loopback only), or has credentials, a query or a
        fragment; the text names the connection's host field and does not show its content
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not _HOST.fullmatch(host) or ".." in host or _NOT_IN_A_URL.search(url.strip()):
        raise PayarcConfigError(
            "the connection's host is not a base URL: enter one such as https://testapi.payarc.net/v1, without "
            "credentials, query or fragment, or leave it empty"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise PayarcConfigError(
            "the connection's host must begin with https://, because every request carries the access token "
            "(http:// is only for localhost)"
        )
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORT[parts.scheme]:
        shown += f":{port}"
    return f"{parts.scheme}://{shown}{parts.path.rstrip('/') or '/v1'}"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ---- response headers -----------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_UNIX_TIME_FROM = 1e9  # as a wait it would be 30 years, so larger numbers are points in time


def server_time(headers: Mapping[str, str]) -> float | None:
    """The server's clock from ``Date``, in Unix seconds; None where it is missing or unreadable."""
    return _http_date(_get(headers, "Date"))


def count(headers: Mapping[str, str], name: str) -> int | None:
    """A whole number, such as ``X-RateLimit-Remaining``; None where it is missing or unreadable."""
    text = _get(headers, name)
    return int(text) if _NUMBER.fullmatch(text) and "." not in text else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, never negative; None where the response does not say. See `retry_in`."""
    left = retry_in(headers)
    return None if left is None else left[1]


def retry_in(headers: Mapping[str, str]) -> tuple[float, float] | None:
    """The least and the most seconds to wait; None where the response does not say.

    ``Retry-After`` (seconds or a date) wins over ``X-RateLimit-Reset``. Whole seconds are taken as rounded up.
    """
    text = _get(headers, "Retry-After")
    if _NUMBER.fullmatch(text):
        return max(0.0, float(text) - 1), float(text)
    until = _http_date(text)
    return reset_in(headers) if until is None else _left(headers, until)


def reset_in(headers: Mapping[str, str]) -> tuple[float, float] | None:
    """The least and the most seconds until the window ends, by ``X-RateLimit-Reset``; None where it is missing.

    The header is in Unix seconds (Laravel's throttle); a small number is taken as seconds from now.
    """
    text = _get(headers, "X-RateLimit-Reset")
    if not _NUMBER.fullmatch(text):
        return None
    until = float(text)
    return (max(0.0, until - 1), until) if until < _UNIX_TIME_FROM else _left(headers, until)


def _left(headers: Mapping[str, str], until: float) -> tuple[float, float]:
    # Read against the server's own clock, so that the two clocks need not agree.
    server = server_time(headers)
    left = until - (time.time() if server is None else server)
    return max(0.0, left - 2), max(0.0, left)  # both moments are in whole seconds


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
