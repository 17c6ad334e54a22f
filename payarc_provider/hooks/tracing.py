"""OpenTelemetry spans, where Airflow brings OpenTelemetry; else nobody is told.

Spans lie within whatever span is current, such as that of Airflow's task. They hold counts, codes and endpoints only;
of an exception its class and nothing more, for a message or a stack could quote what it should not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from payarc_provider import __version__
from payarc_provider.api.observer import SILENT, Facts, Observer, Span

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

NAME = "payarc_provider"
STATUS = "http.response.status_code"


def tracing() -> Observer:
    """Who is to be told of runs, batches and requests."""
    try:
        from opentelemetry import trace
    except ImportError:  # Airflow 2.11 without its extra "otel"
        return SILENT
    return OpenTelemetry(trace.get_tracer(NAME, __version__))


class OpenTelemetry:
    """Makes a span of what goes on."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextlib.contextmanager
    def span(self, name: str, facts: Facts) -> Iterator[Span]:
        """A span within the current one."""
        from opentelemetry.trace import SpanKind

        kind = SpanKind.CLIENT if "http.request.method" in facts else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=dict(facts), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield _Noting(span)
            except BaseException as error:
                _fail(span, type(error).__name__)
                raise


class _Noting:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def note(self, facts: Facts) -> None:
        """As the span's attributes; a status from 400 on is a failure."""
        self._span.set_attributes(dict(facts))
        if int(facts.get(STATUS, 0)) >= 400:
            _fail(self._span, str(facts[STATUS]))


def _fail(span: Any, what: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", what)
    span.set_status(StatusCode.ERROR)
