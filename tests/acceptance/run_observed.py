"""Run the DAGs named by the arguments and write their states and all spans to the file named first."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from airflow import __version__ as airflow_version
from airflow.utils.db import initdb

from payarc_provider.sync import runner

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag

DAGS = Path(__file__).with_name("observed_dags")


def main(report: Path, *names: str) -> None:
    """Run them in this order."""
    exporter = _exporter()
    runner.REPORT_SECONDS = 0.1
    initdb()
    bag = DagBag(str(DAGS))
    assert bag.import_errors == {}
    if airflow_version.startswith("2"):
        bag.sync_to_db()  # Airflow 2 accepts events of known datasets only, and `dag.test()` registers none
    with _around():
        states = [str(bag.dags[name].test().state) for name in names]
    spans = [_told(span) for span in exporter.get_finished_spans()] if exporter else None
    report.write_text(json.dumps({"states": states, "spans": spans, "hook_lineage": _hook_lineage()}))


def _exporter():
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ImportError:
        return None
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def _hook_lineage() -> dict[str, list[str]]:
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    collected = get_hook_lineage_collector().collected_assets
    return {
        "inputs": sorted({one.asset.uri for one in collected.inputs}),
        "outputs": sorted({one.asset.uri for one in collected.outputs}),
    }


def _around():
    """A span as Airflow runs a task in; `dag.test()` creates none."""
    try:
        from opentelemetry import trace
    except ImportError:
        return contextlib.nullcontext()
    return trace.get_tracer("airflow").start_as_current_span("task")


def _told(span) -> dict[str, object]:
    return {
        "id": span.context.span_id,
        "parent": span.parent and span.parent.span_id,
        "trace": span.context.trace_id,
        "name": span.name,
        "scope": span.instrumentation_scope.name,
        "attributes": dict(span.attributes),
        "events": len(span.events),
        "ok": span.status.is_ok,
        "words": span.status.description,
        "seconds": (span.end_time - span.start_time) / 1e9,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
