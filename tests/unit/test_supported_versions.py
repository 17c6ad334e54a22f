"""The page "Supported versions" agrees with what is tested and declared."""

from __future__ import annotations

import re
import tomllib

import compat
import pages
import pytest
import yaml

PROJECT = tomllib.loads(pages.text("pyproject.toml"))["project"]
PAGE = pages.text("docs/versions.md")
ROWS = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| [23]\.\d.*", PAGE, re.MULTILINE)]
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))


def test_each_airflow_that_is_tested_has_its_row():
    assert [tested.partition(",")[0] for _, _, tested, *_ in ROWS] == list(compat.AIRFLOWS)
    assert all(tested.startswith(f"{airflow}.") for airflow, _, tested, *_ in ROWS)
    assert f"apache-airflow>={ROWS[0][0]}.0" in PROJECT["dependencies"]


def test_the_pythons_are_those_of_the_package():
    assert {python for _, pythons, *_ in ROWS for python in pythons.split(", ")} == set(PYTHONS)
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_the_oldest_common_compat_is_named():
    (bound,) = [one.partition(">=")[2] for one in PROJECT["dependencies"] if compat.COMMON_COMPAT in one]
    assert f"older than {bound}" in " ".join(PAGE.split())


def test_ci_runs_every_version():
    workflow = pages.CHECKOUT / ".github" / "workflows" / "ci.yml"
    if not workflow.exists():
        pytest.skip("this is an sdist, which has no workflows")
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    assert jobs["compat"]["strategy"]["matrix"]["airflow"] == list(compat.AIRFLOWS)
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
