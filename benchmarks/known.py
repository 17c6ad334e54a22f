"""A ledger in which every person is known already."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import sqlalchemy as sa

from benchmarks.people import people
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.records import Reader


def fill(url: str, count: int, account: str, source: str, place: str) -> None:
    """As a run that created ``count`` customers would have left it, but without the requests."""
    ledger = Ledger(sa.create_engine(url))
    ledger.open()
    reader = Reader("id", None, ledger.ledger_id)
    now = datetime.datetime.now(datetime.UTC)
    rows = enumerate(people(count))
    while chunk := list(itertools.islice(rows, 20_000)):
        with ledger.database.write() as connection:
            connection.execute(
                ledger.schema.rows.insert(), [_row(reader.read(index, row), account, source, now) for index, row in chunk]
            )
    ledger.database.dispose()


def _row(record: Any, account: str, source: str, now: datetime.datetime) -> dict[str, Any]:
    return {
        "account": account,
        "key": record.key,
        "state": "created",
        "customer_id": f"known{int(record.key):011}",
        "digest": record.digest,
        "fields": record.names,
        "source": source,
        "attempt": 1,
        "run_id": "earlier",
        "claimed_at": now,
        "settled_at": now,
    }
