"""The official SDK, ``payarc``: several of its coroutines at a time, used as its documentation shows."""

from __future__ import annotations

import asyncio
from typing import Any

from payarc import Payarc

from benchmarks.people import payload, read_crm


def run(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """Create a customer for each record."""
    return asyncio.run(_run(url, token, read_crm(crm), threads, limit))


async def _run(url: str, token: str, rows: list[Any], threads: int, limit: list[float] | None) -> dict[str, Any]:
    client = Payarc(token, base_url=url.removesuffix("/v1"))
    at_once = asyncio.Semaphore(threads)
    ids: list[str] = []

    async def create(row: Any) -> None:
        async with at_once:
            while True:
                try:
                    customer = await client.customers["create"](payload(row))
                except Exception as error:
                    # It does not handle rate limits and hides Retry-After, so its caller has to wait.
                    if not limit or "Too Many Attempts" not in str(error):
                        raise
                    await asyncio.sleep(limit[1])
                else:
                    ids.append(customer["customer_id"])
                    return

    await asyncio.gather(*(create(row) for row in rows))
    return {"ids": len(ids)}
