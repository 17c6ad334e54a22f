"""The limiter: against answers given by hand, and against a simulated PayArc with many requests under way."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import threading

import pytest

from payarc_provider.api.rate_limit import RateLimiter

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


def go(limiter: RateLimiter, left: int, limit: int = 5, endpoint: str = POST) -> None:
    assert limiter.delay(endpoint) == 0.0
    limiter.learn(endpoint, 201, remaining(left, limit))


def test_until_the_first_answer_one_request_goes(limiter):
    assert limiter.delay(POST) == 0.0
    assert 0 < limiter.delay(POST) < 1
    limiter.learn(POST, 201, remaining(4))
    assert [limiter.delay(POST) for _ in range(4)] == [0.0] * 4
    assert limiter.delay(POST) > 0


def test_what_is_under_way_is_taken_off(limiter):
    go(limiter, 4)
    assert [limiter.delay(POST) for _ in range(3)] == [0.0] * 3
    limiter.learn(POST, 201, remaining(3))
    assert [limiter.delay(POST) == 0.0 for _ in range(2)] == [True, False]


def test_answers_in_any_order_never_raise_what_remains(limiter):
    go(limiter, 4)
    assert [limiter.delay(POST) for _ in range(3)] == [0.0] * 3
    for left in (1, 3, 2):
        limiter.learn(POST, 201, remaining(left))
    assert [limiter.delay(POST) == 0.0 for _ in range(2)] == [True, False]


def test_the_requests_of_others_count(limiter):
    go(limiter, 4)
    go(limiter, 1)
    assert limiter.delay(POST) == 0.0
    assert limiter.delay(POST) > 0.0


def test_endpoints_have_windows_of_their_own(limiter):
    go(limiter, 0)
    assert limiter.delay(POST) > 0.0
    assert limiter.delay("GET /customers") == 0.0


def test_a_released_reservation_is_free_again(limiter):
    go(limiter, 4)
    assert [limiter.delay(POST) for _ in range(4)] == [0.0] * 4
    assert limiter.delay(POST) > 0.0
    limiter.release(POST)
    assert limiter.delay(POST) == 0.0


def test_forgotten_reservations_do_not_block_for_ever(limiter, clock):
    assert limiter.delay(POST) == 0.0
    clock.now += 119.0
    assert limiter.delay(POST) > 0.0
    clock.now += 2.0
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 201, remaining(2))
    assert [limiter.delay(POST) for _ in range(2)] == [0.0] * 2
    assert limiter.delay(POST) > 0.0
    clock.now += 121.0
    assert limiter.delay(POST) == 0.0


def test_a_request_without_an_answer_stays_counted(limiter):
    go(limiter, 2)
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, None, {})
    assert [limiter.delay(POST) == 0.0 for _ in range(2)] == [True, False]


@pytest.mark.parametrize("headers", [{"Retry-After": "17"}, {"X-RateLimit-Reset": "17"}])
def test_a_429_tells_the_end_of_the_window(limiter, clock, headers):
    go(limiter, 1)
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 429, remaining(0) | headers)
    assert limiter.delay(POST) == 17.0
    clock.now += 16.5
    assert limiter.delay(POST) == 0.5
    clock.now += 0.5
    assert [limiter.delay(POST) for _ in range(5)] == [0.0] * 5
    assert limiter.delay(POST) > 0.0
    assert limiter.limited == 1


def test_a_429_that_gives_no_time_leads_to_one_probe_a_second(limiter, clock):
    go(limiter, 0)
    assert limiter.delay(POST) == 1.0
    clock.now += 1.0
    assert limiter.delay(POST) == 0.0
    clock.now += 2.0
    assert limiter.delay(POST) > 0.0, "the probe is still under way"
    limiter.learn(POST, 429, remaining(0))
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 201, remaining(4))
    assert [limiter.delay(POST) for _ in range(4)] == [0.0] * 4


def test_a_429_without_any_header_pauses_too(limiter, clock):
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 429, {})
    assert limiter.delay(POST) > 0.0
    clock.now += 1.0
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 201, {})
    assert [limiter.delay(POST) for _ in range(50)] == [0.0] * 50


def test_a_429_that_says_now_is_not_hammered(limiter):
    go(limiter, 1)
    limiter.learn(POST, 429, remaining(0) | {"Retry-After": "0"})
    assert limiter.delay(POST) == 1.0


def test_without_limit_headers_nothing_is_held_back(limiter):
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 201, {"X-RateLimit-Limit": "many"})
    assert [limiter.delay(POST) for _ in range(100)] == [0.0] * 100


@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Remaining": "3"},
        {"X-RateLimit-Limit": "3"},
        {"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0"},
    ],
)
def test_half_of_the_headers_tells_nothing(limiter, headers):
    limiter.learn(POST, 201, headers)
    assert [limiter.delay(POST) for _ in range(9)] == [0.0] * 9


def test_the_length_of_a_window_is_learnt_once(limiter, clock):
    for left in (4, 3, 2, 1, 0):
        go(limiter, left)
        clock.now += 2.0
    clock.now += 1.0
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 429, remaining(0) | {"Retry-After": "49"})
    clock.now += 49.0
    for left in (4, 3, 2, 1, 0):
        go(limiter, left)
        clock.now += 1.0
    assert limiter.delay(POST) == 55.0
    assert limiter.limited == 1


def test_a_window_joined_midway_teaches_no_length(limiter, clock):
    go(limiter, 2)
    limiter.learn(POST, 429, remaining(0) | {"Retry-After": "5"})
    clock.now += 5.0
    for left in (4, 3, 2, 1, 0):
        go(limiter, left)
    assert limiter.delay(POST) == 1.0, "its end is not known: a probe, not a guess"


@pytest.mark.parametrize("left", [3, 2])
def test_a_window_opened_by_somebody_else_teaches_no_length(limiter, clock, left):
    for first in (4, 3, 2):
        go(limiter, first)
    clock.now += 100.0
    go(limiter, left)  # accounts for no more than the last answer did: another window, and not from its beginning
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 429, remaining(0) | {"Retry-After": "5"})
    clock.now += 5.0
    for again in (4, 3, 2, 1, 0):
        go(limiter, again)
    assert limiter.delay(POST) == 1.0


def test_a_window_that_may_have_opened_unseen_teaches_no_length(limiter, clock):
    go(limiter, 29, 30)
    assert [limiter.delay(POST) for _ in range(2)] == [0.0] * 2
    limiter.learn(POST, 201, remaining(10, 30))
    limiter.learn(POST, 201, remaining(25, 30))  # 15 behind, with two under way
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 429, remaining(0, 30) | {"Retry-After": "5"})
    clock.now += 5.0
    for left in range(29, -1, -1):
        go(limiter, left, 30)
    assert limiter.delay(POST) == 1.0


def test_a_429_alone_teaches_the_limit(limiter, clock):
    assert limiter.delay(POST) == 0.0
    limiter.learn(POST, 429, remaining(0) | {"Retry-After": "5"})
    clock.now += 5.0
    assert [limiter.delay(POST) == 0.0 for _ in range(6)] == [True] * 5 + [False]


def test_a_new_window_is_noticed_before_the_old_ones_end_is_known(limiter):
    go(limiter, 0)
    limiter.learn(POST, 201, remaining(4))
    assert [limiter.delay(POST) for _ in range(4)] == [0.0] * 4


def test_a_penalty_is_not_taken_for_a_windows_length(limiter, clock):
    for wait in (60, 3600):
        go(limiter, 4)
        limiter.learn(POST, 429, remaining(0) | {"Retry-After": str(wait)})
        assert limiter.delay(POST) == wait
        clock.now += wait
    for left in (4, 3, 2, 1, 0):
        go(limiter, left)
    assert limiter.delay(POST) == 60.0


def test_who_never_reserves_breaks_nothing(limiter, clock):
    for left in (4, 3, 2):
        limiter.learn(POST, 201, remaining(left))
    assert [limiter.delay(POST) for _ in range(2)] == [0.0] * 2
    assert limiter.delay(POST) > 0.0
    limiter.release(POST)
    limiter.release(POST)
    limiter.release(POST)
    limiter.learn(POST, 429, remaining(0) | {"Retry-After": "9"})
    limiter.learn(POST, 201, remaining(3))
    assert limiter.delay(POST) == 9.0
    clock.now += 9.0
    limiter.learn(POST, 201, remaining(4))
    assert [limiter.delay(POST) == 0.0 for _ in range(5)] == [True] * 4 + [False]


def test_the_waiting_is_counted(limiter):
    go(limiter, 0)
    assert limiter.waited == 0.0
    limiter.delay(POST)
    limiter.delay(POST)
    assert limiter.waited == 2.0


def test_reservations_of_many_threads(limiter):
    go(limiter, 99, 100)
    granted = []

    def work() -> None:
        granted.append(sum(limiter.delay(POST) == 0.0 for _ in range(50)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 99


class Payarc:
    """A fixed window that opens with the first request after the last one's end, as Laravel's throttle has it."""

    def __init__(self, limit: int, length: int) -> None:
        self.limit, self.length, self.used, self.end = limit, length, 0, -math.inf
        self.created = self.refused = 0

    def handle(self, now: float) -> tuple[int, dict[str, str]]:
        if now >= self.end:
            self.used, self.end = 0, int(now) + self.length
        if self.used >= self.limit:
            self.refused += 1
            return 429, remaining(0, self.limit) | {"Retry-After": str(self.end - int(now))}
        self.used += 1
        self.created += 1
        return 201, remaining(self.limit - self.used, self.limit)


def simulate(seed: int, *, limit: int, workers: list[int], lost: float = 0.0, until: float = 600.0) -> Payarc:
    """Runs workers, each with a limiter and so many requests at once, against one `Payarc` of 60 s windows."""
    rng, clock, payarc = random.Random(seed), Clock(), Payarc(limit, 60)
    start, order, events = clock.now + rng.random() * 30, itertools.count(), []
    limiters = [RateLimiter(clock) for _ in workers]

    def at(time: float, *what: object) -> None:
        heapq.heappush(events, (time, next(order), *what))

    for limiter, concurrency in zip(limiters, workers, strict=True):
        for _ in range(concurrency):
            at(start, limiter, "ask", None)
    while events[0][0] < start + until:
        clock.now, _, limiter, what, answer = heapq.heappop(events)
        if what == "ask":
            wait = limiter.delay(POST)
            at(clock.now + (wait or rng.uniform(0.02, 0.4)), limiter, "ask" if wait else "handle", None)
        elif what == "handle":
            answer = (None, {}) if rng.random() < lost else payarc.handle(clock.now)
            at(clock.now + rng.uniform(0.02, 0.4), limiter, "answer", answer)
        else:
            limiter.learn(POST, *answer)
            at(clock.now, limiter, "ask", None)
    assert sum(limiter.limited for limiter in limiters) <= payarc.refused
    return payarc


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [1, 5, 30, 90])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_every_window_is_used_up_and_only_the_first_is_overrun(seed, limit, concurrency):
    payarc = simulate(seed, limit=limit, workers=[concurrency])
    assert payarc.refused <= 2 + concurrency // 8
    assert payarc.created >= 9 * limit


@pytest.mark.parametrize("seed", range(5))
def test_several_workers_on_one_token_share_it_with_few_refusals(seed):
    payarc = simulate(seed, limit=30, workers=[4, 4, 4])
    assert payarc.created >= 8 * 30
    assert payarc.refused <= 10 * 12


@pytest.mark.parametrize("seed", range(5))
def test_lost_answers_slow_it_down_little(seed):
    payarc = simulate(seed, limit=30, workers=[8], lost=0.05)
    assert payarc.created >= 8 * 30
    assert payarc.refused <= 10
