"""The arithmetic of the benchmarks: figures calculated from what the sandbox has counted."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report
from benchmarks.checks import checks
from benchmarks.limits import figures, ideal
from benchmarks.privacy import occurrences
from benchmarks.roster import DRT_CHANGES, HTTP, OPERATOR, POOL, ROSTER, SQLITE_LEDGER


def spread(value: float) -> dict[str, float]:
    """The figures of one run."""
    return {"median": value, "least": value, "most": value, "runs": 1}


def fast(ratio: float = 1.0, **more: Any) -> dict[str, Any]:
    """A tool's figures without a rate limit."""
    return {
        "records": 2000,
        "rate": spread(300),
        "ratio": spread(ratio),
        "cpu_per_1000": spread(2),
        "requests_per_customer": 1.0,
        "posts_per_customer": 1.0,
        "rss_peak": 130.0,
        "rss_before": 120.0,
        "slot_per_record": 0.0,
        "rerun_requests": 0,
        "rerun_seconds": 1.0,
    } | more


def results(**more: Any) -> dict[str, Any]:
    """Results of a run."""
    return {"speed": {}, "killed": {}, "limits": {}, "when": "today"} | more


@pytest.mark.parametrize(("records", "seconds"), [(1, 0.05), (30, 0.05), (31, 5.05), (300, 45.05)])
def test_the_minimum_time_is_all_windows_but_the_last_plus_one_latency(records: int, seconds: float) -> None:
    assert ideal(records) == pytest.approx(seconds)


def test_window_use_is_calculated_from_the_sandbox_log() -> None:
    def post(arrived: float, status: int) -> dict[str, Any]:
        made = arrived + 0.025 if status == 201 else None
        return {"arrived": arrived, "committed": made, "status": status, "idempotency_key": "code-1"}

    log = [post(100.0, 201)] * 30 + [post(100.1, 429), post(105.0, 201), post(105.1, 429)]
    found = figures(log, 31)
    assert found["customers"] == 31
    assert found["ratio"] == pytest.approx(1.0)
    assert found["limited"] == pytest.approx(2 / 31)
    assert found["limited_later"] == pytest.approx(1 / 31)


def test_each_worker_has_a_first_window_of_its_own() -> None:
    def post(arrived: float, worker: str, status: int) -> dict[str, Any]:
        made = arrived if status == 201 else None
        return {"arrived": arrived, "committed": made, "status": status, "idempotency_key": f"{worker}-1"}

    log = [post(0, "one", 201), post(6, "one", 429), post(6, "two", 201), post(7, "two", 429)]
    assert figures(log, 2, {"one": "worker-1", "two": "worker-2"})["limited_later"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(("ratio", "held"), [(0.951, True), (0.949, False)])
def test_a_requirement_is_met_from_its_target_on(ratio: float, held: bool) -> None:
    assert checks(results(speed={SQLITE_LEDGER.name: fast(ratio)}))[0].held is held


def test_a_duplicate_is_a_missed_requirement() -> None:
    killed = {SQLITE_LEDGER.name: {"records": 100, "duplicates": 1, "lost": 0}}
    assert [check.held for check in checks(results(killed=killed))] == [False]


def test_worker_slot_seconds_are_calculated_for_a_thousand_customers() -> None:
    found = results(
        speed={POOL.name: fast(), HTTP.name: fast(slot_per_record=0.5)},
        limits={POOL.name: {"ratio": 1.1}, "deferring": {"per_window": 2.0}},
    )
    assert report.slot_seconds(found, POOL) == pytest.approx((33 * 60 + 0.05) * 1.1)
    assert report.slot_seconds(found, HTTP) == pytest.approx(500)
    assert report.deferring_slot_seconds(found) == pytest.approx(68)


def test_every_tool_has_a_row_with_all_columns() -> None:
    lines = report.table(results(speed={contender.name: fast() for contender in ROSTER})).splitlines()
    assert len(lines) == 2 + len(ROSTER)
    assert len({line.count(" | ") for line in lines}) == 1


def changes(**killed: Any) -> dict[str, Any]:
    """Results of the tools that bring changes."""
    speed = {"records": 2000, "rate": spread(300), "ratio": spread(0.96), "cpu_per_1000": spread(2), "patches": 1.0}
    one = {"records": 100, "old": 0, "duplicates": 0, "rerun_seconds": 1.0} | killed
    found = {"speed": {SQLITE_LEDGER.name: speed}, "pool": spread(310)}
    return found | {"killed": {POOL.name: one, SQLITE_LEDGER.name: one, DRT_CHANGES.name: one}}


def test_every_tool_that_brings_changes_has_a_row_with_all_columns() -> None:
    lines = report.changes_table(results(changes=changes())).splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count(" | ") for line in lines}) == 1


@pytest.mark.parametrize(("killed", "held"), [({}, True), ({"old": 1}, False), ({"duplicates": 1}, False)])
def test_an_old_value_is_a_missed_requirement(killed: dict[str, int], held: bool) -> None:
    assert [check.held for check in checks(results(changes=changes(**killed)))] == [True, True, held]


def outcome(**more: Any) -> dict[str, Any]:
    """What became of requests with unknown outcomes."""
    return {"records": 100, "runs": 1, "done": True, "duplicates": 0, "lost": 0} | more


def test_a_tool_that_never_succeeds_is_named_as_such() -> None:
    found = {POOL.name: outcome(runs=12, done=False, duplicates=7), SQLITE_LEDGER.name: outcome()}
    lines = report.unknown_table(results(unknown=found)).splitlines()
    assert lines[2:] == [
        f"| {POOL.name} | 100 | none in 12 | 7 | 0 |",
        f"| {SQLITE_LEDGER.name} | 100 | 1 | 0 | 0 |",
    ]


@pytest.mark.parametrize(("more", "held"), [({}, True), ({"duplicates": 1}, False), ({"runs": 2}, False)])
def test_a_duplicate_or_a_second_run_after_a_lost_response_is_a_missed_requirement(
    more: dict[str, int], held: bool
) -> None:
    found = results(unknown={SQLITE_LEDGER.name: outcome(**more), POOL.name: outcome(duplicates=50)})
    assert [check.held for check in checks(found)] == [held]


def written(people: int = 0, token: bool = False) -> dict[str, Any]:
    """What a tool has written in one place."""
    return {"people": people, "token": token}


def test_the_table_says_whose_data_was_written_where() -> None:
    pool = {"people": 40, "output": written(3, token=True), "files": written(token=True), "airflow": None}
    lines = report.privacy_table(results(privacy={POOL.name: pool})).splitlines()
    assert lines[2] == f"| {POOL.name} | data of 3 of 40 people, the token | the token | – |"


@pytest.mark.parametrize(("place", "held"), [(written(), True), (written(1), False), (written(token=True), False)])
def test_a_value_or_the_token_in_the_log_is_a_missed_requirement(place: dict[str, Any], held: bool) -> None:
    ours = {"people": 40, "output": place, "files": written(), "airflow": written()}
    assert [check.held for check in checks(results(privacy={OPERATOR.name: ours}))] == [held]


def test_values_are_found_in_any_case_and_in_binary_files() -> None:
    texts = [b"\x00Mark1@EXAMPLE.com\xff", b'{"token": "aBc.d"}']
    assert occurrences(["mark1", "mark2"], "abc.D", texts) == {"people": 1, "token": True}
    assert occurrences(["mark2"], "other", texts) == {"people": 0, "token": False}
