"""The tools that are compared, and how each is set up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.world import World

SQLITE = {"conn_type": "sqlite"}


@dataclass(frozen=True)
class Contender:
    """A tool.

    :param name: its name in the table
    :param call: the function that runs it, as ``MODULE:FUNCTION``
    :param setting: how it is configured, in words
    :param ledger: the database of this provider's ledger
    :param database: whether another tool gets a PostgreSQL database for what it notes
    :param most: the maximum number of records when speed is measured, for tools that are slow
    """

    name: str
    call: str
    setting: str
    packages: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    ledger: str | None = None
    database: bool = False
    most: int | None = None
    in_airflow: bool = False

    def fresh(self, world: World) -> dict[str, Any]:
        """Return the arguments of a first run, with an empty state and an empty ledger."""
        made: dict[str, Any] = {"state": str(world.folder()), **self.arguments}
        if self.ledger == "sqlite":
            made["ledger"] = SQLITE
        elif self.ledger == "postgresql":
            made["ledger"] = world.postgresql()[0]
        if self.database:
            made["database"] = world.postgresql()[0]
        return made

    @property
    def ours(self) -> bool:
        """Return whether the tool is this provider."""
        return self.ledger is not None or self.call.endswith(":operator")


_MODULE = "benchmarks.contenders"
_OURS = (
    "`CreateCustomerOperator(table=…, concurrency=16, push_ids=False)`, executed without a scheduler; the ledger in {}"
)
POOL = Contender(
    "`requests` pool, no ledger",
    f"{_MODULE}.pool:run",
    "16 threads with a `requests.Session` each (keep-alive). With a rate limit, urllib3's `Retry` on 429, which "
    "respects `Retry-After`",
    ("requests", "urllib3"),
)
SQLITE_LEDGER = Contender(
    "this provider, SQLite ledger", f"{_MODULE}.ours:run", _OURS.format("SQLite"), ledger="sqlite"
)
POSTGRESQL_LEDGER = Contender(
    "this provider, PostgreSQL ledger", f"{_MODULE}.ours:run", _OURS.format("PostgreSQL"), ledger="postgresql"
)
SDK = Contender(
    "official SDK `payarc`",
    f"{_MODULE}.sdk:run",
    "`await payarc.customers['create'](…)`, 16 in flight, limited by a semaphore. The SDK opens a connection for "
    "each call and does not handle rate limits, so the script waits for a window after a 429",
    ("payarc", "httpx"),
    most=200,
)
DLT = Contender(
    "dlt, custom destination",
    f"{_MODULE}.load_tool:run",
    "`@dlt.destination(batch_size=10)` with dlt's own `requests` (which retries 429 and 5xx), 16 files loaded by 16 "
    "workers, `dlt.sources.incremental` on the id",
    ("dlt",),
)
DRT = Contender(
    "drt, REST destination",
    f"{_MODULE}.reverse_tool:run",
    "a sync for each of 16 shares of the table, `drt run --threads 16` (a sync sends one request at a time); "
    "`mode: incremental` on the id, `native_idempotency_key`. With a rate limit, one sync with that limit as "
    "`rate_limit: requests_per_second`",
    ("drt-core",),
)
DRT_LEDGER = replace(
    DRT,
    name="drt, with its own ledger",
    setting="the same, with `state: {backend: warehouse, idempotency: true}` in PostgreSQL and an `idempotency_key`: "
    "each record is noted after it has been delivered. `batch_size: 1`, so that it is noted at once",
    most=400,
    database=True,
)
POOL_CHANGES = replace(POOL, call=f"{_MODULE}.pool:change")
DLT_CHANGES = replace(DLT, call=f"{_MODULE}.load_tool:change")
DRT_CHANGES = replace(DRT, call=f"{_MODULE}.reverse_tool:change")
OPERATOR = Contender(
    "this provider * (SQLite)",
    f"{_MODULE}.in_airflow:operator",
    "the same, as a task of a DAG, with `dag.test()`",
    ("apache-airflow",),
    in_airflow=True,
)
HTTP = Contender(
    "`HttpOperator`, mapped *",
    f"{_MODULE}.in_airflow:http",
    "`HttpOperator.partial(…).expand(data=…)`, one task instance per record, with `dag.test()`, which runs them "
    "one at a time in one process. With a scheduler, each would also start a process",
    ("apache-airflow-providers-http",),
    most=60,
    in_airflow=True,
)
ROSTER = (POOL, SQLITE_LEDGER, POSTGRESQL_LEDGER, SDK, DLT, DRT, DRT_LEDGER, OPERATOR, HTTP)
