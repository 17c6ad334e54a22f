"""One HTTP request, sent once: no retries, no redirects, no cookies, and a deadline that holds."""

from __future__ import annotations

import http.client
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from payarc_provider import __version__
from payarc_provider.api.base_url import is_loopback
from payarc_provider.api.deadline import DeadlineAdapter, deadline, now
from payarc_provider.api.errors import transport_failure, unknown_outcome
from payarc_provider.exceptions import PayarcConfigError, PayarcConnectionFailed, PayarcError

__all__ = ["Answer", "Transport"]

_CONNECT_TIMEOUT = 10.0
_LONGEST_BODY = 20_000_000
# Servers close kept-alive connections after some seconds (5 is a common setting). A POST that meets such a close is an
# unknown outcome and costs a look-up; a new connection costs milliseconds.
_IDLE = 4.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. ``headers`` are found whatever their case."""

    status: int
    headers: Mapping[str, str]
    text: str


class Transport:
    """Sends to one server, with one kept-alive connection per thread. Safe to share between threads.

    :param timeout: seconds from handing the request over to the end of its answer
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
    def sent(self) -> dict[str, int]:
        """How many requests were sent by method; those that are known not to have left do not count."""
        with self._lock:
            return dict(self._sent)

    def send(
        self,
        method: str,
        path: str,
        token: str,
        *,
        params: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        before_send: Callable[[], None] | None = None,
    ) -> Answer:
        """Send one request and read its whole answer, whatever its status.

        ``before_send`` is called when all is prepared, directly before the request goes to the HTTP library; what it
        raises passes through, and nothing was sent.

        :raises PayarcConnectionFailed: nothing was sent
        :raises PayarcUnknownOutcome: sent, and no complete answer within the deadline and 20 MB
        :raises PayarcConfigError: the CA bundle does not exist; nothing was sent
        """
        session = self._session()
        prepared, settings = self._prepared(session, method, path, params)
        prepared.prepare_body(fields, None)
        prepared.headers.update(headers or {})
        prepared.headers["Authorization"] = f"Bearer {token}"  # in place of what requests takes from a .netrc
        if isinstance(settings["verify"], str) and not os.path.exists(settings["verify"]):
            raise PayarcConfigError("the CA bundle does not exist: mend verify in the connection's extra")
        # Begun before the decision: what is suspended right after it leaves no more.
        deadline.set(self._timeout)
        if before_send is not None:
            before_send()
        try:
            return self._exchange(session, prepared, settings)
        finally:
            self._local.used = now()

    def close(self) -> None:
        """Close all connections. The transport can still be used and opens new ones."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def _prepared(
        self, session: requests.Session, method: str, path: str, params: Mapping[str, str] | None
    ) -> tuple[requests.PreparedRequest, Any]:
        """A request without token and body, and what the environment says of its way: made once for each thread."""
        found = self._local.ready.get((method, path)) if params is None else None
        if found is None:
            request = session.prepare_request(requests.Request(method, self._base_url + path, params=params))
            found = request, session.merge_environment_settings(request.url, {}, True, self._verify, None)
            if method == "POST":  # what is sent in great number
                self._local.ready[method, path] = found
        return found[0].copy(), found[1]

    def _exchange(self, session: requests.Session, prepared: requests.PreparedRequest, settings: Any) -> Answer:
        method = str(prepared.method)
        failure: PayarcError
        try:
            timeout = (min(_CONNECT_TIMEOUT, self._timeout), self._timeout)
            with session.send(prepared, timeout=timeout, allow_redirects=False, **settings) as response:
                body = _read(response)
            if body is not None:
                self._count(method)
                return Answer(response.status_code, response.headers, body.decode("utf-8-sig", "replace"))
            failure = unknown_outcome(method, "the answer is longer than 20 MB", status=response.status_code)
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as exc:
            failure = transport_failure(method, exc)
        if not isinstance(failure, PayarcConnectionFailed):
            self._count(method)
        # Raised out here so that it does not even carry the library's error as its context: that one holds the request.
        raise failure

    def _count(self, method: str) -> None:
        with self._lock:
            self._sent[method] += 1

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None or self._local.process != os.getpid():
            # Two processes on one connection, after a fork, would get each other's answers.
            session = self._local.session = _new_session(self._base_url)
            self._local.process, self._local.used, self._local.ready = os.getpid(), now(), {}
            with self._lock:
                self._sessions.add(session)
        elif now() - self._local.used > _IDLE:
            session.close()
        return session


def _read(response: requests.Response) -> bytes | None:
    body = bytearray()
    for chunk in response.iter_content(65536):
        body += chunk
        if len(body) > _LONGEST_BODY:
            return None
    return bytes(body)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Never: requests prepares the next request of a redirect even if it is not to follow it."""


def _new_session(base_url: str) -> requests.Session:
    session = _Session()
    session.headers["User-Agent"] = f"airflow-provider-payarc/{__version__}"
    session.headers["Accept"] = "application/json"
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    url = urlsplit(base_url)
    # A proxy from the environment must not get what is meant for this machine.
    session.trust_env = not is_loopback(url.hostname or "")
    session.mount(f"{url.scheme}://", DeadlineAdapter())
    return session
