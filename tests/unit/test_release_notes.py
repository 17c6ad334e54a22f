"""The changelog has a section for the version, and a release on GitHub shows that section."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable

import pages
import pytest

from payarc_provider import __version__

CHANGELOG = """\
# Changelog

## [0.2.0] - unreleased

### Fixed

- Something.

## [0.1.0] - 2026-01-31

The first release of
this package.

### Added

- One thing,
  which needs two lines.
- Another thing.
"""


@pytest.fixture(scope="module")
def notes() -> Callable[[str, str], str]:
    function: Callable[[str, str], str] = runpy.run_path(str(pages.CHECKOUT / "docs" / "release_notes.py"))["notes"]
    return function


def test_the_notes_are_the_versions_section_with_a_line_for_each_paragraph(notes):
    assert notes("0.1.0", CHANGELOG) == (
        "The first release of this package.\n\n### Added\n\n- One thing, which needs two lines.\n- Another thing.\n"
    )


@pytest.mark.parametrize(("version", "why"), [("0.2.0", "needs the date"), ("0.3.0", "no section"), ("0.1", "no sec")])
def test_a_version_without_a_dated_section_is_not_released(notes, version, why):
    with pytest.raises(SystemExit, match=why):
        notes(version, CHANGELOG)


def test_the_version_has_a_section_and_the_readme_says_how_to_install_it():
    heading = re.search(rf"^## \[{re.escape(__version__)}\] - (\S+)$", pages.text("CHANGELOG.md"), re.MULTILINE)

    assert heading
    released = heading[1] != "unreleased"
    assert ("pip install airflow-provider-payarc" in pages.text("README.md")) is released
    assert ("There is no release yet" in pages.text("README.md")) is not released
