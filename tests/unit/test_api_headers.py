"""Times and counts in response headers."""

from __future__ import annotations

import pytest
from requests.structures import CaseInsensitiveDict

from payarc_provider.api import http

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"  # 1_700_000_000


def test_the_servers_clock():
    assert http.server_time({"Date": DATE}) == 1_700_000_000.0
    assert http.server_time({"date": DATE}) == 1_700_000_000.0
    assert http.server_time(CaseInsensitiveDict({"DATE": DATE})) == 1_700_000_000.0


@pytest.mark.parametrize("text", ["", "yesterday", "Tue, 99 Nov 2023 22:13:20 GMT", "1700000000"])
def test_an_unreadable_clock_is_none(text):
    assert http.server_time({"Date": text}) is None
    assert http.server_time({}) is None


@pytest.mark.parametrize(
    ("text", "number"), [("30", 30), (" 0 ", 0), ("-1", None), ("1.5", None), ("many", None), ("٣", None)]
)
def test_whole_numbers(text, number):
    assert http.count({"x-ratelimit-limit": text}, "X-RateLimit-Limit") == number
    assert http.count({}, "X-RateLimit-Limit") is None


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"Retry-After": "17"}, 17.0),
        ({"retry-after": "0"}, 0.0),
        ({"Retry-After": "17", "X-RateLimit-Reset": "99"}, 17.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT", "Date": DATE}, 30.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:00 GMT", "Date": DATE}, 0.0),
        ({"X-RateLimit-Reset": "1700000042", "Date": DATE}, 42.0),
        ({"X-RateLimit-Reset": "1699999999", "Date": DATE}, 0.0),
        ({"X-RateLimit-Reset": "42", "Date": DATE}, 42.0),
        ({"Retry-After": "soon", "X-RateLimit-Reset": "42"}, 42.0),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "-3"}, None),
        ({"X-RateLimit-Reset": "nan"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait(given, seconds):
    assert http.retry_after(given) == seconds


def test_without_a_date_this_machines_clock_is_used(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)
    assert http.retry_after({"X-RateLimit-Reset": "1700000010"}) == 10.0
    assert http.retry_after({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}) == 30.0
