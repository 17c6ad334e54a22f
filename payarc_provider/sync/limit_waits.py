"""Waits for PayArc's rate limit: what is logged, and when a run gives up because the limit lets no request through."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.waits import Waits
from payarc_provider.sync.wording import clock_time

log = logging.getLogger(__name__)

LONG_WAIT = 10.0
REPORT_SECONDS = 60.0
MAX_SECONDS = 1800.0
MAX_WINDOWS = 5  # where a single wait is so long that it takes most of MAX_SECONDS
_SAME_WINDOW = 1.0
LIMIT = "for PayArc's rate limit until {}"
_GAP = 60.0  # if nothing was asked for so long after a wait, there was nothing to send


@dataclass(slots=True)
class _Drought:
    """The time for which the limit has let no request to one endpoint through.

    ``until``: when the latest wait ends. ``longest``: the longest single wait.
    """

    began: float
    until: float
    longest: float = 0.0


class LimitWaits:
    """Logs the waits for the rate limit, and ends them if waiting does not help. Many short waits are one long wait.

    :param now: seconds, by any clock
    :param waits: what the run waits for
    """

    def __init__(self, now: Callable[[], float], waits: Waits | None = None) -> None:
        self._now = now
        self._waits = waits or Waits(now)
        self._droughts: dict[str, _Drought] = {}
        self._logged_until = self._quiet_until = float("-inf")

    def note_wait(self, endpoint: str, seconds: float) -> None:
        """A request has to wait for so many seconds, by when the limit may let it through.

        :raises PayarcRunStopped: see `note_429`
        """
        self._note(endpoint, seconds)

    def note_429(self, endpoint: str) -> None:
        """The endpoint gave a 429.

        :raises PayarcRunStopped: it gave nothing else, or got no request, for half an hour or five of the longest waits
        """
        self._note(endpoint, 0.0)

    def note_response(self, endpoint: str) -> None:
        """The endpoint gave a response other than a 429."""
        self._droughts.pop(endpoint, None)
        self._waits.end(LIMIT)

    def _note(self, endpoint: str, seconds: float) -> None:
        now = self._now()
        drought = self._droughts.get(endpoint)
        if drought is None or now > drought.until + _GAP:
            drought = self._droughts[endpoint] = _Drought(now, now)
        drought.until = now + seconds
        drought.longest = max(drought.longest, seconds)
        self._waits.begin(LIMIT, seconds)
        lasts, longest = now - drought.began, max(MAX_SECONDS, MAX_WINDOWS * drought.longest)
        if lasts >= longest:
            raise nothing_let_through(lasts)
        if seconds >= LONG_WAIT and drought.until > self._logged_until + _SAME_WINDOW:
            self._logged_until, self._quiet_until = drought.until, drought.until + LONG_WAIT
            log.info("PayArc's rate limit allows no request until %s", clock_time(seconds))
        elif lasts >= LONG_WAIT and now > self._quiet_until:
            self._logged_until = self._quiet_until = now + REPORT_SECONDS
            left = clock_time(longest - lasts)
            log.warning("PayArc's rate limit has let no request through for %.0f s. Trying until %s", lasts, left)


def nothing_let_through(seconds: float) -> PayarcRunStopped:
    """The error of a run that got nothing but 429s and waits for so many seconds."""
    return PayarcRunStopped(
        f"PayArc's rate limit has let no request through for {seconds / 60:.0f} min. "
        "Check what else uses this token's rate limit, then run again; nothing is sent twice"
    )
