"""A TCP proxy in front of a database, whose connections a test can cut, freeze and restore."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

import sqlalchemy as sa


class Proxy:
    """A context manager.

    :param dial: opens a connection to the server behind the proxy
    """

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self._dial = dial
        self._flowing = threading.Event()
        self._flowing.set()
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self._flowing.set()
        self.cut()

    def cut(self) -> None:
        """Reset every connection, and accept no new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                _close(listener)
            for end in self._ends:
                _close(end)
            self._ends.clear()

    def freeze(self) -> None:
        """Keep every connection open, but forward nothing."""
        self._flowing.clear()

    def restore(self) -> None:
        """Accept connections again, and forward what was held back."""
        with self._lock:
            if self._listener is None:
                self._listener = socket.create_server(("127.0.0.1", self.port))
                self.port = self._listener.getsockname()[1]
                threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        self._flowing.set()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with self._lock:
                    if self._listener is not listener:
                        _close(client)
                        return
                    server = self._dial()
                    self._ends += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                self._flowing.wait()
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # shutdown() wakes up the threads that are blocked on the socket; with SO_LINGER 0, close() sends a reset.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def before_database(url: str) -> Proxy:
    """A proxy in front of a PostgreSQL or MariaDB server, which may listen on TCP or on a Unix socket."""
    target = sa.make_url(url)
    folder = target.query.get("host") or target.query.get("unix_socket")

    def dial() -> socket.socket:
        if not folder:
            default = 5432 if target.get_backend_name() == "postgresql" else 3306
            return socket.create_connection((target.host or "127.0.0.1", target.port or default))
        server = socket.socket(socket.AF_UNIX)
        port = target.query.get("port") or target.port or 5432
        server.connect(f"{folder}/.s.PGSQL.{port}" if target.get_backend_name() == "postgresql" else str(folder))
        return server

    return Proxy(dial)


def url_through(url: str, proxy: Proxy) -> str:
    """The database's URL, but through the proxy."""
    direct = sa.make_url(url).difference_update_query(["host", "port", "unix_socket"])
    return direct.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
