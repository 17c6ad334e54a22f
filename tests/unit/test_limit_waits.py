"""Waits for the rate limit are logged and bounded, and so are reads that fail."""

from __future__ import annotations

import asyncio
import logging
from unittest.mock import patch

import pytest

from payarc_provider.exceptions import PayarcRateLimited, PayarcRunStopped, PayarcUnknownOutcome
from payarc_provider.sync import deferral
from payarc_provider.sync.deferral import CarryOver
from payarc_provider.sync.limit_waits import LimitWaits
from payarc_provider.sync.listing import PatientReader

POST = "POST /customers"


class Clock:
    def __init__(self, window=60.0):
        self.seconds, self.window, self.calls = 0.0, window, 0

    def now(self):
        return self.seconds

    async def sleep(self, seconds):
        self.seconds += seconds

    async def acquire(self, endpoint, ready=1):
        self.calls += 1
        return self.window if self.calls % 2 == 0 else 0.0  # after each request, a window


@pytest.mark.parametrize(("window", "least", "most"), [(60.0, 1800, 1900), (3600.0, 5 * 3600, 5 * 3600 + 1)])
def test_reads_that_only_get_429s_end(window, least, most):
    clock = Clock(window)

    async def call():
        raise PayarcRateLimited("429")

    with pytest.raises(PayarcRunStopped, match="let no request through"):
        asyncio.run(PatientReader(clock).read(call))
    assert least <= clock.seconds <= most


def test_the_end_of_an_announced_wait_is_no_cause_for_a_warning(caplog):
    caplog.set_level(logging.INFO)
    clock = Clock()
    waits = LimitWaits(clock.now)
    waits.note_wait(POST, 58.0)
    for _ in range(20):  # the window's end is known to the second only
        clock.seconds += 3.0
        waits.note_wait(POST, max(0.05, 58.0 - clock.seconds))
    assert len(caplog.records) == 1
    assert "allows no request until" in caplog.messages[0]


def test_another_response_begins_the_bound_anew():
    clock = Clock()
    waits = LimitWaits(clock.now)
    for _ in range(200):
        clock.seconds += 60
        waits.note_429(POST)
        if clock.seconds % 1200 == 0:
            waits.note_response(POST)


def test_a_long_wait_is_logged_once_per_window(caplog):
    caplog.set_level(logging.INFO)
    clock = Clock()
    waits = LimitWaits(clock.now)
    for _ in range(3):
        waits.note_wait(POST, 60.0 - clock.seconds)
        clock.seconds += 10
    waits.note_wait(POST, 5.0)
    assert len(caplog.records) == 1
    assert "no request until" in caplog.text


@pytest.mark.parametrize("seconds", [0.05, 1.0, 9.0])
@pytest.mark.parametrize("only_429s", [True, False])
def test_many_short_waits_are_logged_and_bounded_like_a_long_one(caplog, seconds, only_429s):
    clock = Clock()
    waits = LimitWaits(clock.now)

    def wait():
        while clock.seconds < 4000:
            if only_429s:
                waits.note_429(POST)
            waits.note_wait(POST, seconds)
            clock.seconds += seconds

    with pytest.raises(PayarcRunStopped, match="let no request through for 30 min"):
        wait()
    assert 1800 <= clock.seconds < 1810
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("PayArc's rate limit has let no request through for 1")  # 10 to 18 s
    assert 26 <= len(lines) <= 30  # one a minute


def test_responses_between_short_waits_leave_nothing_to_log(caplog):
    caplog.set_level(logging.INFO)
    clock = Clock()
    waits = LimitWaits(clock.now)
    for _ in range(1000):
        waits.note_wait(POST, 5.0)
        clock.seconds += 5
        waits.note_response(POST)
    assert not caplog.records


def test_time_in_which_nothing_was_to_be_sent_does_not_count():
    clock = Clock()
    waits = LimitWaits(clock.now)
    for _ in range(3):  # the claims that waited were lost, and the next ones come an hour later
        waits.note_wait(POST, 5.0)
        clock.seconds += 3600


def test_each_failed_read_is_logged(caplog):
    clock = Clock(window=0.0)

    async def call():
        raise PayarcUnknownOutcome("503", status=503, may_have_acted=False)

    with pytest.raises(
        PayarcUnknownOutcome, match=r"to 9 reads in a row: 503 \(9 times\)\. Run again when PayArc works"
    ):
        asyncio.run(PatientReader(clock, max_failures=8).read(call))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 8
    assert lines[0] == "A read from PayArc failed (503): trying again in 0.5 s (1 of 8)"


def test_slices_that_only_get_429s_end_after_half_an_hour():
    carry_over = CarryOver(1, "2026-01-01T00:00:00", 0.0)
    with patch.object(deferral.time, "time") as time:
        for minute in range(30):
            time.return_value = 1000.0 + 60 * minute
            carry_over.note_deferral({}, responses=0, unknown=0, rate_limited=1)
        time.return_value += 60
        with pytest.raises(PayarcRunStopped, match="no request through for 30 min"):
            carry_over.note_deferral({}, responses=0, unknown=0, rate_limited=1)
