"""PayArc's faults: lost and late responses, misconfigured runs, unreachable servers."""

from __future__ import annotations

import dataclasses
import socket
from collections import Counter

import pytest
from engine_bench import LONG, QUICK, people

from payarc_provider.exceptions import PayarcAuthError, PayarcConnectionFailed, PayarcRunStopped, PayarcUnexpectedAnswer
from payarc_provider.sandbox import SandboxServer
from payarc_provider.sync.settings import Settings

FAULTS = [
    {"kind": "lost_before"},
    {"kind": "lost_after"},
    {"kind": "status_before", "status": 500},
    {"kind": "status_after", "status": 500},
    {"kind": "status_after", "status": 408},
    {"kind": "html_before", "status": 502},
    {"kind": "html_after", "status": 502},
    {"kind": "cut_before"},
    {"kind": "cut_after"},
    {"kind": "garbage_before"},
    {"kind": "garbage_after"},
    {"kind": "garbage_after", "status": 200, "body": "{}"},
    {"kind": "status_after", "status": 401},
    {"kind": "html_after", "status": 429},
    {"kind": "html_after", "status": 422},
    {"kind": "garbage_after", "status": 409, "body": '{"error": "conflict"}'},
    {"kind": "garbage_after", "status": 201, "body": '{"data": {"object": "customer"}}'},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(map(str, fault.values())))
def test_an_unanswered_request_is_looked_up_before_it_is_sent_again(sqlite_bench, fault):
    rows = people(16)
    sqlite_bench.sandbox.faults([{**fault, "every": 4}])
    outcome = sqlite_bench.run(rows).ok()
    sqlite_bench.check(rows, outcome)
    fired = sqlite_bench.sandbox.stats()["faults"][fault["kind"]]
    assert outcome.counts["unknown"] == fired >= 4
    assert outcome.counts["found"] == (fired if fault["kind"].endswith("_after") else 0)
    assert outcome.requests["POST"] == 16 + (0 if fault["kind"].endswith("_after") else fired)
    assert outcome.statuses == {"created": 16}
    assert sqlite_bench.nothing_is_leased()


def test_hanging_and_late_requests_are_looked_up_after_settle(sqlite_bench):
    rows = people(12)
    sqlite_bench.sandbox.faults(
        [
            {"kind": "hang_before", "seconds": 1.3, "match": {"email": "j1@example.com"}},
            {"kind": "hang_after", "seconds": 1.3, "match": {"email": "j2@example.com"}},
            {"kind": "late_commit", "seconds": 1.3, "match": {"email": "j3@example.com"}},
            {"kind": "late_commit", "seconds": 0.3, "status": 504, "match": {"email": "j4@example.com"}},
        ]
    )
    outcome = sqlite_bench.run(rows, Settings(timeout=1, settle=3, lease=30)).ok()
    sqlite_bench.check(rows, outcome)
    assert outcome.counts["found"] >= 4


def test_all_faults_together_leave_one_customer_per_record(bench):
    rows = people(60)
    periods = {
        "lost_after": 5,
        "status_before": 7,
        "html_after": 9,
        "cut_after": 11,
        "lost_before": 13,
        "cut_before": 17,
    }
    bench.sandbox.faults([{"kind": kind, "every": every} for kind, every in periods.items()])
    bench.sandbox.faults([{"kind": "rate_limited", "seconds": 0.2, "skip": 30}])
    outcome = bench.run(rows, dataclasses.replace(QUICK, batch_size=25)).ok()
    bench.check(rows, outcome)
    assert bench.states() == {"created": 60}


@pytest.mark.parametrize("description", [LONG, None])
def test_customers_without_a_reference_are_found_by_their_fields(sqlite_bench, description):
    rows = people(16, description=description)
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "every": 3}, {"kind": "lost_before", "every": 5}])
    settings = dataclasses.replace(QUICK, reference=description is not None)
    outcome = sqlite_bench.run(rows, settings).ok()
    sqlite_bench.check(rows, outcome)
    assert outcome.counts["found"] >= 5


def test_equal_records_get_a_customer_each(sqlite_bench):
    rows = [{"id": number, "name": "John Smith"} for number in range(12)]
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "every": 3}, {"kind": "lost_before", "every": 4}])
    for settings in (QUICK, dataclasses.replace(QUICK, reference=False)):
        outcome = sqlite_bench.run([{**row, "id": f"{settings.reference} {row['id']}"} for row in rows], settings).ok()
        assert len(set(outcome.ids)) == 12
    assert len(sqlite_bench.sandbox.customers()) == 24


def test_a_run_stops_if_no_response_is_usable_and_a_later_one_completes(sqlite_bench):
    rows = people(30)
    sqlite_bench.sandbox.faults([{"kind": "lost_after", "times": None}])
    settings = dataclasses.replace(QUICK, max_unknown_in_a_row=4, max_pauses=1, max_tries=3)
    stopped = sqlite_bench.run(rows, settings)
    assert isinstance(stopped.error, PayarcRunStopped)
    assert "Run again" in str(stopped.error)
    assert sqlite_bench.nothing_is_leased()
    sqlite_bench.sandbox.clear_faults()
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


@pytest.mark.parametrize("kind", ["lost_before", "status_before", "html_before"])
def test_after_an_outage_no_person_is_asked_to_decide(sqlite_bench, kind):
    rows = people(5)
    sqlite_bench.sandbox.faults([{"kind": kind, "times": None, "method": "POST"}])
    outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, max_tries=1))
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "left pending: " in str(outcome.error)
    assert "(and 4 more); instead of responses: " in str(outcome.error)
    assert str(outcome.error).endswith("Run again later; nothing is sent twice")
    assert "resolve" not in str(outcome.error)
    sqlite_bench.sandbox.clear_faults()
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


def test_a_record_without_a_response_does_not_stop_the_others(sqlite_bench):
    rows = people(8)
    sqlite_bench.sandbox.faults([{"kind": "lost_before", "times": None, "match": {"email": "j3@example.com"}}])
    outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, max_tries=2))
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "1 record is" in str(outcome.error)
    assert "3: " in str(outcome.error)
    assert outcome.counts["created"] == len(sqlite_bench.sandbox.customers()) == 7
    sqlite_bench.sandbox.clear_faults()
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


MISCONFIGURED = [
    ("unauthorized", PayarcAuthError),
    ("forbidden", PayarcAuthError),
    ("redirect", PayarcUnexpectedAnswer),
    ("not_found", PayarcUnexpectedAnswer),
]


@pytest.mark.parametrize(("kind", "error"), MISCONFIGURED)
def test_a_misconfigured_run_stops_and_a_later_one_completes(sqlite_bench, kind, error):
    rows = people(40)
    sqlite_bench.sandbox.faults([{"kind": kind, "skip": 10, "times": None}])
    stopped = sqlite_bench.run(rows)
    assert isinstance(stopped.error, error)
    assert len(sqlite_bench.sandbox.customers()) == stopped.counts["created"] == 10
    failed = sqlite_bench.sandbox.stats()["faults"][kind]
    assert failed <= QUICK.concurrency, "only the requests in flight may fail"
    assert sqlite_bench.nothing_is_leased()
    sqlite_bench.sandbox.clear_faults()
    sqlite_bench.check(rows, sqlite_bench.run(rows).ok())


def test_a_401_leaves_no_pending_row(sqlite_bench):
    sqlite_bench.sandbox.faults([{"kind": "unauthorized", "skip": 10, "times": None}])
    sqlite_bench.run(people(40))
    assert sqlite_bench.states() == {"created": 10}


@pytest.mark.parametrize(("kind", "error"), MISCONFIGURED)
def test_a_run_that_is_misconfigured_from_the_start_claims_nothing(sqlite_bench, kind, error):
    sqlite_bench.sandbox.faults([{"kind": kind, "method": "*", "times": None}])
    stopped = sqlite_bench.run(people(5))
    assert isinstance(stopped.error, error)
    assert sqlite_bench.rows() == {}
    assert sqlite_bench.sandbox.log() == []


def test_a_run_waits_while_the_server_restarts(tmp_path, sqlite_bench, listen, caplog):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = [SandboxServer(port=port, state=tmp_path / "customers.db")]
    servers[0].start()
    sends = Counter()

    def on(point):
        sends[point] += 1
        if point == "before_send" and sends[point] == 1:
            servers[0].stop()
        if point == "before_send" and sends[point] == 5:
            servers.append(SandboxServer(port=port, state=tmp_path / "customers.db"))
            servers[1].start()

    listen(on)
    rows = people(12)
    try:
        outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, concurrency=4), url=servers[0].url).ok()
        customers = servers[1].customers()
    finally:
        for server in servers:
            server.stop()
    assert {customer["customer_id"] for customer in customers} == set(outcome.ids)
    assert len(customers) == len(outcome.ids) == 12
    assert "No connection to PayArc" in caplog.text
    assert outcome.requests["POST"] == 12 + outcome.counts["unknown"], "requests that could not connect do not count"


def test_an_unreachable_server_stops_the_run_before_it_claims_anything(sqlite_bench, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    settings = dataclasses.replace(QUICK, max_connection_failures_in_a_row=1)
    outcome = sqlite_bench.run(people(5), settings, url=url)
    assert isinstance(outcome.error, PayarcConnectionFailed)
    assert sqlite_bench.rows() == {}
