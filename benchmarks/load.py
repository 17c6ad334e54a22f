"""The maximum number of requests that the sandbox answers per second, to show that it is not the bottleneck."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

from benchmarks.people import payload, people
from benchmarks.sandbox import Sandbox
from benchmarks.world import World


def hammer(host: str, token: str, seconds: float, threads: int = 4) -> dict[str, Any]:
    """POST as fast as a minimal client can."""
    until, sent = time.monotonic() + seconds, [0] * threads
    body = json.dumps(payload(next(iter(people(1)))))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def work(place: int) -> None:
        connection = http.client.HTTPConnection(host)
        while time.monotonic() < until:
            connection.request("POST", "/v1/customers", body, headers)
            connection.getresponse().read()
            sent[place] += 1

    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"sent": sum(sent)}


def most(world: World, sandbox: Sandbox, seconds: float) -> dict[str, Any]:
    """Return responses per second, and the CPU time of each at the sandbox."""
    sandbox.begin()
    arguments = {"host": sandbox.origin.partition("//")[2], "token": sandbox.token, "seconds": seconds}
    done = world.run("benchmarks.load:hammer", arguments)
    sent, cpu = done["said"]["sent"], sandbox.stats()["cpu"]
    return {"most": sent / done["seconds"], "cpu_per_1000": cpu / sent * 1000, "by_cpu": sent / cpu}
