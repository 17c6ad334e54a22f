"""What a run counts, sent to Airflow's Stats in groups: with each progress line and at the end, as increments."""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

CUSTOMERS = {name: f"payarc.customers.{name}" for name in ("created", "known", "adopted", "rejected", "unknown")}
REQUESTS = "payarc.requests"
RATE_LIMIT_WAIT = "payarc.rate_limit.wait"
RUN_DURATION = "payarc.run.duration"


class Meter:
    """Sends what has happened since it last did, or since it was made.

    :param customers: counts so far, by the names of ``CUSTOMERS``, from nothing
    :param requests: requests sent so far, by method
    :param waited: seconds of waiting for the rate limit so far
    :param seconds: since the run's beginning
    :param tags: of every metric, where Airflow's Stats have tags
    """

    def __init__(
        self,
        customers: Callable[[], Mapping[str, int]],
        requests: Callable[[], Mapping[str, int]],
        waited: Callable[[], float],
        seconds: Callable[[], float],
        tags: Mapping[str, str],
    ) -> None:
        self._customers = customers
        self._requests = requests
        self._waited = waited
        self._seconds = seconds
        self._tags = dict(tags)
        self._told = Counter(requests())
        self._told_waited = 0.0

    def tell(self, *, end: bool = False) -> None:
        """Send what is new, and at the end how long the run took."""
        try:
            self._tell()
            if end:
                self._timing(RUN_DURATION, self._seconds())
        except Exception as error:  # noqa: BLE001 - where metrics go must not stop a run
            log.debug("Metrics could not be sent: %s", type(error).__name__)

    def _tell(self) -> None:
        customers = self._customers()
        for name, metric in CUSTOMERS.items():
            self._count(metric, name, customers.get(name, 0), {})
        for method, total in self._requests().items():
            self._count(REQUESTS, method, total, {"method": method})
        waited = self._waited()
        if waited > self._told_waited:
            self._timing(RATE_LIMIT_WAIT, waited - self._told_waited)
            self._told_waited = waited

    def _count(self, metric: str, name: str, total: int, tags: Mapping[str, str]) -> None:
        from airflow.providers.common.compat.sdk import Stats

        new, self._told[name] = total - self._told[name], total
        if new > 0:
            Stats.incr(metric, new, tags={**self._tags, **tags})

    def _timing(self, metric: str, seconds: float) -> None:
        from airflow.providers.common.compat.sdk import Stats

        Stats.timing(metric, datetime.timedelta(seconds=seconds), tags=self._tags)
