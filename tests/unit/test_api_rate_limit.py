"""The rate limiter, given responses one by one."""

from __future__ import annotations

import itertools
import json
import random
import threading
from email.utils import formatdate

import pytest

from payarc_provider.api.rate_limit import RateLimiter, Sent

POST, LIST = "POST /customers", "GET /customers"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def remaining(left: int, limit: int = 5) -> dict[str, str]:
    return {"X-RateLimit-Limit": str(limit), "X-RateLimit-Remaining": str(left)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    return RateLimiter(clock)


def leave(limiter: RateLimiter, endpoint: str = POST) -> Sent:
    """A request leaves and has no response yet."""
    assert limiter.acquire(endpoint) == 0.0
    return limiter.depart(endpoint)


def go(limiter: RateLimiter, left: int, limit: int = 5, endpoint: str = POST) -> None:
    limiter.learn(leave(limiter, endpoint), 201, remaining(left, limit))


def exceed(limiter: RateLimiter, limit: int = 5, **headers: str) -> None:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    limiter.learn(leave(limiter), 429, remaining(0, limit) | given)


def go_all(limiter: RateLimiter, limit: int = 5) -> None:
    for left in range(limit - 1, -1, -1):
        go(limiter, left, limit)


def use_up(limiter: RateLimiter, clock: Clock, **headers: str) -> None:
    """A window that this worker opened is used up; a second later a request is answered 429."""
    go_all(limiter)
    clock.now += 1.0
    exceed(limiter, **headers)


def may_go(limiter: RateLimiter, most: int = 200) -> int:
    """How many requests may go now, before any response."""
    return sum(1 for _ in itertools.takewhile(lambda wait: wait == 0.0, (limiter.acquire(POST) for _ in range(most))))


# ---- one window ---------------------------------------------------------------------------------------------------


def test_until_the_first_response_one_request_goes_alone(limiter):
    first = leave(limiter)
    assert 0 < limiter.acquire(POST) < 1
    limiter.learn(first, 201, remaining(4))
    assert may_go(limiter) == 4


def test_requests_in_flight_are_subtracted(limiter):
    go(limiter, 4)
    first, *_ = [leave(limiter) for _ in range(3)]
    limiter.learn(first, 201, remaining(3))
    assert may_go(limiter) == 1


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_responses_in_any_order_never_raise_what_remains(limiter, order):
    go(limiter, 4)
    sent = [leave(limiter) for _ in range(3)]
    for request, left in zip(sent, order, strict=True):
        limiter.learn(request, 201, remaining(left))
    assert may_go(limiter) == 1


def test_requests_of_others_count(limiter):
    go(limiter, 4)
    go(limiter, 1)
    assert may_go(limiter) == 1


def test_a_released_slot_is_free_again(limiter):
    go(limiter, 4)
    assert may_go(limiter) == 4
    limiter.release(POST)
    assert may_go(limiter) == 1


def test_a_request_without_a_response_counts_until_a_later_response_shows_the_count(limiter):
    go(limiter, 2)
    limiter.learn(leave(limiter), None, {})
    lost = leave(limiter)
    assert may_go(limiter) == 0
    limiter.learn(lost, 201, remaining(1))  # PayArc has not counted the first one
    assert may_go(limiter) == 1


def test_many_threads_never_take_one_slot_twice(limiter):
    go(limiter, 99, 100)
    taken = []

    def take() -> None:
        taken.append(sum(limiter.acquire(POST) == 0.0 for _ in range(50)))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 99


@pytest.mark.parametrize("seed", range(200))
def test_alone_no_order_of_responses_takes_more_slots_than_the_window_has(seed):
    rng, limiter = random.Random(seed), RateLimiter(Clock())
    limit, taken, used = rng.randint(1, 40), 0, 0
    leaving: list[Sent] = []
    answers: list[tuple[Sent, int | None]] = []
    for _ in range(600):
        step = rng.random()
        if step < 0.5 and limiter.acquire(POST) == 0.0:
            taken += 1
            leaving.append(limiter.depart(POST))
        elif step < 0.7 and leaving:
            sent = leaving.pop(rng.randrange(len(leaving)))
            used += 1
            answers.append((sent, None if rng.random() < 0.1 and used > 1 else limit - used))
        elif answers:
            sent, left = answers.pop(rng.randrange(len(answers)))
            limiter.learn(sent, None if left is None else 201, {} if left is None else remaining(left, limit))
        assert taken <= limit


# ---- the end of a window -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"Retry_After": "17"}, {"X_RateLimit_Reset": "17"}])
def test_a_429_says_when_the_window_ends(limiter, clock, headers):
    use_up(limiter, clock, **headers)
    assert limiter.acquire(POST) == 17.0
    clock.now += 16.5
    assert limiter.acquire(POST) == 0.5
    clock.now += 0.5
    go(limiter, 4)
    assert may_go(limiter) == 4


@pytest.mark.parametrize("name", ["Retry-After", "X-RateLimit-Reset"])
def test_a_429_may_say_it_as_a_moment_of_payarcs_clock(limiter, clock, name):
    go(limiter, 2)
    moment = formatdate(2_000_000_017, usegmt=True) if name == "Retry-After" else "2000000017"
    given = {name: moment, "Date": formatdate(2_000_000_000, usegmt=True)}
    limiter.learn(leave(limiter), 429, remaining(0) | given)
    assert limiter.acquire(POST) == 17.0


def test_after_a_429_without_a_time_one_request_a_second_tries_again(limiter, clock):
    go_all(limiter)
    assert limiter.acquire(POST) == 1.0
    clock.now += 1.0
    probe = leave(limiter)
    clock.now += 2.0
    assert limiter.acquire(POST) > 0.0, "the request is still in flight"
    limiter.learn(probe, 429, remaining(0))
    go(limiter, 4)
    assert may_go(limiter) == 4


def test_a_429_without_any_header_pauses_too(limiter, clock):
    limiter.learn(leave(limiter), 429, {})
    assert limiter.acquire(POST) > 0.0
    clock.now += 1.0
    limiter.learn(leave(limiter), 201, {})
    assert may_go(limiter, 50) == 50


def test_a_429_that_says_now_still_waits_a_second(limiter):
    go(limiter, 1)
    exceed(limiter, Retry_After="0")
    assert limiter.acquire(POST) == 1.0


def test_a_429_is_believed_for_an_hour_at_most(limiter):
    go(limiter, 1)
    exceed(limiter, Retry_After="999999")
    assert limiter.acquire(POST) == 3600.0


def test_without_limit_headers_nothing_is_held_back(limiter):
    limiter.learn(leave(limiter), 201, {"X-RateLimit-Limit": "many"})
    assert may_go(limiter, 100) == 100


@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Remaining": "3"},
        {"X-RateLimit-Limit": "3"},
        {"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0"},
    ],
)
def test_half_of_the_headers_means_nothing(limiter, headers):
    limiter.learn(leave(limiter), 201, headers)
    assert may_go(limiter, 9) == 9


def test_one_429_in_a_window_that_this_worker_opened_teaches_the_length(limiter, clock):
    for left in (4, 3, 2, 1, 0):
        go(limiter, left)
        clock.now += 2.0
    clock.now += 1.0
    exceed(limiter, Retry_After="49")
    clock.now += 49.0
    for left in (4, 3, 2, 1, 0):
        go(limiter, left)
        clock.now += 1.0
    assert limiter.acquire(POST) == 55.0


def test_the_length_is_a_whole_number_of_seconds_where_one_fits(limiter, clock):
    clock.now += 0.025
    go_all(limiter)
    clock.now += 1.4
    exceed(limiter, Retry_After="4")  # 3.6 s, rounded up
    assert limiter.acquire(POST) == pytest.approx(3.6)


def test_a_length_estimated_too_short_costs_one_429_and_is_corrected(limiter, clock):
    first = leave(limiter)
    clock.now += 0.3  # PayArc opened a window of 6 seconds meanwhile, 0.2 s after that
    limiter.learn(first, 201, remaining(4))
    for left in (3, 2, 1, 0):
        go(limiter, left)
    slow = limiter.depart(POST)
    clock.now += 0.95
    limiter.learn(slow, 429, remaining(0) | {"Retry-After": "5"})
    assert limiter.acquire(POST) == pytest.approx(1005.3 - clock.now), "the least whole number of seconds that fits"
    clock.now = 1005.31
    early = leave(limiter)
    assert limiter.acquire(POST) > 0.0, "one goes, alone"
    limiter.learn(early, 429, remaining(0) | {"Retry-After": "1"})
    assert limiter.acquire(POST) == pytest.approx(1006.3 - clock.now)
    clock.now = 1006.31
    go_all(limiter)
    assert limiter.acquire(POST) == pytest.approx(6.0)


def test_x_ratelimit_reset_on_every_response_saves_the_429(limiter, clock):
    for left, date in ((4, 0.2), (3, 0.9), (2, 1.5), (1, 2.2), (0, 2.6)):
        clock.now = 1000 + date
        given = {
            "X-RateLimit-Reset": "2000000061",  # the window opened at 2000000000.2; the end is rounded up
            "Date": formatdate(2_000_000_000 + int(date), usegmt=True),
        }
        limiter.learn(leave(limiter), 201, remaining(left) | given)
    wait = limiter.acquire(POST)
    assert 57.6 <= wait <= 58.6
    clock.now += wait
    go_all(limiter)
    assert 59 <= limiter.acquire(POST) <= 61


def test_a_window_joined_midway_teaches_no_length(limiter, clock):
    go(limiter, 2)
    exceed(limiter, Retry_After="5")
    clock.now += 5.0
    go_all(limiter)
    assert limiter.acquire(POST) == 1.0, "its end is not known: one request finds out"


def test_a_window_that_others_opened_teaches_no_length(limiter, clock):
    for first in (4, 3, 2):
        go(limiter, first)
    clock.now += 100.0
    go(limiter, 2)  # no more used than before: another window, which others opened
    exceed(limiter, Retry_After="5")
    clock.now += 5.0
    go_all(limiter)
    assert limiter.acquire(POST) == 1.0


def test_a_429_alone_teaches_that_there_is_a_limit(limiter, clock):
    exceed(limiter, Retry_After="5")
    assert limiter.acquire(POST) == 5.0
    clock.now += 5.0
    go_all(limiter)
    assert limiter.acquire(POST) > 0.0


def test_a_new_window_is_noticed_before_the_old_ones_end_is_known(limiter, clock):
    go_all(limiter)
    clock.now += 1.0
    go(limiter, 4)
    assert may_go(limiter) == 4


def test_a_penalty_is_not_taken_for_a_windows_length(limiter, clock):
    for wait in (60, 3600):
        go(limiter, 4)
        exceed(limiter, Retry_After=str(wait))
        assert limiter.acquire(POST) == wait
        clock.now += wait
    go_all(limiter)
    assert limiter.acquire(POST) == 60.0


def test_a_late_response_says_nothing_about_the_next_window(limiter, clock):
    for left in (4, 3, 2):
        go(limiter, left)
    late = [leave(limiter) for _ in range(2)]
    limiter.learn(limiter.depart(POST), 429, remaining(0) | {"Retry-After": "5"})
    clock.now += 5.0
    first = leave(limiter)
    limiter.learn(late[0], 201, remaining(0))
    limiter.learn(late[1], 429, remaining(0) | {"Retry-After": "5"})
    limiter.learn(first, 201, remaining(4))
    for left in (3, 2, 1, 0):
        go(limiter, left)


def test_a_late_request_does_not_delay_the_next_window(limiter, clock):
    go(limiter, 4)
    leave(limiter)
    exceed(limiter, Retry_After="5")
    clock.now += 5.0
    assert limiter.acquire(POST) == 0.0


def test_requests_without_a_slot_are_counted_too(limiter, clock):
    for left in (4, 3, 2):
        limiter.learn(limiter.depart(POST), 201, remaining(left))
    assert may_go(limiter) == 2
    for _ in range(3):
        limiter.release(POST)
    late = limiter.depart(POST)
    limiter.learn(limiter.depart(POST), 429, remaining(0) | {"Retry-After": "9"})
    limiter.learn(late, 201, remaining(1))
    assert limiter.acquire(POST) == 9.0
    clock.now += 9.0
    go_all(limiter)


# ---- limits that change -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3, 90])
def test_the_limit_may_change_with_the_next_window(limiter, clock, limit):
    go_all(limiter)
    clock.now += 1.0
    exceed(limiter, Retry_After="59")
    clock.now += 59.0
    go(limiter, limit - 1, limit)
    assert may_go(limiter) == limit - 1


def test_the_limit_may_rise_within_the_window(limiter):
    go(limiter, 4)
    go(limiter, 3)
    go(limiter, 87, 90)
    assert may_go(limiter) == 87


def test_the_limit_may_fall_within_the_window(limiter, clock):
    for left in (29, 28, 27):
        go(limiter, left, 30)
    go(limiter, 1, 5)
    assert may_go(limiter) == 1


# ---- suspension and later processes -----------------------------------------------------------------------------


def test_windows_end_while_the_machine_is_suspended(limiter, clock):
    go_all(limiter)
    limited_at = clock.now + 1.0
    clock.now = limited_at
    exceed(limiter, Retry_After="59")
    clock.now += 10_000.0
    late = leave(limiter)
    assert limiter.acquire(POST) > 0.0, "one goes alone, whatever the clock says"
    clock.now += 10_000.0
    limiter.learn(late, 201, remaining(4))
    assert limiter.acquire(POST) == 0.0


def test_a_process_that_resumes_after_the_windows_end_begins_another(limiter, clock):
    use_up(limiter, clock, Retry_After="60")
    other = RateLimiter(clock)
    other.restore(limiter.export(), elapsed=60.0)
    first = leave(other)
    assert other.acquire(POST) > 0.0
    other.learn(first, 201, remaining(4))
    assert may_go(other) == 4


def test_a_later_process_knows_the_length_and_waits_for_the_windows_end(limiter, clock):
    go_all(limiter)
    clock.now += 1.0
    exceed(limiter, Retry_After="59")
    state = json.loads(json.dumps(limiter.export()))
    elsewhere = Clock()
    elsewhere.now = 77.0
    other = RateLimiter(elsewhere)
    other.restore(state, elapsed=40.0)
    assert other.acquire(POST) == 19.0
    elsewhere.now += 19.0
    go_all(other)
    assert other.acquire(POST) == 60.0, "no 429 was needed"


def test_a_later_process_opens_a_window_with_one_request_if_nothing_was_known(clock):
    other = RateLimiter(clock)
    other.restore(json.loads(json.dumps(RateLimiter(clock).export())), elapsed=1.0)
    assert may_go(other) == 1


@pytest.mark.parametrize(
    ("waits", "after", "waited"),
    [
        ([(0, 2)], 2, 2),
        ([(0, 2)], 0.5, 0.5),  # what is still ahead does not count
        ([(0, 2), (0, 2), (1, 1)], 5, 2),  # side by side
        ([(0, 2), (3, 1)], 5, 3),  # one after the other
    ],
)
def test_waits_that_overlap_count_once(limiter, clock, monkeypatch, waits, after, waited):
    asked = iter(waits)
    monkeypatch.setattr("payarc_provider.api.rate_limit.Budget.wait", lambda *_: next(asked)[1])
    start = clock.now
    for at, _ in waits:
        clock.now = start + at
        limiter.acquire(POST)
    clock.now = start + after
    assert limiter.waited == waited


# ---- one budget for all endpoints, or one for each ------------------------------------------------------------------


def window_of_known_length(limiter, clock):
    """Until now only POSTs were sent, and a new window has begun."""
    go_all(limiter)
    clock.now += 1.0
    exceed(limiter, Retry_After="59")
    clock.now += 59.0


def test_endpoints_share_one_window_until_responses_show_otherwise(limiter, clock):
    window_of_known_length(limiter, clock)
    go(limiter, 4)
    go(limiter, 3, endpoint=LIST)
    go(limiter, 2)
    assert may_go(limiter) == 2


def test_a_count_below_that_of_another_endpoint_shows_windows_of_their_own(limiter, clock):
    window_of_known_length(limiter, clock)
    for left in (4, 3, 2):
        go(limiter, left)
    go(limiter, 4, endpoint=LIST)
    assert may_go(limiter) == 2, "POSTs as before"
    go(limiter, 3, endpoint=LIST)


def test_in_a_full_window_one_request_of_another_endpoint_finds_out_that_it_has_its_own(limiter, clock):
    window_of_known_length(limiter, clock)
    go_all(limiter)
    reading = leave(limiter, LIST)
    assert limiter.acquire(LIST) == 60.0, "one goes alone"
    limiter.learn(reading, 200, remaining(4))
    go(limiter, 3, endpoint=LIST)
    assert limiter.acquire(POST) == 60.0


def test_in_a_full_window_one_request_of_another_endpoint_finds_out_that_it_shares_it(limiter, clock):
    window_of_known_length(limiter, clock)
    go_all(limiter)
    limiter.learn(leave(limiter, LIST), 429, remaining(0) | {"Retry-After": "60"})
    assert limiter.acquire(LIST) == limiter.acquire(POST) == 60.0
    clock.now += 60.0
    go(limiter, 4, endpoint=LIST)
    for left in (3, 2, 1, 0):
        go(limiter, left)
    assert limiter.acquire(LIST) == 60.0, "it does not try again"


def test_a_new_window_is_not_taken_for_a_window_of_another_endpoint(limiter, clock):
    for left in (4, 3, 2):
        go(limiter, left)
    go(limiter, 4, endpoint=LIST)  # the window's end is not known, so it may have ended
    go(limiter, 3)
    assert limiter.export()["apart"] is None


def test_an_endpoint_that_waits_is_not_starved_by_another(limiter):
    go(limiter, 4)
    posts = [leave(limiter) for _ in range(4)]
    assert limiter.acquire(LIST) > 0.0
    limiter.learn(posts[0], 429, remaining(0) | {"Retry-After": "0"})
    limiter._clock.now += 1.01
    opening = leave(limiter)
    assert limiter.acquire(LIST) > 0.0
    limiter.learn(opening, 201, remaining(4))
    assert may_go(limiter) == 3, "one slot is kept"
    assert limiter.acquire(LIST) == 0.0


def test_a_slot_is_not_kept_for_an_endpoint_that_has_given_up(limiter, clock):
    first = leave(limiter)
    assert limiter.acquire(LIST) > 0.0
    clock.now += 2.0
    limiter.learn(first, 201, remaining(4))
    assert may_go(limiter) == 4
