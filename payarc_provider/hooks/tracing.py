"""OpenTelemetry spans, where Airflow is installed with OpenTelemetry.

A span is a child of the current one, such as the span of Airflow's task. Its attributes are counts, codes and endpoints
only. Of an exception, only the class is recorded, because a message or a stack trace could quote a record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from payarc_provider import __version__
from payarc_provider.api.tracing import NO_TRACER, Attributes, Span, Tracer

if TYPE_CHECKING:
    from opentelemetry import trace

NAME = "payarc_provider"
STATUS = "http.response.status_code"


def get_tracer() -> Tracer:
    """The tracer of runs, batches and requests; one that does nothing if OpenTelemetry is not installed."""
    try:
        from opentelemetry import trace
    except ImportError:  # Airflow 2.11 without its extra "otel"
        return NO_TRACER
    return OpenTelemetryTracer(trace.get_tracer(NAME, __version__))


class OpenTelemetryTracer:
    """Starts OpenTelemetry spans."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextlib.contextmanager
    def span(self, name: str, attributes: Attributes) -> Iterator[Span]:
        """A span within the current one."""
        from opentelemetry.trace import SpanKind

        kind = SpanKind.CLIENT if "http.request.method" in attributes else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield OpenTelemetrySpan(span)
            except BaseException as error:
                _mark_failed(span, type(error).__name__)
                raise


class OpenTelemetrySpan:
    """A span in progress."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set_attributes(self, attributes: Attributes) -> None:
        """Add attributes; a status of 400 or more marks the span as failed."""
        self._span.set_attributes(dict(attributes))
        if int(attributes.get(STATUS, 0)) >= 400:
            _mark_failed(self._span, str(attributes[STATUS]))


def _mark_failed(span: Any, error_type: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)
