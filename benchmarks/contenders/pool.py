"""A script with ``requests`` in a pool of threads, a session for each, and no ledger."""

from __future__ import annotations

import queue
import threading
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from benchmarks.people import payload, read_crm


def run(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """POST each record once."""
    rows: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for row in read_crm(crm):
        rows.put(payload(row))
    ids: list[str] = []

    def work() -> None:
        session = requests.Session()
        session.headers.update({"Authorization": f"Bearer {token}", "Accept": "application/json"})
        if limit:
            again = Retry(total=100, status_forcelist=[429], allowed_methods=None, respect_retry_after_header=True)
            session.mount("http://", HTTPAdapter(max_retries=again))
        while True:
            try:
                fields = rows.get_nowait()
            except queue.Empty:
                return
            answer = session.post(f"{url}/customers", json=fields, timeout=30)
            answer.raise_for_status()
            ids.append(answer.json()["data"]["customer_id"])

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"ids": len(ids)}
