"""Metrics, spans, log lines and assets: what a run reports, and that reporting never stops it."""

from __future__ import annotations

import datetime
import json
import logging
import subprocess
import sys
from collections import Counter
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest

from payarc_provider.api.client import PayarcClient
from payarc_provider.api.tracing import NO_TRACER
from payarc_provider.assets import customers_asset, customers_uri, is_payarc_asset, openlineage_name, sanitize_uri
from payarc_provider.exceptions import PayarcConnectionFailed
from payarc_provider.hooks import tracing
from payarc_provider.operators.reporting import TaskReporter, closing_line, opening_line, progress_line
from payarc_provider.sync.results import Progress

URL = "https://testapi.payarc.net/v1"
TAGS = {"dag_id": "d", "task_id": "t"}


def make_reporter(logger=None, *, dry_run=False):
    logger = logger or logging.getLogger("task")
    return TaskReporter(logger, uri="payarc://test/main/customers", tags=TAGS, dry_run=dry_run)


def make_progress(seconds=1.0, requests=None, **counts):
    return Progress(counts=Counter(counts), seconds=seconds, requests=Counter(requests or {}))


# ---- log lines ------------------------------------------------------------------------------------------------------


def test_the_opening_line_names_all_that_a_run_works_with():
    line = opening_line(
        "Creating customers",
        conn_id="payarc_default",
        account="live/main",
        source="table people of crm",
        ledger="payarc_customers in crm",
    )
    assert line == (
        "Creating customers: connection payarc_default (live, merchant main), source table people of crm, "
        "ledger payarc_customers in crm"
    )


def test_a_progress_line_has_the_counts_the_rate_and_the_time_left():
    progress = make_progress(seconds=10.0, created=30, recorded_created=30, known=9, rejected=1)
    progress.total = 100
    assert progress_line(progress) == "40 of 100 records: 30 created, 9 known, 1 rejected; 4.0/s, about 15 s left"


def test_the_rate_is_that_of_the_last_minute():
    earlier = [make_progress(seconds=100.0, known=10_000), make_progress(seconds=110.0, known=10_000, created=5)]
    progress = make_progress(seconds=120.0, known=10_000, created=10)
    progress.total = 10_020
    assert progress_line(progress, earlier).endswith("10000 known, 0 rejected; 0.5/s, about 20 s left")


def test_there_is_no_estimate_while_nothing_moves():
    earlier = [make_progress(seconds=seconds, known=5) for seconds in (10.0, 20.0, 30.0)]
    progress = make_progress(seconds=40.0, known=5)
    progress.total = 100
    assert progress_line(progress, earlier) == "5 of 100 records: 0 created, 5 known, 0 rejected; no result for 30 s"
    progress.waiting = "to look up 3 records at 09:05:00 UTC"
    assert progress_line(progress, earlier) == (
        "5 of 100 records: 0 created, 5 known, 0 rejected; waiting to look up 3 records at 09:05:00 UTC"
    )


def test_a_wait_for_the_rate_limit_is_part_of_the_rate():
    earlier = [make_progress(seconds=10.0), make_progress(seconds=20.0, created=30)]
    progress = make_progress(seconds=40.0, created=30)
    progress.total, progress.waiting = 90, "for PayArc's rate limit until 09:05:00 UTC"
    assert progress_line(progress, earlier).endswith(
        "; waiting for PayArc's rate limit until 09:05:00 UTC; 1.0/s, about 1 min 0 s left"
    )
    earlier = [progress, progress]
    assert progress_line(progress, earlier).endswith("until 09:05:00 UTC")


def test_the_closing_line_adds_up_and_counts_requests():
    counts = {"created": 30, "recorded_created": 30, "adopted": 1, "recorded_adopted": 1, "known": 9, "rejected": 1}
    progress = make_progress(seconds=61.04, requests={"POST": 31, "GET": 2}, **counts)
    progress.records_read, progress.total, progress.repeated = 43, 43, 2
    assert closing_line(progress) == (
        "41 records in 61.0 s: 30 created, 1 adopted, 9 known, 1 rejected; 2 repeated; 33 requests, 31 POSTs"
    )


def test_the_closing_line_of_a_stopped_run_counts_the_open_records():
    progress = make_progress(requests={"POST": 5}, created=3, recorded_created=3)
    progress.records_read, progress.total, progress.repeated = 10, 21, 1
    assert closing_line(progress) == (
        "3 of 20 records in 1.0 s: 3 created, 0 known, 0 rejected, 6 open; 1 repeated; 5 requests, 5 POSTs"
    )


@pytest.mark.parametrize(("count", "words"), [(0, ""), (1, "; 1 id written back"), (7, "; 7 ids written back")])
def test_the_closing_line_counts_the_ids_that_were_written_back(count, words):
    line = closing_line(make_progress(known=9, written_back=count))
    assert line == f"9 records in 1.0 s: 0 created, 9 known, 0 rejected; 0 requests, 0 POSTs{words}"


def test_the_closing_line_counts_changes():
    counts = {"updated": 5, "recorded_updated": 5, "known": 4, "stale": 1, "altered": 2, "conflicts": 1, "changed": 3}
    progress = make_progress(requests={"PATCH": 5, "GET": 6}, **counts)
    assert closing_line(progress) == (
        "9 records in 1.0 s: 0 created, 5 updated, 4 known, 0 rejected (including 3 changed, 1 stale, 2 altered, "
        "1 in conflict); 11 requests, 0 POSTs, 5 PATCHes"
    )
    progress = make_progress(requests={"PATCH": 1}, updated=1, recorded_updated=1)
    assert closing_line(progress).endswith("; 1 request, 0 POSTs, 1 PATCH")


def test_a_repeated_task_says_what_an_earlier_try_has_created():
    progress = make_progress(requests={"POST": 1}, created=30, recorded_created=3, recorded_for_others=2)
    assert closing_line(progress).startswith("30 records in 1.0 s: 30 created (29 earlier in this DAG run), 0 known")


def test_lines_use_the_singular_for_one():
    progress = make_progress(requests={"POST": 1}, would_create=1)
    assert closing_line(progress) == ("1 record in 1.0 s: 0 known, 0 rejected, 1 would create; 1 request, 1 POST")


@pytest.mark.parametrize(("rest", "left"), [(9, "9 s"), (130, "2 min 10 s"), (7260, "2 h 1 min")])
def test_the_time_left_is_rounded_to_what_matters(rest, left):
    progress = make_progress(seconds=1.0, created=1, recorded_created=1)
    progress.total = 1 + rest
    assert progress_line(progress).endswith(f", about {left} left")


def test_what_came_instead_of_responses_is_warned_about_at_the_end():
    progress = make_progress()
    progress.problems = Counter({"timeout": 2, "503": 5, "lost connection": 1})
    logger = Mock(spec=logging.Logger)
    make_reporter(logger).ended(progress, deferred=False)
    ((text, words),) = (call.args for call in logger.warning.call_args_list)
    assert text % words == (
        "Requests without a usable response: 503 (5 times), timeout (twice), lost connection (once)"
    )


def test_columns_that_look_like_fields_and_keys_that_look_personal_are_warned_about_once():
    progress = make_progress()
    progress.lookalikes, progress.personal_keys = {"e_mail": "email"}, {"email address": 1}
    logger = Mock(spec=logging.Logger)
    reporter = make_reporter(logger)
    reporter.ended(progress, deferred=True)
    logger.warning.assert_not_called()
    reporter.ended(progress, deferred=False)
    column, key = (call.args[0] % call.args[1:] for call in logger.warning.call_args_list)
    assert column.startswith('Column "e_mail" is not sent because PayArc has no such field.')
    assert key.startswith("1 key looks like an email address.")


@pytest.mark.parametrize(("dry_run", "deferred"), [(True, False), (True, True), (False, False)])
def test_a_dry_run_says_that_payarc_may_require_emails(dry_run, deferred):
    logger = Mock(spec=logging.Logger)
    reporter = TaskReporter(logger, uri="payarc://test/1", tags={}, dry_run=dry_run)
    reporter.ended(make_progress(would_create=3, without_email=2), deferred=deferred)
    texts = [call.args[0] % call.args[1:] for call in logger.warning.call_args_list]
    said = [text for text in texts if text.startswith("2 customers to be created have no email address. PayArc may")]
    assert len(said) == (dry_run and not deferred)


# ---- metrics --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch):
    """What is sent to Airflow's Stats."""
    from airflow.providers.common.compat.sdk import Stats

    calls = []
    monkeypatch.setattr(Stats, "incr", lambda name, count, tags: calls.append((name, count, tags)))
    monkeypatch.setattr(Stats, "timing", lambda name, dt, tags: calls.append((name, dt, tags)))
    return calls


def test_metrics_are_sent_as_increments(sent):
    reporter = make_reporter()
    reporter.progress(make_progress())
    assert sent == []
    reporter.progress(make_progress(recorded_created=3, requests={"POST": 4}))
    reporter.progress(make_progress(recorded_created=3, requests={"POST": 4}))
    reporter.ended(make_progress(seconds=9.0, recorded_created=5, requests={"POST": 4}), deferred=False)
    assert sent == [
        ("payarc.customers.created", 3, TAGS),
        ("payarc.requests", 4, {**TAGS, "method": "POST"}),
        ("payarc.customers.created", 2, TAGS),
        ("payarc.run.duration", datetime.timedelta(seconds=9), TAGS),
    ]


def test_records_that_a_run_only_read_are_counted_when_it_ends_and_not_when_it_is_deferred(sent):
    counts = {"known": 7, "known_rejected": 2, "recorded_rejected": 1, "rejected": 3}
    make_reporter().ended(make_progress(**counts), deferred=True)
    assert {name: count for name, count, _ in sent[:-1]} == {"payarc.customers.rejected": 1}
    sent.clear()
    make_reporter().ended(make_progress(**counts), deferred=False)
    assert {name: count for name, count, _ in sent[:-1]} == {
        "payarc.customers.known": 7,
        "payarc.customers.rejected": 3,
    }


def test_a_dry_run_counts_requests_and_no_customers(sent):
    make_reporter(dry_run=True).ended(make_progress(requests={"GET": 1}, known=3), deferred=False)
    assert [name for name, _, _ in sent] == ["payarc.requests", "payarc.run.duration"]


def test_waiting_for_the_rate_limit_is_sent_as_the_time_since_the_last_report(sent):
    reporter = make_reporter()
    for waited in (1.5, 1.5, 4.0):
        reporter.progress(Progress(rate_limit_wait=waited))
    assert [dt.total_seconds() for _, dt, _ in sent] == [1.5, 2.5]


def test_a_run_continues_when_metrics_cannot_be_sent(monkeypatch):
    from airflow.providers.common.compat.sdk import Stats

    def fail(*_args, **_kwargs):
        raise OSError("no route to the metrics server")

    monkeypatch.setattr(Stats, "incr", fail)
    monkeypatch.setattr(Stats, "timing", fail)
    make_reporter().ended(make_progress(recorded_created=1), deferred=False)


# ---- spans ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def spans():
    """A tracer, and the spans that it has finished."""
    trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, exporter = trace.TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return tracing.OpenTelemetryTracer(provider.get_tracer("test")), exporter.get_finished_spans


def client_of(tracer, tokens):
    return PayarcClient(URL, lambda newer: tokens[-1] if newer else tokens[0], tracer=tracer)


def test_a_request_repeated_with_a_new_token_has_its_own_span(spans, requests_mock):
    tracer, made = spans
    answers = [{"status_code": 401, "json": {"error": "Unauthenticated."}}, {"json": {"data": {"customer_id": "c1"}}}]
    requests_mock.get(f"{URL}/customers/c1", answers)
    client_of(tracer, ["old", "new"]).get_customer("c1")
    first, second = made()
    assert {span.name for span in made()} == {"GET /customers/{id}"}
    assert [span.attributes["http.request.resend_count"] for span in (first, second)] == [0, 1]
    assert [span.attributes["http.response.status_code"] for span in (first, second)] == [401, 200]
    assert [span.status.is_ok for span in (first, second)] == [False, True]


def test_a_span_has_the_attempt_and_only_the_class_of_an_exception(spans, requests_mock):
    tracer, made = spans
    requests_mock.post(f"{URL}/customers", exc=ConnectionRefusedError("to somewhere secret"))
    with pytest.raises(Exception) as failed:  # noqa: PT011 - the span must name its class
        client_of(tracer, ["t"]).create_customer({"name": "John Smith"}, attempt=3)
    (span,) = made()
    assert span.attributes["payarc.attempt"] == 3
    assert span.attributes["error.type"] == type(failed.value).__name__
    assert span.events == ()
    assert span.status.description is None
    assert "secret" not in span.to_json()


def test_a_request_stopped_by_the_guard_has_a_failed_span(spans, requests_mock):
    tracer, made = spans

    def stop():
        raise PayarcConnectionFailed("not now")

    with pytest.raises(PayarcConnectionFailed):
        client_of(tracer, ["t"]).create_customer({"name": "John Smith"}, before_send=stop)
    assert made()[0].attributes["error.type"] == "PayarcConnectionFailed"
    assert requests_mock.call_count == 0


def test_the_run_span_gets_its_counts_at_the_end_and_a_deferral_is_no_failure(spans, monkeypatch):
    tracer, finished = spans
    monkeypatch.setattr("payarc_provider.operators.reporting.get_tracer", lambda: tracer)
    reporter = make_reporter()
    with reporter.span("payarc.run", {"payarc.concurrency": 8}):
        with reporter.span("payarc.batch", {"payarc.batch.size": 3}):
            pass
        reporter.ended(make_progress(recorded_created=2, unknown=1, requests={"POST": 3}), deferred=True)
    batch, run = finished()
    assert batch.parent.span_id == run.context.span_id
    assert run.status.is_ok
    assert dict(run.attributes) == {
        "payarc.concurrency": 8,
        "payarc.customers.created": 2,
        "payarc.customers.updated": 0,
        "payarc.customers.known": 0,
        "payarc.customers.adopted": 0,
        "payarc.customers.rejected": 0,
        "payarc.customers.unknown": 1,
        "payarc.requests": 3,
        "payarc.deferred": True,
    }


def test_without_opentelemetry_nothing_is_traced(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert tracing.get_tracer() is NO_TRACER
    with NO_TRACER.span("anything", {}) as span:
        span.set_attributes({"payarc.requests": 1})


def test_openlineage_opentelemetry_and_statsd_are_not_loaded_with_the_operator():
    code = """
import json, sys
before = set(sys.modules)
import airflow.providers.common.compat.sdk as sdk
sdk.BaseOperator, sdk.conf, sdk.XComArg
airflows = set(sys.modules)
import payarc_provider.operators.customer, payarc_provider.assets
print(json.dumps(sorted(set(sys.modules) - airflows)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.strip().splitlines()[-1])
    heavy = ("openlineage", "opentelemetry", "statsd", "airflow.providers.openlineage", "requests", "sqlalchemy")
    assert [name for name in loaded if name.startswith(heavy)] == []


# ---- assets ---------------------------------------------------------------------------------------------------------


def test_an_account_may_have_any_name():
    assert customers_uri("live", "main") == "payarc://live/main/customers"
    assert customers_uri("test", "Café & Söhne/2") == "payarc://test/Caf%C3%A9%20%26%20S%C3%B6hne%2F2/customers"


@pytest.mark.filterwarnings("error")
def test_airflow_accepts_the_uri_unchanged():
    asset = customers_asset("live", "main")
    assert asset.uri == "payarc://live/main/customers"
    assert is_payarc_asset(asset)
    assert openlineage_name(asset.uri) == ("payarc://live", "main/customers")


def test_a_uri_without_an_environment_is_rejected_and_its_host_is_lowercased():
    with pytest.raises(ValueError, match="must name an environment"):
        sanitize_uri(urlsplit("payarc:///main/customers"))
    assert sanitize_uri(urlsplit("payarc://LIVE/Main/customers")).geturl() == "payarc://live/Main/customers"


@pytest.mark.parametrize("other", [object(), None, "payarc://live/main/customers", type("Outlet", (), {"uri": None})()])
def test_other_outlets_are_no_payarc_assets(other):
    assert not is_payarc_asset(other)
