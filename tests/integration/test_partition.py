"""Requests given up during a network partition do not arrive after it has healed.

A client and a server are in network namespaces of their own, with a router between them that stops forwarding. All
clients send during the same partition, each gives its request up in its own way, and the server notes what arrives.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from network import Network, skip_without_namespaces

TIMEOUT = 1.0  # the deadline of a request, in seconds
PARTITION = 4.0
AFTERWARDS = 5.0  # the kernel would send again 0.2, 0.6, 1.4, 3 and 6.2 seconds after it sent first

SERVER = """
    import socket, threading

    def serve(connection):
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
            while b"\\r\\n\\r\\n" in data:
                head, _, rest = data.partition(b"\\r\\n\\r\\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\\r\\n")[0] or 0)
                if len(rest) < length:
                    break
                print(head.split(b" ")[0].decode(), rest[:length].decode(), flush=True)
                data = rest[length:]
                connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")

    listener = socket.create_server(("10.77.2.2", 8000))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""

# Opens a connection with a GET, so that the POST needs no handshake. With "control" as its name, it closes the
# connection as any other program does.
CLIENT = """
    import socket, sys, threading
    from payarc_provider.api.http import Request, Transport

    name, timeout = sys.argv[1], float(sys.argv[2])

    def send():
        try:
            transport.send(Request("POST", fields={"name": name}), "token")
        except Exception as error:
            print(type(error).__name__, flush=True)

    print("ready", flush=True)
    sys.stdin.readline()
    if name == "control":
        sock = socket.create_connection(("10.77.2.2", 8000))
    else:
        transport = Transport("http://10.77.2.2:8000/v1", timeout=timeout, verify=True)
        transport.send(Request("GET"), "token")
    print("connected", flush=True)
    sys.stdin.readline()
    if name == "control":
        sock.sendall(b"POST / HTTP/1.1\\r\\nContent-Length: 12\\r\\n\\r\\nname=control")
        sock.close()
    else:
        if name == "close":
            threading.Timer(0.3, transport.close).start()
        send()
    sys.stdin.readline()
"""

# Name of the client → the signal by which it gives its request up, and the deadline of the request in seconds.
CLIENTS: dict[str, tuple[signal.Signals | None, float]] = {
    "control": (None, TIMEOUT),
    "deadline": (None, TIMEOUT),
    "close": (None, 10.0),
    "terminated": (signal.SIGTERM, 10.0),
    "killed": (signal.SIGKILL, 10.0),
    "suspended": (signal.SIGSTOP, TIMEOUT),
}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    skip_without_namespaces()
    with contextlib.ExitStack() as stack:
        yield Network(stack)


@pytest.fixture(scope="module")
def arrived(network: Network) -> list[str]:
    """The names of the clients whose POST arrived after the partition."""
    server = network.start("server", SERVER)
    clients = {name: network.start("client", CLIENT, name, str(each[1])) for name, each in CLIENTS.items()}
    assert [_line(process) for process in (server, *clients.values())] == ["ready"] * (1 + len(clients))
    for client in clients.values():
        _tell(client)
    assert [_line(client) for client in clients.values()] == ["connected"] * len(clients)
    network.forward(False)
    for client in clients.values():
        _tell(client)
    time.sleep(TIMEOUT / 4)  # until the bytes have left the processes
    for name, (number, _) in CLIENTS.items():
        if number is not None:
            clients[name].send_signal(number)
    for name in ("deadline", "close"):
        assert _line(clients[name]) == "PayarcUnknownOutcome"
    time.sleep(PARTITION - TIMEOUT)
    network.forward(True)
    time.sleep(AFTERWARDS)
    server.kill()
    lines = server.communicate()[0].split("\n")
    return [line.removeprefix("POST name=") for line in lines if line.startswith("POST")]


def test_a_connection_that_was_closed_orderly_delivers_its_request_late(arrived: list[str]) -> None:
    """Shows that the partition is one that the kernel outlives."""
    assert "control" in arrived


@pytest.mark.parametrize("name", [name for name in CLIENTS if name != "control"])
def test_a_request_given_up_in_a_partition_does_not_arrive_after_it(arrived: list[str], name: str) -> None:
    assert name not in arrived
