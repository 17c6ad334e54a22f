"""What the probe concludes from rate-limit headers and 429s, also where others use the same limit."""

from __future__ import annotations

import itertools
import random

import pytest

from payarc_provider.probe.limits import limit_finding
from payarc_provider.probe.session import Seen

READ, CREATE, SHOW, DELETE = "GET /customers", "POST /customers", "GET /customers/{id}", "DELETE /customers/{id}"
# As the probe sends them.
REQUESTS = [READ, *[CREATE] * 8, "PATCH /customers/{id}", SHOW, SHOW, *[READ] * 3, DELETE, SHOW, *[DELETE] * 7, READ]


def responses(limit, *, per, window=60.0, pause=0.3, others=lambda: 0, headers=True):
    """What a fixed window shows of these requests; ``others``: how many requests of other programs come before each."""
    opened, used, seen, now = {}, {}, [], 1000.0
    for endpoint in REQUESTS:
        budget = endpoint if per == "endpoint" else "all"
        while True:
            if now - opened.get(budget, -window) >= window:
                opened[budget], used[budget] = now, 0
            used[budget] = min(limit, used[budget] + others())
            counted = used[budget] < limit
            used[budget] += counted
            left = opened[budget] + window - now
            shown = (limit, limit - used[budget]) if headers else (None, None)
            wait = None if counted else (max(0.0, -(-left // 1) - 1), -(-left // 1))
            seen.append(Seen(endpoint, counted, *shown, wait, now, now + pause / 2))
            now += pause
            if counted:
                break
            now += wait[1]
    return seen


@pytest.mark.parametrize("per", ["endpoint", "user"])
@pytest.mark.parametrize("limit", [3, 5, 10, 30, 50, 90, 1000])
@pytest.mark.parametrize("pause", [0.01, 0.3, 2.0, 7.0])
def test_the_limit_and_its_scope_are_found_across_windows(limit, per, pause):
    finding = limit_finding(responses(limit, per=per, pause=pause))

    assert finding.settings["rate_limit"] == limit
    assert finding.settings.get("rate_limit_per", per) == per
    if limit >= 10 and pause <= 2:
        assert finding.settings["rate_limit_per"] == per


@pytest.mark.parametrize("per", ["endpoint", "user"])
@pytest.mark.parametrize("seed", range(20))
def test_other_programs_with_the_same_limit_never_lead_to_the_wrong_scope(per, seed):
    numbers = random.Random(seed)
    finding = limit_finding(responses(90, per=per, others=lambda: numbers.choice([0, 0, 0, 1, 3])))

    assert finding.settings.get("rate_limit_per", per) == per


@pytest.mark.parametrize(("limit", "window"), [(10, 60), (12, 60), (10, 30), (5, 10)])
def test_the_length_of_a_window_is_found_from_a_429(limit, window):
    finding = limit_finding(responses(limit, per="user", window=window))

    assert abs(finding.settings["rate_window"] - window) <= 1
    assert f"{limit} requests in about" in finding.found


def test_without_a_429_the_length_stays_unknown():
    finding = limit_finding(responses(90, per="user"))

    assert "rate_window" not in finding.settings
    assert "as PayArc's guide says" in finding.meaning


def test_endpoints_with_different_limits_have_limits_of_their_own():
    seen = [Seen(READ, True, 90, 89, None, 0.0, 0.1), Seen(CREATE, True, 30, 29, None, 0.2, 0.3)]

    finding = limit_finding(seen)

    assert (finding.settings["rate_limit"], finding.settings["rate_limit_per"]) == (30, "endpoint")


@pytest.mark.parametrize(("answers", "per", "limit"), [(True, "endpoint", 4), (False, "user", 6)])
def test_without_headers_another_endpoint_shows_the_scope(answers, per, limit):
    times = itertools.count()

    def seen(endpoint, counted=True):
        return Seen(endpoint, counted, None, None, None, next(times), next(times))

    before = [seen(CREATE), seen(CREATE), *(seen(READ) for _ in range(4))]
    finding = limit_finding([*before, seen(READ, counted=False), seen(SHOW, counted=answers)])

    assert finding.settings == {"rate_headers": False, "rate_limit": limit, "rate_limit_per": per}
    assert finding.certainty == "likely"


def test_nothing_is_concluded_from_no_sign_at_all():
    finding = limit_finding([Seen(READ, True, None, None, None, 0.0, 0.1)] * 50)

    assert finding.certainty == "unknown"
    assert finding.settings == {"rate_headers": False}
