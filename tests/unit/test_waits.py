"""What a run waits for, and until when; and words for counts and times."""

from __future__ import annotations

import re

import pytest

from payarc_provider.api.errors import transport_failure
from payarc_provider.exceptions import PayarcAuthError, PayarcConnectionFailed, PayarcUnknownOutcome
from payarc_provider.sync.outcomes import problem_of
from payarc_provider.sync.waits import Waits
from payarc_provider.sync.wording import counted, tally, times


class Clock:
    seconds = 100.0

    def now(self):
        return self.seconds


def test_a_wait_is_shown_with_its_end_until_it_is_over():
    clock = Clock()
    waits = Waits(clock.now)
    assert waits.text == ""
    with waits.during("to look up 3 records at {}", 30.0):
        assert re.fullmatch(r"to look up 3 records at \d\d:\d\d:\d\d UTC", waits.text)
        waits.begin("for PayArc's rate limit until {}", 5.0)
        assert re.fullmatch(r"to look up 3 records at \S+ UTC and for PayArc's rate limit until \S+ UTC", waits.text)
        clock.seconds += 6
        assert waits.text.startswith("to look up 3 records at ")
        assert "rate limit" not in waits.text
    assert waits.text == ""


def test_a_wait_can_end_early_and_a_short_one_is_not_shown():
    waits = Waits(Clock().now)
    waits.begin("a", 60.0)
    waits.begin("b", 0.05)
    assert waits.text == "a"
    waits.end("a")
    assert waits.text == ""


def test_counts_have_the_singular_for_one():
    assert [counted(number, "record") for number in (0, 1, 2)] == ["0 records", "1 record", "2 records"]
    assert [counted(number, "PATCH", "PATCHes") for number in (1, 3)] == ["1 PATCH", "3 PATCHes"]
    assert [times(number) for number in (1, 2, 3)] == ["once", "twice", "3 times"]
    assert tally({"timeout": 2, "503": 5, "no connection": 1}) == "503 (5 times), timeout (twice), no connection (once)"


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (PayarcUnknownOutcome(status=503), "503"),
        (PayarcConnectionFailed(), "no connection"),
        (transport_failure("POST", TimeoutError()), "timeout"),
        (transport_failure("POST", ConnectionResetError()), "lost connection"),
    ],
)
def test_what_came_instead_of_a_response_is_said_in_a_word(error, word):
    assert problem_of(error) == word


def test_an_exception_names_its_connection_once():
    error = PayarcAuthError("PayArc does not accept the access token", status=401)
    assert str(error.about("payarc_live")) == "Connection payarc_live: PayArc does not accept the access token"
    assert str(error.about("another")) == "Connection payarc_live: PayArc does not accept the access token"
    assert str(PayarcAuthError("no token").about(None)) == "no token"
