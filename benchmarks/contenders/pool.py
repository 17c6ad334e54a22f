"""Scripts with ``requests`` in a pool of threads, a session for each, and no ledger."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from benchmarks.people import CHANGED, payload, read_crm

Send = Callable[[requests.Session, dict[str, Any]], requests.Response]


def run(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """POST each record once."""

    def create(session: requests.Session, row: dict[str, Any]) -> requests.Response:
        return session.post(f"{url}/customers", json=payload(row), timeout=30)

    return _send(create, token, crm, threads, limit)


def change(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """PATCH the customer of each record with the fields that have changed, which the script is told."""

    def patch(session: requests.Session, row: dict[str, Any]) -> requests.Response:
        fields = {name: row[name] for name in CHANGED}
        return session.patch(f"{url}/customers/{row['customer_id']}", json=fields, timeout=30)

    return _send(patch, token, crm, threads, limit)


def _send(send: Send, token: str, crm: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    rows: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for row in read_crm(crm):
        rows.put(row)
    count = rows.qsize()
    ids: list[str] = []

    def work() -> None:
        session = requests.Session()
        session.headers.update({"Authorization": f"Bearer {token}", "Accept": "application/json"})
        if limit:
            again = Retry(total=100, status_forcelist=[429], allowed_methods=None, respect_retry_after_header=True)
            session.mount("http://", HTTPAdapter(max_retries=again))
        while True:
            try:
                row = rows.get_nowait()
            except queue.Empty:
                return
            answer = send(session, row)
            answer.raise_for_status()
            ids.append(answer.json()["data"]["customer_id"])

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if missing := count - len(ids):
        raise SystemExit(f"{missing} records have no customer")
    return {"ids": len(ids)}
