"""Some of the experiments of :mod:`.weather`: nobody gets two customers, and the runs succeed or say why they stop."""

from __future__ import annotations

import pytest

from .cases import ParallelCases
from .weather import EXPERIMENTS, Experiment

LONGEST_FIRST = (
    "clock_170",
    "partition",
    "partition_stopped",
    "always_503",
    "list_lags",
    "list_oldest",
    "list_no_id",
    "table_rebuilt",
    "backup",
    "failover",
    "table_truncated",
    "description_cut",
    "description_append",
    "description_drop",
    "foreign_401",
    "html_429",
)
BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}


@pytest.mark.parametrize("case", [BY_NAME[name] for name in LONGEST_FIRST], ids=LONGEST_FIRST)
def test_bad_weather_makes_no_duplicate(parallel_cases: ParallelCases, case: Experiment) -> None:
    """The longest one takes about 20 s, and they run in parallel."""
    parallel_cases.check(case)
