"""The server: starting and stopping, its clock, its state file and its command line."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from email.utils import parsedate_to_datetime

import pytest
import requests
from requests.exceptions import ConnectionError
from sandbox_client import JOHN, Client, eventually

from payarc_provider.sandbox import SANDBOX_TOKEN, SandboxServer


def test_the_fixture_sets_the_airflow_connection(payarc_sandbox):
    connection = json.loads(os.environ["AIRFLOW_CONN_PAYARC_DEFAULT"])

    assert connection == {"conn_type": "payarc", "password": SANDBOX_TOKEN, "host": payarc_sandbox.url}
    assert json.loads(payarc_sandbox.connection_json("t", timeout=2)) == connection | {
        "password": "t",
        "extra": {"timeout": 2},
    }


def test_it_starts_and_stops_quickly_even_while_a_request_hangs():
    begun = time.monotonic()
    sandbox = SandboxServer(latency=0.0)
    sandbox.start()
    assert time.monotonic() - begun < 0.3
    sandbox.faults([{"kind": "hang_after"}])
    failed = threading.Event()

    def create():
        with Client(sandbox) as client, pytest.raises(ConnectionError):
            client.create()
        failed.set()

    thread = threading.Thread(target=create)
    thread.start()
    eventually(lambda: len(sandbox.customers()) == 1)

    begun = time.monotonic()
    sandbox.stop()

    assert time.monotonic() - begun < 1
    assert failed.wait(1)


def test_a_state_file_keeps_customers_across_restarts(tmp_path):
    path = tmp_path / "state.db"
    with SandboxServer(state=path, seed=1) as sandbox, Client(sandbox) as client:
        kept, changed, deleted = (client.create().json()["data"]["customer_id"] for _ in range(3))
        client.patch(f"/{changed}", json={"name": "Jane Smith"})
        client.delete(f"/{deleted}")

    with SandboxServer(state=path, seed=1) as sandbox, Client(sandbox) as client:
        new = client.create().json()["data"]["customer_id"]
        assert [row["customer_id"] for row in client.rows()] == [new, changed, kept]
        assert client.get(f"/{changed}").json()["data"]["name"] == "Jane Smith"
        assert [row["created_by_request"] for row in sandbox.customers()] == [1, 2, 3]
        sandbox.reset()

    with SandboxServer(state=path) as sandbox:
        assert sandbox.customers() == []


def test_every_response_has_one_date(client, sandbox):
    responses = [
        client.create(),
        client.get("/unknown"),
        client.create({"name": "Jo"}),
        requests.get(f"{sandbox.url}/customers", timeout=5),
        requests.get(f"{sandbox.origin}/nowhere", timeout=5),
        requests.get(f"{sandbox.origin}/_sandbox/stats", timeout=5),
    ]

    for response in responses:
        [date] = response.raw.headers.getlist("Date")
        assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 2


def test_payarcs_clock_can_differ_from_ours(client, sandbox):
    sandbox.settings(clock_offset=-3600)

    response = client.create()

    for moment in (parsedate_to_datetime(response.headers["Date"]).timestamp(), response.json()["data"]["created_at"]):
        assert abs(moment + 3600 - time.time()) < 3


def test_latency_and_jitter(client, sandbox):
    sandbox.settings(latency=0.1, jitter=0.01)

    assert 0.1 <= client.create().elapsed.total_seconds() < 0.5


def start(*arguments):
    command = [sys.executable, "-m", "payarc_provider.sandbox", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, [process.stdout.readline().strip() for _ in range(4)]


def test_the_command_prints_its_address_and_stops_on_sigterm():
    process, lines = start("--rate-limit", "30", "--id-style", "guide", "--time-style", "guide")
    url = re.fullmatch(r"PayArc sandbox: (http://127\.0\.0\.1:\d+/v1)", lines[0])[1]
    token = re.fullmatch(r"token: +(\S+)", lines[1])[1]
    connection = json.loads(re.search(r"AIRFLOW_CONN_PAYARC_DEFAULT='(.*)'", lines[2])[1])
    control = re.search(r"http\S+", lines[3])[0]

    response = requests.post(f"{url}/customers", json=JOHN, headers={"Authorization": f"Bearer {token}"}, timeout=5)
    stats = requests.get(control, timeout=5).json()
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(5)

    assert response.json()["data"]["id"]
    assert response.headers["X-RateLimit-Remaining"] == "29"
    assert connection == {"conn_type": "payarc", "password": token, "host": url}
    assert stats["customers"] == {"1": 1}
    assert time.monotonic() - begun < 1


def test_a_state_file_survives_a_kill(tmp_path):
    process, lines = start("--state", str(tmp_path / "state.db"))
    url = lines[0].split()[-1]
    headers = {"Authorization": f"Bearer {SANDBOX_TOKEN}"}

    ids = [
        requests.post(f"{url}/customers", json=JOHN, headers=headers, timeout=5).json()["data"]["customer_id"]
        for _ in range(5)
    ]
    process.kill()
    process.wait(5)

    with SandboxServer(state=tmp_path / "state.db") as sandbox:
        assert [row["customer_id"] for row in sandbox.customers()] == ids


def test_the_sandbox_does_not_import_airflow():
    check = "import sys, payarc_provider.sandbox.__main__; assert 'airflow' not in sys.modules"

    subprocess.run([sys.executable, "-c", check], check=True)
