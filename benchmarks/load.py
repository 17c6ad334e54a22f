"""How many answers a second the sandbox can give at the most, so that it is nobody's bottleneck unnoticed."""

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
    """POST as fast as a client can that does next to nothing itself."""
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
    """Answers per second, and what each costs the sandbox."""
    sandbox.begin()
    arguments = {"host": sandbox.origin.partition("//")[2], "token": sandbox.token, "seconds": seconds}
    done = world.run("benchmarks.load:hammer", arguments)
    sent, cpu = done["said"]["sent"], sandbox.stats()["cpu"]
    return {"most": sent / done["seconds"], "cpu_per_1000": cpu / sent * 1000, "by_cpu": sent / cpu}
