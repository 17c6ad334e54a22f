"""One request over real sockets: it is sent once, ends by its deadline, and is passed on to nobody else."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests_mock as rm
from tls import write_certificate

from payarc_provider.api.deadline import _DeadlineReader, deadline
from payarc_provider.api.http import Request, Transport
from payarc_provider.exceptions import PayarcConfigError, PayarcConnectionFailed, PayarcError, PayarcUnknownOutcome

Script = Callable[["Server", socket.socket], None]
OK = b'HTTP/1.1 201 Created\r\nContent-Length: 11\r\nX-Thing: 1\r\n\r\n{"data": 1}'


class Server:
    """A server on loopback that runs one script per connection; the last one serves all further connections."""

    def __init__(self, *scripts: Script, context: ssl.SSLContext | None = None) -> None:
        self.scripts, self.context = list(scripts), context
        self.connections = 0
        self.requests: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.done = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            script = self.scripts[min(self.connections, len(self.scripts) - 1)]
            self.connections += 1
            threading.Thread(target=self._serve, args=(script, connection), daemon=True).start()

    def _serve(self, script: Script, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self.context:
                connection = stack.enter_context(self.context.wrap_socket(connection, server_side=True))
            script(self, connection)

    def read(self, sock: socket.socket) -> bytes:
        """One request, head and body; empty at the end of the connection."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = sock.recv(65536)
            if not chunk:
                return b""
            data += chunk
        head = data.partition(b"\r\n\r\n")[0].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        while len(data) < len(head) + 4 + length:
            data += sock.recv(65536)
        self.requests.append(data)
        return data

    def close(self) -> None:
        self.done.set()
        self.socket.close()


def answers(*parts: bytes, pause: float = 0.0) -> Script:
    """Answer every request of the connection with the parts, and close it after a response without a length."""

    def script(server: Server, sock: socket.socket) -> None:
        while server.read(sock):
            for part in parts:
                sock.sendall(part)
                server.done.wait(pause)
            if b"Content-Length: 11\r\n" not in b"".join(parts):
                return

    return script


def stalls(head: bytes) -> Script:
    def script(server: Server, sock: socket.socket) -> None:
        server.read(sock)
        sock.sendall(head)
        server.done.wait(10)

    return script


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*scripts: Script, context: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(*scripts, context=context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def transport(url: str, timeout: float = 5.0, verify: bool | str = True) -> Transport:
    return Transport(url, timeout=timeout, verify=verify)


def failure(subject: Transport, method: str = "POST") -> PayarcError:
    with pytest.raises(PayarcError) as caught:
        subject.send(Request(method, fields={"name": "s3cret"}), "t0ken")
    assert "s3cret" not in str(caught.value)
    assert "t0ken" not in str(caught.value)
    assert caught.value.__context__ is None
    return caught.value


def test_the_bytes_of_a_request(serve):
    server = serve(answers(OK))
    answer = transport(server.url).send(
        Request("POST", fields={"name": "José & Co", "city": "New York"}, idempotency_key="k1"), "t0ken"
    )
    assert (answer.status, answer.text, answer.headers["x-thing"]) == (201, '{"data": 1}', "1")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {line.split(": ")[0].lower(): line.split(": ")[1] for line in lines}
    assert first == "POST /v1/customers HTTP/1.1"
    assert body == b"name=Jos%C3%A9+%26+Co&city=New+York"
    assert headers["authorization"] == "Bearer t0ken"
    assert headers["accept"] == "application/json"
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert headers["user-agent"].startswith("airflow-provider-payarc/")
    assert headers["idempotency-key"] == "k1"


def test_one_connection_per_thread_is_kept(serve):
    server = serve(answers(OK))
    subject = transport(server.url)

    def work() -> None:
        for _ in range(3):
            subject.send(Request("GET"), "t")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 6
    assert server.connections == 2
    assert subject.sent == {"GET": 6}


def test_an_idle_connection_is_not_used_again(serve, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("payarc_provider.api.http.now", lambda: clock[0])
    server = serve(answers(OK))
    subject = transport(server.url)
    for idle, connections in ((0.0, 1), (3.9, 1), (3.9, 1), (4.1, 2), (3.9, 2)):
        clock[0] += idle
        subject.send(Request("POST"), "t")
        assert server.connections == connections


def test_a_forked_process_does_not_use_its_parents_connection(serve, monkeypatch):
    server = serve(answers(OK))
    subject = transport(server.url)
    subject.send(Request("GET"), "t")
    monkeypatch.setattr("os.getpid", lambda: -1)
    subject.send(Request("GET"), "t")
    subject.send(Request("GET"), "t")
    assert server.connections == 2


def test_a_closed_transport_opens_new_connections(serve):
    server = serve(answers(OK))
    subject = transport(server.url)
    subject.send(Request("GET"), "t")
    threading_close = threading.Thread(target=subject.close)
    threading_close.start()
    threading_close.join()
    subject.send(Request("GET"), "t")
    assert server.connections == 2


def test_an_idle_connection_is_closed_orderly(serve):
    ends: list[bytes] = []

    def script(server: Server, sock: socket.socket) -> None:
        server.read(sock)
        sock.sendall(OK)
        ends.append(sock.recv(1))  # would raise if the connection were reset
        server.done.set()

    server = serve(script)
    subject = transport(server.url)
    subject.send(Request("POST"), "t")
    subject.close()
    assert server.done.wait(5)
    assert ends == [b""]


def test_closing_a_transport_ends_the_request_of_another_thread(serve):
    server = serve(stalls(b""), answers(OK))
    subject = transport(server.url, timeout=20)
    errors: list[PayarcError] = []
    sender = threading.Thread(target=lambda: errors.append(failure(subject)))
    sender.start()
    while not server.requests:
        time.sleep(0.01)
    subject.close()
    sender.join(5)
    assert [type(error) for error in errors] == [PayarcUnknownOutcome]
    assert subject.send(Request("GET"), "t").status == 201


def test_a_request_that_is_connecting_when_its_transport_is_closed_is_not_sent(serve, monkeypatch):
    server = serve(answers(OK))
    subject = transport(server.url)
    connect = socket.create_connection
    monkeypatch.setattr(
        "urllib3.util.connection.create_connection",
        lambda address, *args, **kwargs: (subject.close(), connect(address))[1],
    )
    assert isinstance(failure(subject), PayarcConnectionFailed)
    assert server.requests == []
    assert subject.sent == {}


def test_cookies_are_not_sent_back(serve):
    server = serve(answers(OK.replace(b"X-Thing: 1", b"Set-Cookie: a=b; Path=/")))
    subject = transport(server.url)
    subject.send(Request("GET"), "t")
    subject.send(Request("GET"), "t")
    assert b"cookie" not in server.requests[1].lower()


@pytest.mark.parametrize("location", ["{other}/customers", "http://[bad", "//"])
def test_a_redirect_is_not_followed(serve, location):
    other = serve(answers(OK))
    target = location.format(other=other.url).encode()
    server = serve(answers(b"HTTP/1.1 307 Moved\r\nLocation: " + target + b"\r\nContent-Length: 2\r\n\r\n{}"))
    assert transport(server.url).send(Request("POST", fields={"name": "x"}), "t0ken").status == 307
    assert len(server.requests) == 1
    assert other.connections == 0


def test_a_refused_connection_sent_nothing():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    subject = transport(f"http://127.0.0.1:{port}/v1")
    assert isinstance(failure(subject), PayarcConnectionFailed)
    assert subject.sent == {}


def test_a_closed_connection_is_an_unknown_outcome_and_is_not_repeated(serve):
    server = serve(lambda server, sock: server.read(sock) and None)
    subject = transport(server.url)
    error = failure(subject)
    assert isinstance(error, PayarcUnknownOutcome)
    assert error.may_have_acted
    assert len(server.requests) == server.connections == 1
    assert subject.sent == {"POST": 1}


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{"data": {"id": "x"}}',
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}   \r\n",
        b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"not http at all\r\n\r\n",
    ],
)
def test_a_truncated_or_garbled_response_is_an_unknown_outcome(serve, answer):
    server = serve(answers(answer))
    assert isinstance(failure(transport(server.url)), PayarcUnknownOutcome)
    assert len(server.requests) == 1


def test_after_a_truncated_response_the_next_request_gets_its_own(serve):
    cut = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz"
    server = serve(answers(cut), answers(OK))
    subject = transport(server.url)
    failure(subject)
    assert subject.send(Request("GET"), "t").text == '{"data": 1}'


def test_a_body_that_is_too_long_is_an_unknown_outcome(serve, monkeypatch):
    monkeypatch.setattr("payarc_provider.api.http._MAX_BODY", 1000)
    server = serve(stalls(b"HTTP/1.1 201 Created\r\n\r\n" + b"x" * 100_000))
    error = failure(transport(server.url))
    assert isinstance(error, PayarcUnknownOutcome)
    assert error.status == 201


HEAD = b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    "script",
    [
        answers(HEAD, *[b"x"] * 40, pause=0.05),
        answers(b"HTTP/1.1 201 Created\r\n", *[b"X-A: b\r\n"] * 40, pause=0.05),
        stalls(HEAD + b"x"),
        stalls(b""),
    ],
    ids=["trickling body", "trickling head", "stalled body", "no answer"],
)
def test_the_deadline_covers_the_whole_response(serve, script):
    server = serve(script)
    subject = transport(server.url, timeout=0.3)
    started = time.monotonic()
    assert isinstance(failure(subject), PayarcUnknownOutcome)
    assert 0.25 < time.monotonic() - started < 1.5


def test_each_read_waits_only_for_the_time_left(serve):
    server = serve(answers(b"HTTP/1.1 200", b" OK\r\n", pause=0.4))
    started = time.monotonic()
    assert isinstance(failure(transport(server.url, timeout=0.6)), PayarcUnknownOutcome)
    assert time.monotonic() - started < 0.75


def test_nothing_is_read_after_the_deadline():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"late")
        deadline.set(-1.0)
        with pytest.raises(TimeoutError):
            _DeadlineReader(ours).readinto(bytearray(4))


def test_each_request_on_a_connection_has_its_own_deadline(serve):
    server = serve(answers(OK[:30], OK[30:], pause=0.1))
    subject = transport(server.url, timeout=0.4)
    for _ in range(3):
        subject.send(Request("GET"), "t")
    assert server.connections == 1


def test_before_send_comes_last_and_can_stop_it(serve):
    server = serve(answers(OK))
    subject = transport(server.url)
    with pytest.raises(ZeroDivisionError):
        subject.send(Request("POST"), "t", before_send=lambda: 1 // 0 and None)
    subject.send(Request("POST"), "t", before_send=lambda: None)
    assert len(server.requests) == 1
    assert subject.sent == {"POST": 1}


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "open connection"])
def test_a_request_suspended_after_before_send_does_not_leave_late(serve, warm):
    server = serve(answers(OK))
    subject = transport(server.url, timeout=0.2)
    if warm:
        subject.send(Request("GET"), "t")
    with pytest.raises(PayarcConnectionFailed):
        subject.send(Request("POST"), "t", before_send=lambda: time.sleep(0.3))
    assert "POST" not in subject.sent


def test_requests_to_loopback_bypass_a_proxy_from_the_environment(serve, monkeypatch):
    proxy, server = serve(answers(OK)), serve(answers(OK))
    monkeypatch.setenv("http_proxy", proxy.url)
    transport(server.url).send(Request("GET"), "t")
    assert (proxy.connections, server.connections) == (0, 1)


def test_a_netrc_does_not_replace_the_token(tmp_path: Path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine testapi.payarc.net login someone password else")
    monkeypatch.setenv("NETRC", str(netrc))
    with rm.Mocker() as mocker:
        mocker.get("https://testapi.payarc.net/v1/customers", text="{}")
        transport("https://testapi.payarc.net/v1").send(Request("GET"), "t0ken")
    assert mocker.last_request.headers["Authorization"] == "Bearer t0ken"


def test_a_cache_is_asked_not_to_answer_reads():
    with rm.Mocker() as mocker:
        mocker.get("https://testapi.payarc.net/v1/customers", text="{}")
        transport("https://testapi.payarc.net/v1").send(Request("GET"), "t0ken")
    assert mocker.last_request.headers["Cache-Control"] == "no-cache"


def test_a_ca_bundle_that_does_not_exist_stops_before_sending(tmp_path: Path):
    sent: list[str] = []
    subject = transport("https://testapi.payarc.net/v1", verify=str(tmp_path / "none.pem"))
    with pytest.raises(PayarcConfigError, match="verify"):
        subject.send(Request("POST"), "t", before_send=lambda: sent.append("x"))
    assert sent == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's context with a self-signed certificate, and the path of the certificate."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    write_certificate(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, str(path)


def test_tls_is_verified_before_anything_is_sent(serve, certificate):
    context, path = certificate
    server = serve(answers(OK), context=context)
    subject = transport(server.url)
    assert isinstance(failure(subject), PayarcConnectionFailed)
    assert server.requests == []
    assert subject.sent == {}
    assert transport(server.url, verify=path).send(Request("POST"), "t").status == 201


def test_the_deadline_holds_over_tls(serve, certificate):
    context, path = certificate
    server = serve(answers(HEAD, *[b"x"] * 40, pause=0.05), context=context)
    started = time.monotonic()
    assert isinstance(failure(transport(server.url, timeout=0.4, verify=path)), PayarcUnknownOutcome)
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("tls", [False, True])
def test_nothing_leaves_after_the_deadline(serve, certificate, monkeypatch, tls):
    look_up = socket.getaddrinfo

    def slow(*args, **kwargs):
        time.sleep(0.2)
        return look_up(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    context, path = certificate
    server = serve(answers(OK), context=context if tls else None)
    assert isinstance(failure(transport(server.url, timeout=0.15, verify=path)), PayarcConnectionFailed)
    time.sleep(0.05)
    assert (server.connections, server.requests) == (1, [])


def tunnel(context: ssl.SSLContext, script: Script) -> Script:
    """A proxy that accepts CONNECT and is itself the server behind it."""

    def run(server: Server, sock: socket.socket) -> None:
        server.read(sock)
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with context.wrap_socket(sock, server_side=True) as inner:
            script(server, inner)

    return run


def test_through_a_proxy(serve, certificate, monkeypatch):
    context, path = certificate
    proxy = serve(tunnel(context, answers(OK)))
    monkeypatch.setenv("https_proxy", proxy.url)
    assert transport("https://payarc.invalid/v1", verify=path).send(Request("POST"), "t0ken").status == 201
    assert [request[:7] for request in proxy.requests] == [b"CONNECT", b"POST /v"]
    assert b"t0ken" not in proxy.requests[0]


def test_the_deadline_holds_through_a_proxy(serve, certificate, monkeypatch):
    context, path = certificate
    proxy = serve(tunnel(context, answers(HEAD, *[b"x"] * 40, pause=0.05)))
    monkeypatch.setenv("https_proxy", proxy.url)
    started = time.monotonic()
    subject = transport("https://payarc.invalid/v1", timeout=0.4, verify=path)
    assert isinstance(failure(subject), PayarcUnknownOutcome)
    assert time.monotonic() - started < 1.5


def test_a_reset_behind_a_proxy_is_an_unknown_outcome(serve, certificate, monkeypatch):
    context, path = certificate
    proxy = serve(tunnel(context, lambda server, sock: server.read(sock) and None))
    monkeypatch.setenv("https_proxy", proxy.url)
    assert isinstance(failure(transport("https://payarc.invalid/v1", verify=path)), PayarcUnknownOutcome)
    assert proxy.requests[-1].startswith(b"POST")


def test_a_proxy_that_rejects_the_tunnel_has_sent_nothing(serve, monkeypatch):
    proxy = serve(answers(b"HTTP/1.1 403 Forbidden\r\n\r\n"))
    monkeypatch.setenv("https_proxy", proxy.url)
    assert isinstance(failure(transport("https://payarc.invalid/v1")), PayarcConnectionFailed)


@pytest.mark.parametrize("end", [b"-5\r\n", b"zzz\r\n", b"f" * 20 + b"\r\nx", b""])
def test_a_response_of_an_odd_shape_is_an_unknown_outcome(serve, end):
    server = serve(answers(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n" + end))
    with pytest.raises(PayarcUnknownOutcome) as caught:
        Transport(server.url, timeout=5, verify=True).send(Request("POST", fields={"name": "Ann"}), "t")
    assert caught.value.may_have_acted
    assert caught.value.__context__ is None
