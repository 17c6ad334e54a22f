"""The limiter: against answers given by hand, and against a simulated PayArc with many requests under way."""

from __future__ import annotations

import itertools
import random
import threading
from email.utils import formatdate

import pytest

from payarc_provider.api.rate_limit import RateLimiter, Sent

POST = "POST /customers"


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
    """A request goes, and is not answered yet."""
    assert limiter.acquire(endpoint) == 0.0
    return limiter.depart(endpoint)


def go(limiter: RateLimiter, left: int, limit: int = 5, endpoint: str = POST) -> None:
    limiter.learn(leave(limiter, endpoint), 201, remaining(left, limit))


def refuse(limiter: RateLimiter, limit: int = 5, **headers: str) -> None:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    limiter.learn(leave(limiter), 429, remaining(0, limit) | told)


def go_all(limiter: RateLimiter, limit: int = 5) -> None:
    for left in range(limit - 1, -1, -1):
        go(limiter, left, limit)


def use_up(limiter: RateLimiter, clock: Clock, **headers: str) -> None:
    """A window is seen to open and used up; a second later it is refused."""
    go_all(limiter)
    clock.now += 1.0
    refuse(limiter, **headers)


def may_go(limiter: RateLimiter, most: int = 200) -> int:
    """How many go now, before anything is answered."""
    return sum(1 for _ in itertools.takewhile(lambda wait: wait == 0.0, (limiter.acquire(POST) for _ in range(most))))


# ---- one window ---------------------------------------------------------------------------------------------------


def test_until_the_first_answer_one_request_goes(limiter):
    first = leave(limiter)
    assert 0 < limiter.acquire(POST) < 1
    limiter.learn(first, 201, remaining(4))
    assert may_go(limiter) == 4


def test_what_is_under_way_is_taken_off(limiter):
    go(limiter, 4)
    first, *_ = [leave(limiter) for _ in range(3)]
    limiter.learn(first, 201, remaining(3))
    assert may_go(limiter) == 1


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_answers_in_any_order_never_raise_what_remains(limiter, order):
    go(limiter, 4)
    sent = [leave(limiter) for _ in range(3)]
    for request, left in zip(sent, order, strict=True):
        limiter.learn(request, 201, remaining(left))
    assert may_go(limiter) == 1


def test_the_requests_of_others_count(limiter):
    go(limiter, 4)
    go(limiter, 1)
    assert may_go(limiter) == 1


def test_a_released_reservation_is_free_again(limiter):
    go(limiter, 4)
    assert may_go(limiter) == 4
    limiter.release(POST)
    assert may_go(limiter) == 1


def test_a_request_without_an_answer_counts_until_an_answer_tells(limiter):
    go(limiter, 2)
    limiter.learn(leave(limiter), None, {})
    lost = leave(limiter)
    assert may_go(limiter) == 0
    limiter.learn(lost, 201, remaining(1))  # PayArc has not counted the first one
    assert may_go(limiter) == 1


def test_reservations_of_many_threads(limiter):
    go(limiter, 99, 100)
    granted = []

    def work() -> None:
        granted.append(sum(limiter.acquire(POST) == 0.0 for _ in range(50)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 99


@pytest.mark.parametrize("seed", range(200))
def test_alone_no_order_of_answers_makes_it_reserve_more_than_the_window_has(seed):
    rng, limiter = random.Random(seed), RateLimiter(Clock())
    limit, reserved, used = rng.randint(1, 40), 0, 0
    leaving: list[Sent] = []
    answers: list[tuple[Sent, int | None]] = []
    for _ in range(600):
        step = rng.random()
        if step < 0.5 and limiter.acquire(POST) == 0.0:
            reserved += 1
            leaving.append(limiter.depart(POST))
        elif step < 0.7 and leaving:
            sent = leaving.pop(rng.randrange(len(leaving)))
            used += 1
            answers.append((sent, None if rng.random() < 0.1 and used > 1 else limit - used))
        elif answers:
            sent, left = answers.pop(rng.randrange(len(answers)))
            limiter.learn(sent, None if left is None else 201, {} if left is None else remaining(left, limit))
        assert reserved <= limit


# ---- when a window ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"Retry_After": "17"}, {"X_RateLimit_Reset": "17"}])
def test_a_429_tells_the_end_of_the_window(limiter, clock, headers):
    use_up(limiter, clock, **headers)
    assert limiter.acquire(POST) == 17.0
    clock.now += 16.5
    assert limiter.acquire(POST) == 0.5
    clock.now += 0.5
    go(limiter, 4)
    assert may_go(limiter) == 4


@pytest.mark.parametrize("name", ["Retry-After", "X-RateLimit-Reset"])
def test_a_429_may_tell_it_as_a_moment_by_payarcs_clock(limiter, clock, name):
    go(limiter, 2)
    moment = formatdate(2_000_000_017, usegmt=True) if name == "Retry-After" else "2000000017"
    told = {name: moment, "Date": formatdate(2_000_000_000, usegmt=True)}
    limiter.learn(leave(limiter), 429, remaining(0) | told)
    assert limiter.acquire(POST) == 17.0


def test_a_429_that_gives_no_time_leads_to_one_probe_a_second(limiter, clock):
    go_all(limiter)
    assert limiter.acquire(POST) == 1.0
    clock.now += 1.0
    probe = leave(limiter)
    clock.now += 2.0
    assert limiter.acquire(POST) > 0.0, "the probe is still under way"
    limiter.learn(probe, 429, remaining(0))
    go(limiter, 4)
    assert may_go(limiter) == 4


def test_a_429_without_any_header_pauses_too(limiter, clock):
    limiter.learn(leave(limiter), 429, {})
    assert limiter.acquire(POST) > 0.0
    clock.now += 1.0
    limiter.learn(leave(limiter), 201, {})
    assert may_go(limiter, 50) == 50


def test_a_429_that_says_now_is_not_hammered(limiter):
    go(limiter, 1)
    refuse(limiter, Retry_After="0")
    assert limiter.acquire(POST) == 1.0


def test_a_429_is_believed_for_an_hour_at_most(limiter):
    go(limiter, 1)
    refuse(limiter, Retry_After="999999")
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
def test_half_of_the_headers_tells_nothing(limiter, headers):
    limiter.learn(leave(limiter), 201, headers)
    assert may_go(limiter, 9) == 9


def test_a_window_that_was_seen_to_open_and_refused_once_teaches_the_length(limiter, clock):
    for left in (4, 3, 2, 1, 0):
        go(limiter, left)
        clock.now += 2.0
    clock.now += 1.0
    refuse(limiter, Retry_After="49")
    clock.now += 49.0
    for left in (4, 3, 2, 1, 0):
        go(limiter, left)
        clock.now += 1.0
    assert limiter.acquire(POST) == 55.0


def test_the_length_is_a_whole_number_of_seconds_where_one_fits(limiter, clock):
    clock.now += 0.025
    go_all(limiter)
    clock.now += 1.4
    refuse(limiter, Retry_After="4")  # 3.6 s, rounded up
    assert limiter.acquire(POST) == pytest.approx(3.6)


def test_a_length_reckoned_too_short_costs_one_429_and_is_mended(limiter, clock):
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


def test_x_ratelimit_reset_on_any_answer_spares_the_429(limiter, clock):
    for left, date in ((4, 0.2), (3, 0.9), (2, 1.5), (1, 2.2), (0, 2.6)):
        clock.now = 1000 + date
        told = {
            "X-RateLimit-Reset": "2000000061",  # the window opened at 2000000000.2; the end is rounded up
            "Date": formatdate(2_000_000_000 + int(date), usegmt=True),
        }
        limiter.learn(leave(limiter), 201, remaining(left) | told)
    wait = limiter.acquire(POST)
    assert 57.6 <= wait <= 58.6
    clock.now += wait
    go_all(limiter)
    assert 59 <= limiter.acquire(POST) <= 61


def test_a_window_joined_midway_teaches_no_length(limiter, clock):
    go(limiter, 2)
    refuse(limiter, Retry_After="5")
    clock.now += 5.0
    go_all(limiter)
    assert limiter.acquire(POST) == 1.0, "its end is not known: a probe, not a guess"


def test_a_window_opened_by_somebody_else_teaches_no_length(limiter, clock):
    for first in (4, 3, 2):
        go(limiter, first)
    clock.now += 100.0
    go(limiter, 2)  # accounts for no more than the last answer did: another window, and not from its beginning
    refuse(limiter, Retry_After="5")
    clock.now += 5.0
    go_all(limiter)
    assert limiter.acquire(POST) == 1.0


def test_a_429_alone_teaches_that_there_is_a_limit(limiter, clock):
    refuse(limiter, Retry_After="5")
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
        refuse(limiter, Retry_After=str(wait))
        assert limiter.acquire(POST) == wait
        clock.now += wait
    go_all(limiter)
    assert limiter.acquire(POST) == 60.0


def test_a_late_answer_of_the_window_before_tells_nothing_of_this_one(limiter, clock):
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


def test_what_is_late_does_not_hold_up_the_next_window(limiter, clock):
    go(limiter, 4)
    leave(limiter)
    refuse(limiter, Retry_After="5")
    clock.now += 5.0
    assert limiter.acquire(POST) == 0.0


def test_who_never_reserves_breaks_nothing(limiter, clock):
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
def test_another_limit_from_the_next_window_on(limiter, clock, limit):
    go_all(limiter)
    clock.now += 1.0
    refuse(limiter, Retry_After="59")
    clock.now += 59.0
    go(limiter, limit - 1, limit)
    assert may_go(limiter) == limit - 1


def test_a_limit_that_rises_within_the_window(limiter):
    go(limiter, 4)
    go(limiter, 3)
    go(limiter, 87, 90)
    assert may_go(limiter) == 87


def test_a_limit_that_falls_within_the_window(limiter, clock):
    for left in (29, 28, 27):
        go(limiter, left, 30)
    go(limiter, 1, 5)
    assert may_go(limiter) == 1


# ---- a machine that is suspended, and a worker that leaves --------------------------------------------------------


def test_a_suspension_ends_windows_too(limiter, clock):
    go_all(limiter)
    refuse_at = clock.now + 1.0
    clock.now = refuse_at
    refuse(limiter, Retry_After="59")
    clock.now += 10_000.0
    late = leave(limiter)
    assert limiter.acquire(POST) > 0.0, "one goes alone, whatever the clock says"
    clock.now += 10_000.0
    limiter.learn(late, 201, remaining(4))
    assert limiter.acquire(POST) == 0.0


def test_who_goes_on_after_the_window_is_over_begins_another(limiter, clock):
    use_up(limiter, clock, Retry_After="60")
    other = RateLimiter(clock)
    other.restore(limiter.export(), elapsed=60.0)
    first = leave(other)
    assert other.acquire(POST) > 0.0
    other.learn(first, 201, remaining(4))
    assert may_go(other) == 4
