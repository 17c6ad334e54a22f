"""The one clock of leases, deadlines and the rate limit, which runs on while the machine is suspended."""

from __future__ import annotations

import sys
import time

import pytest

from payarc_provider.api import deadline
from payarc_provider.api.client import PayarcClient
from payarc_provider.api.http import now
from payarc_provider.sync.runtime import ThreadedRuntime


@pytest.mark.parametrize(
    ("platform", "clocks", "expected"),
    [
        ("linux", {"CLOCK_BOOTTIME": 7, "CLOCK_MONOTONIC": 1}, ("clock_gettime", 7)),
        ("darwin", {"CLOCK_MONOTONIC": 6}, ("clock_gettime", 6)),  # time.monotonic() stops during sleep there
        ("win32", {}, ("monotonic", None)),
    ],
)
def test_each_platform_has_a_clock_that_runs_during_suspension(monkeypatch, platform, clocks, expected):
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        monkeypatch.delattr(time, name, raising=False)
    for name, clock in clocks.items():
        monkeypatch.setattr(time, name, clock, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: ("clock_gettime", clock), raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: ("monotonic", None))
    clock = deadline._running_clock()
    monkeypatch.undo()  # pytest measures durations with time.monotonic() too
    assert clock() == expected


def test_the_engine_and_the_deadline_have_the_same_clock():
    with ThreadedRuntime(PayarcClient("https://testapi.payarc.net/v1", lambda _: "token")) as runtime:
        before = now()
        assert before <= runtime.now() <= now()
