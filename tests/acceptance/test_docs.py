"""The documentation builds without warnings, and nothing public is missing from it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pages
import pytest

from payarc_provider import exceptions
from payarc_provider.get_provider_info import CONFIG, CONN_FIELDS, UI_FIELD_BEHAVIOUR
from payarc_provider.operators import reporting
from payarc_provider.sandbox.faults import FaultKind, FaultRule
from payarc_provider.sandbox.settings import SandboxSettings
from payarc_provider.sync.results import Progress, Results, Status

PACKAGE = pages.CHECKOUT / "payarc_provider"
# The languages whose blocks are run, for each page. test_ledger_docs.py and test_ledger_command.py run docs/ledger.md.
RUN = {
    "README.md": {"python", "bash"},
    "docs/testing.md": {"python", "bash"},
    "docs/hook.md": {"python"},
    "docs/index.md": {"python", "text", "json"},  # test_home_page.py
    "docs/recipes.md": {"python", "bash", "sql"},  # test_recipes.py, test_alerts.py
    "docs/operator.md": {"sql", "python", "json"},  # test_operator_docs.py, test_ids_in_source.py
    "docs/examples.md": {"python"},  # test_examples.py
    "docs/updates.md": {"python"},  # test_examples.py
    "docs/plans.md": {"python", "text"},  # test_operator_docs.py, test_examples.py
    "docs/fields.md": {"python"},  # test_operator_docs.py
    "docs/operating.md": {"python"},  # test_operator_docs.py
    "docs/connection.md": {"bash"},
    "docs/errors.md": {"python", "text"},
    "docs/observability.md": {"python"},
    "docs/probe.md": {"bash", "text"},  # test_probe.py
    "docs/rate_limit.md": {"python"},
    "docs/tutorial.md": {"python", "bash", "text"},
    "docs/ledger.md": {"sql", "postgresql", "bash", "text"},
}
DATA = {"ini"}  # not code


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Build the pages as `make docs` does; returns a function that returns a page's HTML."""
    pytest.importorskip("sphinx", reason="Sphinx is part of the development environment only")
    folder = tmp_path_factory.mktemp("docs")
    [options] = re.findall(r"\$\(BIN\)/sphinx-build (.+) docs docs/_build/html", pages.text("Makefile"))
    command = [sys.executable, "-m", "sphinx", *options.split(), str(pages.CHECKOUT / "docs"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-5000:]
    return lambda page: (folder / f"{page}.html").read_text()


def mentioned(html: str, names: list[str]) -> None:
    """Check that each name appears as code."""
    code = set(re.findall(r"[\w.:/<>-]+", re.sub(r"<[^>]+>", "", " ".join(re.findall(r"<code.*?</code>", html)))))
    assert [name for name in names if name not in code] == []


def test_every_field_of_the_connection_is_documented(built):
    mentioned(built("connection"), [*CONN_FIELDS, *UI_FIELD_BEHAVIOUR["relabeling"], "port"])


def test_every_option_of_the_configuration_is_documented():
    documented = pages.text("docs/ui.md") + pages.text("docs/security.md")
    for section, content in CONFIG.items():
        for option in content["options"]:
            assert re.search(rf"\[{section}\]\n{option} = ", documented)


def test_every_error_is_documented_with_what_to_do(built):
    html = built("errors")

    assert html.count("PayarcError") > 1
    mentioned(html, exceptions.__all__)


def test_the_reasons_why_a_run_stops_are_quoted_as_the_code_has_them():
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    rows = pages.text("docs/errors.md").partition("## Why a run stopped")[2].partition("##")[0]
    parts = [part.strip() for row in re.findall(r"^\| (.+?) \|", rows, re.MULTILINE)[1:] for part in row.split("…")]

    assert len(parts) > 6
    assert [part for part in parts if part not in code] == []


def test_every_metric_span_and_extra_is_documented(built):
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    ours = set(re.findall(r'"(payarc\.[a-z_.]+)"', code)) | {
        reporting.REQUESTS,
        reporting.RATE_LIMIT_WAIT,
        reporting.RUN_DURATION,
        *reporting.CUSTOMERS.values(),
    }

    assert len(ours) > 10
    mentioned(built("observability"), [*ours, *reporting.ASSET_EXTRAS])


def test_every_xcom_and_what_is_in_it_is_documented(built):
    html = built("operator")
    pushed = set(re.findall(r'push\(key="(\w+)"', (PACKAGE / "operators" / "results.py").read_text()))
    results = Results()
    results.summarize(Progress(), {}, 0.0, dry_run=True)  # the others: test_examples.py

    assert pushed == {"return_value", "customers", "rejected", "summary", "plan"}
    mentioned(html, [*pushed, *results.summary, *Status])


def test_every_setting_and_fault_of_the_sandbox_is_documented(built):
    html = built("testing")
    own = [one.name for one in fields(FaultRule) if one.name not in ("seen", "fired")]

    mentioned(html, [one.name for one in fields(SandboxSettings)] + own)
    mentioned(html, [re.sub("_(before|after)$", "", kind) for kind in get_args(FaultKind)])


def test_every_example_is_shown(built):
    names = [path.stem for path in (pages.CHECKOUT / "airflow_provider_payarc" / "example_dags").glob("*.py")]

    shown = re.sub("<[^>]+>", "", built("examples"))
    assert [name for name in names if f"def {name}()" not in shown] == []
    assert [name for name in names if f"| [{name}](#{name}) |" not in pages.text("docs/examples.md")] == []


def test_every_page_is_built(built):
    for page in pages.PAGES[1:]:
        assert built(Path(page).stem)


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_block_is_run_or_says_why_not(page):
    shown = {block.language for block in pages.blocks(page) if block.reason is None}

    assert {language for language in shown if language not in DATA and language[:1] != "{"} <= RUN.get(page, set())
