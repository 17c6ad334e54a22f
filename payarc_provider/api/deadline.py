"""A deadline for a whole HTTP request, from the resolution of the host's name to the last byte of the response.

The timeouts of `requests` limit each wait for bytes and not the whole request, they apply to every address of a host in
turn, and they do not count the time spent on resolving names. But a request that leaves late could create a customer
after others have looked for it. Here nothing leaves after the deadline, and no response is read after it. If a request
is given up, the bytes that the kernel still holds are discarded, see `unsent`.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter

from payarc_provider.api.unsent import close_orderly, discard_now, discard_on_close

__all__ = ["DeadlineAdapter", "deadline", "now"]


def _running_clock() -> Callable[[], float]:
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux
        return functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":  # whose time.monotonic() stops while the machine is suspended
        return functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    return time.monotonic


#: The clock of leases, deadlines and the rate limit, in seconds. It keeps running while the machine is suspended.
now: Callable[[], float] = _running_clock()


class Deadline(threading.local):
    """The deadline of the request that the current thread is sending."""

    _at: float = 0.0

    def set(self, seconds: float) -> None:
        """Start a deadline ``seconds`` from now."""
        self._at = now() + seconds

    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._at - now()


#: Set by the thread that sends, before it decides that the request may go.
deadline = Deadline()


class _DeadlineReader(io.RawIOBase):
    """The socket's bytes until the deadline: each wait lasts at most as long as there is time left."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stream = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = deadline.left()
        if left <= 0:
            raise TimeoutError("the request's deadline has passed")
        self._sock.settimeout(left)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock))

    def begin(self) -> None:
        """Read the head of the response. Lines that are no headers are dropped; urllib3 would log them as they are."""
        super().begin()
        self.msg.defects.clear()
        self.msg.set_payload("")


def _raise_if_late() -> None:
    if deadline.left() <= 0:
        raise urllib3.exceptions.ConnectTimeoutError("ready to send only after the request's deadline")


class _DeadlineMixin:
    """Sends no byte after the deadline, or after it was abandoned, whether the connection is new or kept alive.

    A process may be suspended at any moment, even between two bytes. A request that has begun in time but not ended in
    time is cut off. Its outcome is unknown, although a server should not process half a request.
    """

    sock: Any
    debuglevel = 0  # http.client prints the request, and with it the token, if somebody sets its own to 1
    _started = False
    _abandoned = False

    def abandon(self) -> None:
        """Give up the request in flight, from another thread."""
        self._abandoned = True
        if (sock := self.sock) is not None:
            discard_now(sock)

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _raise_if_late()

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        self._started = False
        super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is None and not self._started:
            self.connect()
        if self._started and (self._abandoned or deadline.left() <= 0):
            raise TimeoutError("the request's deadline has passed, or its connection was closed")
        if not self._started:
            if self._abandoned:
                raise urllib3.exceptions.ConnectTimeoutError("the connection was closed before anything was sent")
            _raise_if_late()
            discard_on_close(self.sock, deadline.left())
        self._started = True
        super().send(data)  # type: ignore[misc]


class _HTTPConnection(_DeadlineMixin, urllib3.connection.HTTPConnection):
    response_class = _DeadlineResponse


class _HTTPSConnection(_DeadlineMixin, urllib3.connection.HTTPSConnection):
    response_class = _DeadlineResponse


class _PoolMixin:
    """Knows the connection in flight. There is at most one, because a thread has a session of its own."""

    _in_flight: _DeadlineMixin | None = None
    _abandoned = False

    def abandon(self) -> None:
        """Give up the request in flight, if there is one, from another thread. The pool is not used again."""
        self._abandoned = True
        if (connection := self._in_flight) is not None:
            connection.abandon()

    def _get_conn(self, *args: Any, **kwargs: Any) -> Any:
        connection = self._in_flight = super()._get_conn(*args, **kwargs)  # type: ignore[misc]
        if self._abandoned:
            connection.abandon()
        return connection

    def _put_conn(self, conn: Any) -> None:
        # urllib3 has closed the connection already unless the response is complete.
        self._in_flight = None
        if conn is not None and conn.sock is not None:
            close_orderly(conn.sock)
        super()._put_conn(conn)  # type: ignore[misc]


class _HTTPPool(_PoolMixin, urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_PoolMixin, urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class DeadlineAdapter(HTTPAdapter):
    """Keeps one connection, never retries, applies the deadline, and discards what a request given up has not sent.

    Known limitation: a SOCKS proxy has connections of its own, on which the timeout limits each wait only.
    """

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **kwargs)
        if isinstance(manager, urllib3.ProxyManager):
            manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager

    def close(self) -> None:
        """Close the idle connection, and give up the request in flight if another thread has one."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated over
                if isinstance(pool := manager.pools.get(key), _PoolMixin):
                    pool.abandon()
        super().close()
