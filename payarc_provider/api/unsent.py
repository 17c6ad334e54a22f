"""Discard the unsent bytes of a request that is given up.

After an orderly close, the kernel keeps trying to deliver what it has buffered, for minutes and even after the process
has ended. If a network partition heals in that time, PayArc receives the request after others have looked for its
customer. While a request is open, its connection is therefore closed by a reset, which discards those bytes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import Any

__all__ = ["close_orderly", "discard_now", "discard_on_close"]

_LINGER = "hh" if sys.platform == "win32" else "ii"
_RESET = struct.pack(_LINGER, 1, 0)
_ORDERLY = struct.pack(_LINGER, 0, 0)
_RXT_CONNDROPTIME = 0x80  # macOS, <netinet/tcp.h>; the socket module has no name for it


def discard_on_close(sock: Any, seconds: float) -> None:
    """Discard unsent bytes when the socket is closed, which includes every end of the process, even by SIGKILL.

    :param sock: a TCP socket, or one with TLS
    :param seconds: how long the kernel tries to deliver bytes if nobody closes the socket, because the process is
        suspended or another one inherited it; without effect on Windows
    """
    _set(sock, socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    _limit_retransmission(sock, seconds)


def close_orderly(sock: Any) -> None:
    """Undo `discard_on_close`: nothing is in flight, and a reset would only look like a fault to the server."""
    _set(sock, socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY)


def discard_now(sock: Any) -> None:
    """Interrupt the thread that uses a socket with `discard_on_close`, so that it closes the socket.

    The thread reads the end of the stream. If it is still sending, the kernel drops the connection at the next
    retransmission. The socket itself stays open: its number could otherwise be reused under that thread.
    """
    _limit_retransmission(sock, 0.0)
    with contextlib.suppress(OSError):
        # Not the method of ssl.SSLSocket: after it, the thread would go on without encryption.
        socket.socket.shutdown(_tcp(sock), socket.SHUT_RD)


def _limit_retransmission(sock: Any, seconds: float) -> None:
    # 0 would be the system's default, which is a quarter of an hour on Linux.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        _set(sock, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(seconds * 1000)))
    elif sys.platform == "darwin":
        _set(sock, socket.IPPROTO_TCP, _RXT_CONNDROPTIME, max(1, int(seconds)))


def _set(sock: Any, level: int, option: int, value: int | bytes) -> None:
    with contextlib.suppress(OSError):  # the connection is broken, which the next send or read reports
        _tcp(sock).setsockopt(level, option, value)


def _tcp(sock: Any) -> Any:
    """The socket below urllib3's wrappers for TLS within TLS and for pyOpenSSL."""
    while not isinstance(sock, socket.socket) and hasattr(sock, "socket"):
        sock = sock.socket
    return sock
