"""What is told of a run: increments, waits on the wall, spans; and nothing of it ever stops one."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections import Counter
from urllib.parse import urlsplit

import pytest

from payarc_provider.api.client import PayarcClient
from payarc_provider.api.tracing import NO_TRACER
from payarc_provider.assets import customers_asset, customers_uri, is_payarc_asset, openlineage_name, sanitize_uri
from payarc_provider.exceptions import PayarcConnectionFailed
from payarc_provider.hooks import tracing
from payarc_provider.operators.metrics import Meter

URL = "https://testapi.payarc.net/v1"
TAGS = {"dag_id": "d", "task_id": "t"}


# ---- metrics --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch):
    """What goes to Airflow's Stats."""
    from airflow.providers.common.compat.sdk import Stats

    calls = []
    monkeypatch.setattr(Stats, "incr", lambda name, count, tags: calls.append((name, count, tags)))
    monkeypatch.setattr(Stats, "timing", lambda name, dt, tags: calls.append((name, dt, tags)))
    return calls


def test_only_what_is_new_is_sent(sent):
    done, requests = Counter(), Counter()
    meter = Meter(lambda: done, lambda: requests, lambda: 0.0, lambda: 9.0, TAGS)
    meter.tell()
    assert sent == []
    done["created"], requests["POST"] = 3, 4
    meter.tell()
    meter.tell()
    done["created"] = 5
    meter.tell(end=True)
    assert sent == [
        ("payarc.customers.created", 3, TAGS),
        ("payarc.requests", 4, {**TAGS, "method": "POST"}),
        ("payarc.customers.created", 2, TAGS),
        ("payarc.run.duration", datetime.timedelta(seconds=9), TAGS),
    ]


def test_waiting_is_sent_as_the_time_since_the_last_report(sent):
    waited = [1.5]
    meter = Meter(dict, dict, lambda: waited[0], lambda: 0.0, TAGS)
    meter.tell()
    waited[0] = 4.0
    meter.tell()
    assert [dt.total_seconds() for _, dt, _ in sent] == [1.5, 2.5]


def test_where_metrics_cannot_be_sent_the_run_goes_on(monkeypatch):
    from airflow.providers.common.compat.sdk import Stats

    def fails(*_args, **_kwargs):
        raise OSError("no route to the metrics")

    monkeypatch.setattr(Stats, "incr", fails)
    Meter(lambda: {"created": 1}, dict, lambda: 0.0, lambda: 0.0, TAGS).tell(end=True)


# ---- spans ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def spans():
    """A tracer, and the spans that it has made."""
    trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, exporter = trace.TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return tracing.OpenTelemetryTracer(provider.get_tracer("test")), exporter.get_finished_spans


def client_of(tracer, tokens):
    return PayarcClient(URL, lambda newer: tokens[-1] if newer else tokens[0], tracer=tracer)


def test_a_request_sent_again_with_a_newer_token_is_a_span_of_its_own(spans, requests_mock):
    tracer, made = spans
    answers = [{"status_code": 401, "json": {"error": "Unauthenticated."}}, {"json": {"data": {"customer_id": "c1"}}}]
    requests_mock.get(f"{URL}/customers/c1", answers)
    client_of(tracer, ["old", "new"]).get_customer("c1")
    first, second = made()
    assert {span.name for span in made()} == {"GET /customers/{id}"}
    assert [span.attributes["http.request.resend_count"] for span in (first, second)] == [0, 1]
    assert [span.attributes["http.response.status_code"] for span in (first, second)] == [401, 200]
    assert [span.status.is_ok for span in (first, second)] == [False, True]


def test_the_attempt_is_told_and_of_a_failure_its_class_alone(spans, requests_mock):
    tracer, made = spans
    requests_mock.post(f"{URL}/customers", exc=ConnectionRefusedError("to somewhere secret"))
    with pytest.raises(Exception) as failed:  # noqa: PT011 - which one is what the span must tell
        client_of(tracer, ["t"]).create_customer({"name": "John Smith"}, attempt=3)
    (span,) = made()
    assert span.attributes["payarc.attempt"] == 3
    assert span.attributes["error.type"] == type(failed.value).__name__
    assert span.events == ()
    assert span.status.description is None
    assert "secret" not in span.to_json()


def test_what_the_guard_stops_is_told_too(spans, requests_mock):
    tracer, made = spans

    def stop():
        raise PayarcConnectionFailed("not now")

    with pytest.raises(PayarcConnectionFailed):
        client_of(tracer, ["t"]).create_customer({"name": "John Smith"}, before_send=stop)
    assert made()[0].attributes["error.type"] == "PayarcConnectionFailed"
    assert requests_mock.call_count == 0


def test_without_opentelemetry_nobody_is_told(monkeypatch):
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
def test_airflow_takes_the_uri_as_it_is():
    asset = customers_asset("live", "main")
    assert asset.uri == "payarc://live/main/customers"
    assert is_payarc_asset(asset)
    assert openlineage_name(asset.uri) == ("payarc://live", "main/customers")


def test_a_uri_without_an_environment_is_refused_and_its_host_is_lowered():
    with pytest.raises(ValueError, match="must name an environment"):
        sanitize_uri(urlsplit("payarc:///main/customers"))
    assert sanitize_uri(urlsplit("payarc://LIVE/Main/customers")).geturl() == "payarc://live/Main/customers"


@pytest.mark.parametrize("other", [object(), None, "payarc://live/main/customers", type("Outlet", (), {"uri": None})()])
def test_other_outlets_are_not_ours(other):
    assert not is_payarc_asset(other)
