"""What others see of a run, beside its log and its XComs: metrics, a span, lineage, and the extras of its assets."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from payarc_provider.assets import customers_uri, is_payarc_asset
from payarc_provider.hooks.lineage import report_read, report_written, table_uri
from payarc_provider.operators.metrics import CUSTOMERS, REQUESTS, Meter
from payarc_provider.sync.deferral import Deferral

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from payarc_provider.api.client import PayarcClient
    from payarc_provider.api.tracing import Tracer
    from payarc_provider.operators.customer import CreateCustomerOperator
    from payarc_provider.sync.engine import Run
    from payarc_provider.sync.ports import Clock
    from payarc_provider.sync.records import RecordReader
    from payarc_provider.sync.sources import Source
    from payarc_provider.sync.threads import ThreadedPayarc

EXTRAS = ("records", "created", "adopted", "known", "changed", "rejected")


@dataclass(frozen=True)
class Seen:
    """What a run has found out, for the lineage of its task.

    :param uri: of the customers that it makes
    :param counts: the engine's own, which go on counting
    :param reader: knows the columns that have been met
    """

    uri: str
    counts: Mapping[str, int]
    reader: RecordReader


def scope_uri(scope: str) -> str:
    """The URI of the customers of an account as the ledger names it."""
    return customers_uri(*scope.split("/", 1))


class Watch:
    """One slice of a task, as others see it.

    :param met_before: known and rejected records that earlier slices have found and counted
    """

    def __init__(
        self,
        operator: CreateCustomerOperator,
        instance: Any,
        engine: Run,
        client: PayarcClient,
        payarc: ThreadedPayarc,
        clock: Clock,
        met_before: Mapping[str, int],
    ) -> None:
        self._settings = operator.settings
        self._engine = engine
        self._client = client
        self._met_before = met_before
        self._requests_before = client.requests_sent
        began = clock.now()
        self.meter = Meter(
            customers=dict if self._settings.dry_run else self._customers,
            requests=lambda: client.requests_sent,
            waited=lambda: client.limiter.waited,
            seconds=lambda: clock.now() - began,
            tags={"dag_id": instance.dag_id, "task_id": instance.task_id},
        )

    @contextlib.contextmanager
    def going_on(self, tracer: Tracer) -> Iterator[None]:
        """It goes on: its span, and the last of its metrics however it ends."""
        deferral: Deferral | None = None
        with tracer.span("payarc.run", self._begun()) as span:
            try:
                yield
            except Deferral as caught:
                deferral = caught  # no failure
            finally:
                span.set_attributes(self._ended() | {"payarc.deferred": deferral is not None})
                self.meter.tell(end=True)
        if deferral is not None:
            raise deferral

    def _begun(self) -> dict[str, int | bool]:
        settings = self._settings
        return {
            "payarc.batch.size": settings.batch_size,
            "payarc.concurrency": settings.concurrency,
            "payarc.dry_run": settings.dry_run,
        }

    def _ended(self) -> dict[str, int | bool]:
        customers = self._customers()
        requests = Counter(self._client.requests_sent) - Counter(self._requests_before)
        return {metric: customers[name] for name, metric in CUSTOMERS.items()} | {REQUESTS: requests.total()}

    def _customers(self) -> Counter[str]:
        counts = Counter(self._engine.done)
        for name, number in self._engine.met.items():
            counts[name] += max(0, number - self._met_before.get(name, 0))
        return counts


def note_lineage(
    operator: CreateCustomerOperator, scope: str, source: Source, reader: RecordReader, engine: Run
) -> None:
    """Keep what the task's lineage will name, and tell Airflow's hook lineage."""
    operator.seen = Seen(scope_uri(scope), engine.counts, reader)
    table = getattr(source, "table", None)
    report_read(operator, table_uri(*table) if table else None)
    if not operator.settings.dry_run:
        report_written(operator, operator.seen.uri)


def fill_assets(operator: CreateCustomerOperator, context: Context, summary: Mapping[str, Any]) -> None:
    """Give the events of the task's PayArc assets the run's counts; a task that fails has no events."""
    extra = {name: summary[name] for name in EXTRAS}
    extra |= {"dag_id": context["ti"].dag_id, "run_id": context["ti"].run_id, "dry_run": operator.settings.dry_run}
    for outlet in operator.outlets:
        if is_payarc_asset(outlet):
            context["outlet_events"][outlet].extra.update(extra)
