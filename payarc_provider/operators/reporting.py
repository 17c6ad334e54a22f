"""How a run is reported: the task's log, Airflow's metrics, OpenTelemetry spans and the events of assets.

Nothing here holds a record's value, a key or a token, and nothing here can stop a run.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from payarc_provider.assets import is_payarc_asset
from payarc_provider.hooks.lineage import report_read, report_written, table_uri
from payarc_provider.hooks.tracing import get_tracer
from payarc_provider.sync.results import Progress

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from payarc_provider.api.tracing import Attributes, Span
    from payarc_provider.sync.sources import Source

log = logging.getLogger(__name__)

CUSTOMERS = {
    name: f"payarc.customers.{name}" for name in ("created", "updated", "known", "adopted", "rejected", "unknown")
}
REQUESTS = "payarc.requests"
RATE_LIMIT_WAIT = "payarc.rate_limit.wait"
RUN_DURATION = "payarc.run.duration"
RUN_SPAN = "payarc.run"
ASSET_EXTRAS = ("records", "created", "adopted", "updated", "known", "changed", "rejected")

_ALWAYS_SHOWN = ("created", "known", "rejected")
_IN_WORDS = {"conflicts": "in conflict", "would_create": "would create", "would_update": "would update"}
_SHOWN = (
    "created",
    "adopted",
    "updated",
    "known",
    "stale",
    "altered",
    "conflicts",
    "rejected",
    "would_create",
    "would_update",
    "pending",
)


class TaskReporter:
    """Reports one run of a task.

    ``uri`` (the asset of the merchant's customers), ``latest`` (the run's progress) and ``is_dry_run`` are for the
    task's lineage.

    :param logger: the task's
    :param tags: of every metric, where Airflow sends tags
    :param dry_run: customers are not counted in metrics
    """

    def __init__(self, logger: logging.Logger, *, uri: str, tags: Mapping[str, str], dry_run: bool) -> None:
        self.uri = uri
        self.latest = Progress()
        self._logger = logger
        self._tags = dict(tags)
        self.is_dry_run = dry_run
        self._tracer = get_tracer()
        self._run_span: Span | None = None
        self._sent: Counter[tuple[str, str]] = Counter()
        self._sent_wait = 0.0

    @contextlib.contextmanager
    def span(self, name: str, attributes: Attributes) -> Iterator[Span]:
        """A span as long as the context; an exception that leaves the context marks it as failed."""
        with self._tracer.span(name, attributes) as span:
            if name == RUN_SPAN:
                self._run_span = span
            yield span

    def progress(self, progress: Progress) -> None:
        """Log a line and send what the metrics have gained."""
        self.latest = progress
        self._logger.info("%s", progress_line(progress))
        self._send_metrics(progress, finished=False)

    def ended(self, progress: Progress, *, deferred: bool) -> None:
        """Log the closing line, send the last of the metrics and complete the run's span.

        :param deferred: the run will be resumed and read its input again, so what it only read is not counted yet
        """
        self.latest = progress
        if not deferred:
            self._warn_about_columns(progress)
            self._warn_about_source(progress.counts["other_source"])
        self._logger.info("%s", closing_line(progress))
        self._send_metrics(progress, finished=not deferred)
        self._timing(RUN_DURATION, progress.seconds)
        if self._run_span is not None:
            customers = _customers(progress, finished=not deferred)
            self._run_span.set_attributes(
                {CUSTOMERS[name]: count for name, count in customers.items()}
                | {REQUESTS: progress.requests.total(), "payarc.deferred": deferred}
            )

    def _warn_about_columns(self, progress: Progress) -> None:
        for column, field in progress.lookalikes.items():
            self._logger.warning(
                'Column "%s" is not sent because PayArc has no such field. If it is "%s", map it in `fields`',
                column,
                field,
            )
        if progress.personal_keys:
            looks = "key looks" if progress.personal_keys == 1 else "keys look"
            self._logger.warning(
                "%d %s like an email address. The ledger stores keys as plain text: use a key without personal data",
                progress.personal_keys,
                looks,
            )

    def _warn_about_source(self, count: int) -> None:
        if count:
            self._logger.warning(
                "%s from another source, so changes of their data will be rejected. If the source was renamed, set "
                "`source` to its old name, or rename it in the ledger",
                "1 known record is" if count == 1 else f"{count} known records are",
            )

    # ---- metrics ------------------------------------------------------------------------------------------------

    def _send_metrics(self, progress: Progress, *, finished: bool) -> None:
        if not self.is_dry_run:
            for name, total in _customers(progress, finished=finished).items():
                self._count(CUSTOMERS[name], total)
        for method, total in progress.requests.items():
            self._count(REQUESTS, total, method=method)
        if progress.rate_limit_wait > self._sent_wait:
            self._timing(RATE_LIMIT_WAIT, progress.rate_limit_wait - self._sent_wait)
            self._sent_wait = progress.rate_limit_wait

    def _count(self, metric: str, total: int, **tags: str) -> None:
        from airflow.providers.common.compat.sdk import Stats

        series = (metric, tags.get("method", ""))
        new, self._sent[series] = total - self._sent[series], total
        if new > 0:
            with _never_failing(metric):
                Stats.incr(metric, new, tags={**self._tags, **tags})

    def _timing(self, metric: str, seconds: float) -> None:
        from airflow.providers.common.compat.sdk import Stats

        with _never_failing(metric):
            Stats.timing(metric, datetime.timedelta(seconds=seconds), tags=self._tags)


@contextlib.contextmanager
def _never_failing(metric: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a metrics server must not stop a run
        log.debug("The metric %s could not be sent: %s", metric, type(error).__name__)


def _customers(progress: Progress, *, finished: bool) -> dict[str, int]:
    """Counts for metrics, in which no customer counts twice over the retries and slices of a task.

    :param finished: include what the run only read, which a resumed run would read again
    """
    counts = progress.counts
    return {
        "created": counts["recorded_created"],
        "adopted": counts["recorded_adopted"],
        "updated": counts["recorded_updated"],
        "known": counts["known"] if finished else 0,
        "rejected": counts["recorded_rejected"] + (counts["known_rejected"] if finished else 0),
        "unknown": counts["unknown"],
    }


# ---- log lines ----------------------------------------------------------------------------------------------------


def progress_line(progress: Progress) -> str:
    """How far the run is, at which rate, and how long the rest will take if the total is known."""
    done, seconds = _done(progress), max(progress.seconds, 0.001)
    left = ""
    if progress.total is not None and 0 < done < progress.total:
        left = f", about {_duration((progress.total - done) * seconds / done)} left"
    return f"{_records(progress)}: {_outcomes(progress)}; {done / seconds:.1f}/s{left}"


def closing_line(progress: Progress) -> str:
    """What the run has done, in how long and with how many requests."""
    methods = [method for method in ("POST", "PATCH") if method == "POST" or progress.requests[method]]
    sent = [_plural(progress.requests[method], method) for method in methods]
    requests = ", ".join([_plural(progress.requests.total(), "request"), *sent])
    written = progress.counts["written_back"]
    back = f"; {_plural(written, 'id')} written back" if written else ""
    return f"{_records(progress)} in {progress.seconds:.1f} s: {_outcomes(progress)}; {requests}{back}"


def _done(progress: Progress) -> int:
    return progress.records_done + progress.repeated


def _records(progress: Progress) -> str:
    if progress.total is None:
        return _plural(_done(progress), "record")
    return f"{_done(progress)} of {_plural(progress.total, 'record')}"


def _outcomes(progress: Progress) -> str:
    counts = {name: progress.counts[name] for name in _SHOWN} | {"repeated": progress.repeated}
    shown = {name: count for name, count in counts.items() if count or name in _ALWAYS_SHOWN}
    return ", ".join(f"{count} {_IN_WORDS.get(name, name)}" for name, count in shown.items())


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun == 'PATCH' else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


# ---- assets and lineage -------------------------------------------------------------------------------------------


def report_hook_lineage(operator: BaseOperator, source: Source, uri: str, *, dry_run: bool) -> None:
    """Tell Airflow's hook lineage what the run reads and writes."""
    table = getattr(source, "table", None)
    report_read(operator, table_uri(*table) if table else None)
    if not dry_run:
        report_written(operator, uri)


def fill_asset_events(operator: BaseOperator, context: Context, summary: Mapping[str, Any], *, dry_run: bool) -> None:
    """Add the run's counts to the events of the task's PayArc assets. A task that fails has no events."""
    instance = context["ti"]
    extra = {name: summary[name] for name in ASSET_EXTRAS}
    extra |= {"dag_id": instance.dag_id, "run_id": instance.run_id, "dry_run": dry_run}
    for outlet in operator.outlets:
        if is_payarc_asset(outlet):
            context["outlet_events"][outlet].extra.update(extra)
