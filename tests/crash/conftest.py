"""Fixtures of the crash tests. ``PAYARC_SEED`` repeats a run, ``PAYARC_CRASH_PARALLEL`` tells how many run at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .cases import DATABASES, SEED, Case, Lab, Together


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the seed, with which the same points are chosen again."""
    terminalreporter.write_line(f"crash tests: PAYARC_SEED={SEED}")


def database_urls(request: pytest.FixtureRequest) -> dict[str, str]:
    """Database → its URL, or why it cannot be used here."""
    urls = {"sqlite": "sqlite://"}
    for name in DATABASES[1:]:
        try:
            urls[name] = request.getfixturevalue(f"{name}_url").render_as_string(hide_password=False)
        except pytest.skip.Exception as reason:
            urls[name] = str(reason)
    return urls


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The fork server, and the databases."""
    lab = Lab(tmp_path_factory.mktemp("crash"), database_urls(request))
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def together(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Together]:
    """All the cases that this session selects, running."""
    cases: list[Case] = [
        item.callspec.params["case"]
        for item in request.session.items
        if "together" in getattr(item, "fixturenames", ()) and hasattr(item, "callspec")
    ]
    running = Together(lab, cases)
    yield running
    running.close()
