"""How a run is reported: the task's log, Airflow's metrics, OpenTelemetry spans and the events of assets.

Nothing here holds a record's value, a key or a token, and nothing here can stop a run.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from payarc_provider.assets import is_payarc_asset
from payarc_provider.hooks.lineage import report_read, report_written, table_uri
from payarc_provider.hooks.tracing import get_tracer
from payarc_provider.sync.keys import display_text
from payarc_provider.sync.results import Progress
from payarc_provider.sync.wording import counted, tally

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

RATE_LIMIT = "rate limit"  # in the name of a wait during which the run gets on all the same

_RESULTS = ("created", "adopted", "updated", "known", "rejected", "would_create", "would_update", "pending")
_ALWAYS_SHOWN = ("created", "known", "rejected")
_BY_REQUEST = ("created", "adopted", "updated")
_INCLUDED = ("changed", "stale", "altered", "conflicts")
_IN_WORDS = {"conflicts": "in conflict", "would_create": "would create", "would_update": "would update"}
_HISTORY = 7  # progress lines, ten seconds apart: a minute, as long as PayArc's windows


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
        self._history: deque[Progress] = deque(maxlen=_HISTORY)

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
        self._logger.info("%s", progress_line(progress, tuple(self._history)))
        self._history.append(progress)
        self._send_metrics(progress, finished=False)

    def ended(self, progress: Progress, *, deferred: bool) -> None:
        """Log the closing line, send the last of the metrics and complete the run's span.

        :param deferred: the run will be resumed and read its input again, so what it only read is not counted yet
        """
        self.latest = progress
        if not deferred:
            self._warn_about_columns(progress)
            self._warn_about_source(progress.counts["other_source"])
            self._warn_about_emails(progress.counts["without_email"])
        if progress.problems:
            self._logger.warning("%s", problems_line(progress))
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
                display_text(column),
                field,
            )
        for kind, count in progress.personal_keys.items():
            self._logger.warning(
                "%s like %s %s. The ledger stores keys as plain text: use a key without personal data",
                counted(count, "key looks", "keys look"),
                "an" if kind[0] in "aeiou" else "a",
                kind,
            )

    def _warn_about_source(self, count: int) -> None:
        if count:
            self._logger.warning(
                "%s from another source, so changes of their data will be rejected. If the source was renamed, set "
                "`source` to its old name, or rename it in the ledger",
                counted(count, "known record is", "known records are"),
            )

    def _warn_about_emails(self, count: int) -> None:
        if count and self.is_dry_run:
            self._logger.warning(
                "%s no email address. PayArc may require one: try one of them first, or map a column to `email`",
                counted(count, "customer to be created has", "customers to be created have"),
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


def opening_line(what: str, *, conn_id: str, account: str, source: str, ledger: str) -> str:
    """What the run is about to do, with which connection, for whom, from where and with which ledger.

    :param account: ``<environment>/<merchant>``
    """
    environment, _, merchant = account.partition("/")
    return f"{what}: connection {conn_id} ({environment}, merchant {merchant}), source {source}, ledger {ledger}"


def progress_line(progress: Progress, earlier: Sequence[Progress] = ()) -> str:
    """How far the run is, what it waits for, at which rate it works and how long the rest will take.

    There is no rate and no estimate while nothing moves, nor an estimate if the total is unknown.

    :param earlier: what was reported in the last minute, the oldest first
    """
    done, last = progress.records_done, earlier[-1] if earlier else Progress()
    parts = [f"{_records(progress)}: {_outcomes(progress)}"]
    if progress.waiting:
        parts.append(f"waiting {progress.waiting}")
    since = earlier[0] if earlier else Progress()
    moved, seconds = done - since.records_done, progress.seconds - since.seconds
    is_moving = RATE_LIMIT in progress.waiting or (done > last.records_done and not progress.waiting)
    if is_moving and moved > 0 and seconds > 0:
        parts.append(f"{moved / seconds:.1f}/s")
        left = 0 if progress.total is None else progress.total - progress.repeated - done
        if left > 0:
            parts[-1] += f", about {_duration(left * seconds / moved)} left"
    elif not progress.waiting and earlier and done == last.records_done:
        still = next(one.seconds for one in earlier if one.records_done == done)
        parts.append(f"no result for {progress.seconds - still:.0f} s")
    return "; ".join(parts)


def closing_line(progress: Progress) -> str:
    """What the run has done, in how long and with how many requests. The counts add up to the records."""
    methods = [method for method in ("POST", "PATCH") if method == "POST" or progress.requests[method]]
    sent = [_plural(progress.requests[method], method) for method in methods]
    requests = ", ".join([_plural(progress.requests.total(), "request"), *sent])
    written = progress.counts["written_back"]
    back = f"; {_plural(written, 'id')} written back" if written else ""
    open_records = progress.records_read - progress.repeated - progress.records_done
    outcomes = _outcomes(progress, still_open=max(0, open_records))
    return f"{_records(progress)} in {progress.seconds:.1f} s: {outcomes}; {requests}{back}"


def problems_line(progress: Progress) -> str:
    """What came instead of usable responses, and how often."""
    return f"Requests without a usable response: {tally(progress.problems)}"


def _records(progress: Progress) -> str:
    done = progress.records_done
    if progress.total is None:
        return counted(done, "record")
    total = progress.total - progress.repeated
    return counted(done, "record") if done == total else f"{done} of {counted(total, 'record')}"


def _outcomes(progress: Progress, *, still_open: int = 0) -> str:
    """The counts by result, which add up; then those that are part of them, and the repeated records."""
    counts = progress.counts
    always = ("known", "rejected") if counts["would_create"] or counts["would_update"] else _ALWAYS_SHOWN
    shown = [
        f"{counts[name]} {_IN_WORDS.get(name, name)}{_earlier(progress, name)}"
        for name in _RESULTS
        if counts[name] or name in always
    ]
    shown += [f"{still_open} open"] if still_open else []
    parts = [", ".join(shown)]
    if included := [f"{counts[name]} {_IN_WORDS.get(name, name)}" for name in _INCLUDED if counts[name]]:
        parts[0] += f" (including {', '.join(included)})"
    if progress.repeated:
        parts.append(f"{progress.repeated} repeated")
    return "; ".join(parts)


def _earlier(progress: Progress, name: str) -> str:
    """How many of these customers an earlier try of the task, or the run before a deferral, has recorded."""
    counts = progress.counts
    mine = counts[f"recorded_{name}"] - (counts["recorded_for_others"] if name == "created" else 0)
    earlier = counts[name] - mine if name in _BY_REQUEST else 0
    return f" ({earlier} earlier in this DAG run)" if earlier > 0 else ""


def _plural(count: int, noun: str) -> str:
    return counted(count, noun, "PATCHes" if noun == "PATCH" else None)


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
