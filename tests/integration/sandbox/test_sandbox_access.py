"""Who reaches the sandbox: no web page, and nobody else on the machine through its file."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import sys

import pytest
import requests
from sandbox_client import Client

from payarc_provider.sandbox import SandboxServer

RESET = "/_sandbox/reset"


def answer(sandbox, path="/_sandbox/stats", method="GET", **headers):
    return requests.request(method, sandbox.origin + path, headers=headers, json=None, timeout=5).status_code


def port_of(sandbox):
    return sandbox.origin.rpartition(":")[2]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "localhost.evil.example", "127.0.0.1.",
        "127.1:{port}", "2130706433", "localhost:{port}@evil.example", "evil.example:127.0.0.1", "", "[::1", "::1]:80",
    ],
)  # fmt: skip
def test_a_foreign_host_is_refused_and_changes_nothing(client, sandbox, host):
    client.create()
    for path in (RESET, "/_sandbox/faults", "/v1/customers"):
        assert answer(sandbox, path, "POST", Host=host.format(port=port_of(sandbox))) in (400, 403)
    assert answer(sandbox, Host=host.format(port=port_of(sandbox))) in (400, 403)
    assert sandbox.stats()["posts"]["received"] == len(sandbox.customers()) == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "127.0.0.1", "[::1]:{port}", "10.0.0.7:1"]
)
def test_localhost_and_addresses_are_answered(sandbox, host):
    assert answer(sandbox, Host=host.format(port=port_of(sandbox))) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:{port}"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", RESET), ("GET", "/_sandbox/customers"), ("OPTIONS", RESET)])
def test_a_page_of_another_server_is_refused_and_changes_nothing(client, sandbox, headers, method, path):
    client.create()
    given = {name: value.format(port=port_of(sandbox)) for name, value in headers.items()}
    assert answer(sandbox, path, method, **given) == 403
    assert len(sandbox.customers()) == 1


def test_a_page_of_its_own_is_answered(sandbox):
    assert answer(sandbox, Origin=sandbox.origin, **{"Sec-Fetch-Site": "same-origin"}) == 200
    assert answer(sandbox, **{"Sec-Fetch-Site": "none"}) == 200


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example\r\n"])
def test_a_request_without_one_host_is_refused(sandbox, hosts):
    with socket.create_connection(("127.0.0.1", int(port_of(sandbox))), timeout=5) as connection:
        connection.sendall(f"GET /_sandbox/stats HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        status = connection.recv(65536).split(b" ")[1]
    assert status in (b"400", b"403")


def test_further_names_can_be_allowed():
    with SandboxServer(allow_hosts=["PayArc"]) as sandbox:
        assert answer(sandbox, Host="payarc:8765") == 200
        assert answer(sandbox, Host="evil.example") == 403


def test_a_public_address_is_warned_about(caplog):
    with SandboxServer(host="0.0.0.0") as sandbox:
        assert sandbox.origin.startswith("http://0.0.0.0:")
    assert "bound to 0.0.0.0, so other machines can" in caplog.text
    caplog.clear()
    for host in ("127.0.0.1", "127.0.0.2" if sys.platform == "linux" else "127.0.0.1", "localhost"):
        with SandboxServer(host=host):
            pass
    assert caplog.text == ""


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_only_its_owner_can_read_the_state_file(tmp_path):
    new, old = tmp_path / "new.db", tmp_path / "old.db"
    sqlite3.connect(old).execute("CREATE TABLE t (x)")
    old.chmod(0o644)
    before = os.umask(0)
    try:
        for path in (new, old):
            with SandboxServer(state=path) as sandbox, Client(sandbox) as client:
                client.create()
                modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob(f"{path.name}*")}
                assert len(modes) > 1
                assert set(modes.values()) == {0o600}, modes
    finally:
        os.umask(before)


def test_a_state_file_that_cannot_be_created_is_an_error_of_sqlite(tmp_path):
    with pytest.raises(sqlite3.Error):
        SandboxServer(state=tmp_path / "no" / "such" / "folder.db")
