"""Ids into the source: `write_back`'s UPDATEs beside a bare ``executemany`` loop, without PayArc and without a ledger.

``python -m benchmarks.write_back [URL ...]``; a SQLite file by default.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.world import World, say
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.id_column import MissingId
from payarc_provider.sync.write_back import BATCH

ROWS, ROUNDS = 50_000, 5
_TABLE = "payarc_write_back_bench"
_METADATA = sa.MetaData()
PEOPLE = sa.Table(
    _TABLE,
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(50)),
    sa.Column("payarc_customer_id", sa.String(64)),
)


def write_back(url: str, rows: int = ROWS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the rows per second of both, and their ratio: medians of rounds in which both take turns."""
    engine = sa.create_engine(url, hide_parameters=True)
    try:
        missing = _fill(engine, rows)
        column = _source(engine).id_column()
        assert column is not None
        column.check()
        ours, bare = [], []
        for _ in range(rounds):
            _forget(engine)
            bare.append(rows / _bare(engine, missing))
            _forget(engine)
            started = time.monotonic()
            for batch in _batches(missing):
                column.write(batch)
            ours.append(rows / (time.monotonic() - started))
            _check(engine, rows)
    finally:
        _METADATA.drop_all(engine)
        engine.dispose()
    return {
        "rows": rows,
        "rate": statistics.median(ours),
        "bare": statistics.median(bare),
        "ratio": statistics.median(mine / other for mine, other in zip(ours, bare, strict=True)),
    }


def both(world: World, rows: int, rounds: int) -> dict[str, Any]:
    """The same for SQLite and PostgreSQL."""
    urls = {"SQLite": f"sqlite:///{world.folder()}/crm.db", "PostgreSQL": world.postgresql()[1]}
    found = {}
    for name, url in urls.items():
        done = found[name] = write_back(url, rows, rounds)
        say(f"ids written back: {name}: {done['rate']:.0f} rows/s, the bare loop {done['bare']:.0f}")
    return found


def _fill(engine: sa.Engine, rows: int) -> list[MissingId]:
    """Create the table; returns its rows as a run that has created all customers has them."""
    _METADATA.drop_all(engine)
    _METADATA.create_all(engine)
    with engine.begin() as connection:
        connection.execute(PEOPLE.insert(), [{"id": number, "name": "John Smith"} for number in range(rows)])
    read = (row for page in _source(engine).pages() for row in page)
    return [MissingId(str(row["id"]), row["payarc_customer_id"], f"KPxM{row['id']:012}") for row in read]


def _source(engine: sa.Engine) -> DatabaseSource:
    return DatabaseSource(engine, ["id"], None, name=_TABLE, table_name=_TABLE, write_back="payarc_customer_id")


def _bare(engine: sa.Engine, missing: Sequence[MissingId]) -> float:
    """The seconds that the driver's own ``executemany`` takes, with a commit after as many rows."""
    mark = {"qmark": "?"}.get(engine.dialect.paramstyle, "%s")
    statement = f"UPDATE {_TABLE} SET payarc_customer_id = {mark} WHERE id = {mark}"
    connection = engine.raw_connection()
    try:
        cursor, started = connection.cursor(), time.monotonic()
        for batch in _batches(missing):
            cursor.executemany(statement, [(one.customer_id, one.rows.key[0]) for one in batch])
            connection.commit()
        return time.monotonic() - started
    finally:
        connection.close()


def _batches(missing: Sequence[MissingId]) -> list[Sequence[MissingId]]:
    return [missing[start : start + BATCH] for start in range(0, len(missing), BATCH)]


def _forget(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(PEOPLE.update().values(payarc_customer_id=None))


def _check(engine: sa.Engine, rows: int) -> None:
    with engine.connect() as connection:
        ids = connection.execute(sa.select(PEOPLE.c.payarc_customer_id).order_by(PEOPLE.c.id)).scalars()
        assert all(found == f"KPxM{number:012}" for found, number in zip(ids, itertools.count(), strict=False)), rows


def main(urls: Sequence[str]) -> None:
    """Print the figures of each database."""
    with tempfile.TemporaryDirectory(prefix="payarc-bench-") as folder:
        for url in urls or [f"sqlite:///{Path(folder)}/crm.db"]:
            found = write_back(url)
            name = sa.engine.make_url(url).drivername
            print(
                f"{name}: {found['rate']:,.0f} rows/s, the bare loop {found['bare']:,.0f}, ratio {found['ratio']:.2f}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
