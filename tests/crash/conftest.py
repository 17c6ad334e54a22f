"""Fixtures of the crash tests. ``PAYARC_SEED`` repeats a run, ``PAYARC_CRASH_PARALLEL`` limits the parallel cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .cases import DATABASES, SEED, Case, Lab, ParallelCases


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seed that makes the tests choose the same points again."""
    terminalreporter.write_line(f"crash tests: PAYARC_SEED={SEED}")


def database_urls(request: pytest.FixtureRequest) -> dict[str, str]:
    """Database → its URL, or the reason why it is not available."""
    urls = {"sqlite": "sqlite://"}
    for name in DATABASES[1:]:
        try:
            urls[name] = request.getfixturevalue(f"{name}_url").render_as_string(hide_password=False)
        except pytest.skip.Exception as reason:
            urls[name] = str(reason)
    return urls


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The fork server and the databases."""
    lab = Lab(tmp_path_factory.mktemp("crash"), database_urls(request))
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def parallel_cases(request: pytest.FixtureRequest, lab: Lab) -> Iterator[ParallelCases]:
    """All the cases that this session has selected, running."""
    cases: list[Case] = [
        item.callspec.params["case"]
        for item in request.session.items
        if "parallel_cases" in getattr(item, "fixturenames", ()) and hasattr(item, "callspec")
    ]
    running = ParallelCases(lab, cases)
    yield running
    running.close()
