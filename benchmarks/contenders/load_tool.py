"""dlt with a custom destination, with dlt's own ``requests`` (which retries), and an incremental source."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import dlt
from dlt.sources.helpers import requests

from benchmarks.contenders import default_logs
from benchmarks.people import CHANGED, payload, read_crm


def run(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """POST the records that are new since the last load, in files that are loaded in parallel."""

    def create(row: dict[str, Any], headers: dict[str, str]) -> Any:
        return requests.post(f"{url}/customers", json=payload(row), headers=headers, timeout=30)

    return _load(create, "id", token, crm, state, threads, limit)


def change(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """PATCH the customers of the records that have changed since the last load."""

    def patch(row: dict[str, Any], headers: dict[str, str]) -> Any:
        fields = {name: row[name] for name in CHANGED}
        return requests.patch(f"{url}/customers/{row['customer_id']}", json=fields, headers=headers, timeout=30)

    return _load(patch, "updated_at", token, crm, state, threads, limit)


def _load(
    send: Callable[[dict[str, Any], dict[str, str]], Any],
    cursor: str,
    token: str,
    crm: str,
    state: str,
    threads: int,
    limit: list[float] | None,
) -> dict[str, Any]:
    rows = read_crm(crm)
    os.environ |= {
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "WARNING" if default_logs() else "CRITICAL",
        "RUNTIME__REQUEST_MAX_ATTEMPTS": "30",
        "RUNTIME__REQUEST_BACKOFF_FACTOR": "0.5",
        "RUNTIME__REQUEST_MAX_RETRY_DELAY": str(limit[1] if limit else 5),
        "LOAD__WORKERS": str(threads),
        "DATA_WRITER__FILE_MAX_ITEMS": str(max(1, -(-len(rows) // threads))),
        "DATA_WRITER__BUFFER_MAX_ITEMS": str(max(1, -(-len(rows) // threads))),
    }

    @dlt.destination(batch_size=10, name="payarc")
    def payarc(items: Any, table: Any) -> None:
        for row in items:
            send(row, {"Authorization": f"Bearer {token}"}).raise_for_status()

    @dlt.resource(name="people")
    def source(after: Any = dlt.sources.incremental(cursor, initial_value=0)) -> Any:  # noqa: B008 - dlt's own form
        yield [row for row in rows if row[cursor] > after.last_value]

    pipeline = dlt.pipeline("bench", destination=payarc, pipelines_dir=state)
    pipeline.run(source())
    return {}
