"""A deadline for one HTTP request that holds from the name's look-up to the answer's last byte.

`requests` bounds each wait for bytes and not the whole, tries every address of a host in turn, and counts no time spent
on names. A request that leaves late could be committed after others have looked for it: here nothing leaves after the
deadline, and no answer is read past it.
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

__all__ = ["DeadlineAdapter", "deadline", "now"]


def _running_clock() -> Callable[[], float]:
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux
        return functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":  # whose time.monotonic() stops while the machine is suspended
        return functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    return time.monotonic


#: The clock of leases, deadlines and the rate limit, in seconds. It keeps running while the machine is suspended.
now: Callable[[], float] = _running_clock()


class _Deadline(threading.local):
    """Until when the request that this thread is sending must be done."""

    _at: float = 0.0

    def set(self, seconds: float) -> None:
        self._at = now() + seconds

    def left(self) -> float:
        return self._at - now()


#: Set it in the thread that sends, before it is decided that the request may go.
deadline = _Deadline()


class _Reader(io.RawIOBase):
    """The socket's bytes until the deadline: each wait is given only what is left of it."""

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


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock))


def _leave_in_time() -> None:
    if deadline.left() <= 0:
        raise urllib3.exceptions.ConnectTimeoutError("ready to send only after the request's deadline")


class _Leaving:
    """Lets no byte out past the deadline, on a new connection or on one that is open already.

    A process may be suspended at any moment, also between two bytes. What was begun in time and not ended in time is
    broken off: a request that did not arrive whole is none, but that is not for this side to say.
    """

    sock: Any
    _begun = False

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _leave_in_time()

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        self._begun = False
        super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is not None and deadline.left() <= 0:
            if self._begun:
                raise TimeoutError("the request's deadline has passed")
            _leave_in_time()
        super().send(data)  # type: ignore[misc]
        self._begun = True


class _HTTPConnection(_Leaving, urllib3.connection.HTTPConnection):
    response_class = _Response


class _HTTPSConnection(_Leaving, urllib3.connection.HTTPSConnection):
    response_class = _Response


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class DeadlineAdapter(HTTPAdapter):
    """One connection, no retries of any kind, and the deadline.

    Known limitation: through a SOCKS proxy, which brings connections of its own, only each wait is bounded.
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
