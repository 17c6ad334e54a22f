"""A request that is given up never arrives later: the bytes that the kernel still holds are discarded.

The server stops reading, so that most of the request stays in the client's kernel. Then the request is given up in one
of many ways, and the server reads on.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tls import write_certificate

from payarc_provider.api.http import Request, Transport
from payarc_provider.exceptions import PayarcUnknownOutcome

BODY = 40_000  # bytes: fits into the client's kernel, and not into the server's
SOON = 0.3  # seconds in which the client's bytes go as far as they can

CLIENT = """
    import sys, threading
    from payarc_provider.api.http import Request, Transport

    url, verify, timeout, body = sys.argv[1:]
    transport = Transport(url, timeout=float(timeout), verify=verify)
    request = Request("POST", fields={"name": "x" * int(body)})
    threading.Thread(target=transport.send, args=(request, "token"), daemon=True).start()
    sys.stdin.readline()
"""


@dataclass
class Received:
    """What the server has read of a request."""

    size: int = 0
    reset: bool = False
    complete: bool = False


class HoldingServer:
    """A server that reads nothing of a request until it is told to.

    :param certificate: a PEM file with key and certificate; without it the server has no TLS
    """

    def __init__(self, certificate: str | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self._listener.settimeout(20)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._connection: socket.socket | None = None
        self._ready = threading.Event()
        # TLS apart from the socket, because ssl.SSLSocket hides whether a connection ended by a reset.
        self._encrypted, self._answers = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._tls = context.wrap_bio(self._encrypted, self._answers, server_side=True)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(5)
            while self._tls is not None:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    self._connection.sendall(self._answers.read())
                    self._encrypted.write(self._connection.recv(1024))
                else:
                    break
            self._connection.sendall(self._answers.read())
            self._ready.set()

    def wait_until_stuck(self) -> None:
        """Return when a part of the request has arrived and the rest cannot."""
        assert self._ready.wait(20), "no connection"
        assert select.select([self._connection], [], [], 20)[0], "no request"
        time.sleep(SOON)

    def read_on(self) -> Received:
        """Read until the connection ends or the request is complete."""
        assert self._connection is not None
        data, received = b"", Received()
        try:
            while not received.complete and (chunk := self._connection.recv(65536)):
                received.size += len(chunk)
                data += self._decrypted(chunk)
                received.complete = len(data.partition(b"\r\n\r\n")[2]) >= BODY
        except TimeoutError:
            pass  # neither more bytes nor an end: the kernel dropped the connection, and its reset was lost
        except ConnectionResetError:
            received.reset = True
        return received

    def _decrypted(self, chunk: bytes) -> bytes:
        if self._tls is None:
            return chunk
        self._encrypted.write(chunk)
        data = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while more := self._tls.read(65536):
                data += more
        return data

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a self-signed certificate with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    write_certificate(path)
    return str(path)


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificate: str) -> Iterator[HoldingServer]:
    server = HoldingServer(certificate if request.param == "https" else None)
    yield server
    server.close()


def send_in_thread(transport: Transport) -> Callable[[], BaseException | None]:
    """Send a large POST; returns a function that waits for its end and returns its exception."""
    errors: list[BaseException] = []

    def send() -> None:
        try:
            transport.send(Request("POST", fields={"name": "x" * BODY}), "token")
        except BaseException as error:  # noqa: BLE001 - compared by the test
            errors.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()

    def join() -> BaseException | None:
        thread.join(10)
        assert not thread.is_alive(), "the request does not end"
        return errors[0] if errors else None

    return join


def assert_discarded(received: Received) -> None:
    assert not received.complete, "the request arrived after it was given up"
    assert received.reset
    assert received.size < BODY


def test_the_rest_of_a_request_arrives_while_it_is_open(server: HoldingServer, certificate: str) -> None:
    """Shows that the other tests would notice bytes that arrive."""
    transport = Transport(server.url, timeout=20, verify=certificate)
    join = send_in_thread(transport)
    server.wait_until_stuck()
    assert server.read_on().complete
    server.close()
    assert isinstance(join(), PayarcUnknownOutcome)


def test_a_request_is_discarded_at_its_deadline(server: HoldingServer, certificate: str) -> None:
    join = send_in_thread(Transport(server.url, timeout=1, verify=certificate))
    server.wait_until_stuck()
    assert isinstance(join(), PayarcUnknownOutcome)
    assert_discarded(server.read_on())


def test_a_request_in_flight_is_discarded_when_its_transport_is_closed(server: HoldingServer, certificate: str) -> None:
    transport = Transport(server.url, timeout=20, verify=certificate)
    join = send_in_thread(transport)
    server.wait_until_stuck()
    started = time.monotonic()
    transport.close()
    assert isinstance(join(), PayarcUnknownOutcome)
    assert time.monotonic() - started < 2
    assert_discarded(server.read_on())


@pytest.fixture
def client(server: HoldingServer, certificate: str) -> Iterator[Callable[[float], subprocess.Popen[str]]]:
    """Starts a process that sends a large POST, which gets stuck, and ends when it can read a line."""
    processes: list[subprocess.Popen[str]] = []

    def start(timeout: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(CLIENT), server.url, certificate, str(timeout), str(BODY)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
        server.wait_until_stuck()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_request_is_discarded_when_a_signal_ends_its_process(server, client, number) -> None:
    process = client(20)
    process.send_signal(number)
    process.wait(10)
    assert_discarded(server.read_on())


def test_a_request_is_discarded_when_its_process_ends_by_itself(server, client) -> None:
    process = client(20)
    process.communicate("\n", timeout=10)
    assert_discarded(server.read_on())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs TCP_USER_TIMEOUT")
def test_a_request_is_discarded_soon_after_its_deadline_while_its_process_is_suspended(server, client) -> None:
    process = client(1)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    received = server.read_on()
    assert not received.complete
    assert received.size < BODY


def test_a_request_through_a_proxy_is_discarded_at_its_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy = HoldingServer()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    join = send_in_thread(Transport("http://payarc.invalid/v1", timeout=1, verify=True))
    proxy.wait_until_stuck()
    assert isinstance(join(), PayarcUnknownOutcome)
    assert_discarded(proxy.read_on())
    proxy.close()
