"""The least that anybody would write: ``requests`` in 16 threads, a session each, and no ledger."""

from __future__ import annotations

import queue
import threading
from typing import Any

import requests

from benchmarks.people import people
from payarc_provider.sync.records import Reader


def run(url: str, token: str, count: int, threads: int = 16) -> dict[str, Any]:
    """POST each record once."""
    reader = Reader("id", None, "bench")
    records: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for index, row in enumerate(people(count)):
        records.put(reader.read(index, row).fields)
    ids: list[str] = []

    def work() -> None:
        session = requests.Session()
        session.headers.update({"Authorization": f"Bearer {token}", "Accept": "application/json"})
        while True:
            try:
                fields = records.get_nowait()
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
    return {"created": len(ids)}
