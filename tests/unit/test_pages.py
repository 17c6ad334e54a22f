"""The pages of the documentation can be read on GitHub, too, and their links lead somewhere."""

from __future__ import annotations

import re
import runpy

import pages
import pytest

OTHERS = ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
# What GitHub shows raw: Sphinx's directives and roles, and MyST's targets and definition lists.
_RAW = re.compile(r"^(?:```|:::)\{(\w[\w-]*)\}|(?<![/\w])\{(\w+)\}`\w|^\((\w+)\)=$|^(:) ", re.MULTILINE)
ALLOWED = {"docs/index.md": {"toctree", "include"}}
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: str) -> list[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```$", "", pages.text(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", [*pages.PAGES, *OTHERS])
def test_no_link_is_broken(page):
    folder = (pages.CHECKOUT / page).parent
    for path, anchor in _LINK.findall(re.sub(r"`[^`\n]+`", "", pages.text(page))):
        target = (folder / path).resolve() if path else pages.CHECKOUT / page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.relative_to(pages.CHECKOUT).as_posix()), (path, anchor)


@pytest.mark.parametrize("page", pages.PAGES)
def test_no_two_headings_of_a_page_have_one_anchor(page):
    found = anchors(page)

    assert len(found) == len(set(found))


@pytest.mark.parametrize("page", pages.PAGES)
def test_github_shows_nothing_raw(page):
    text = re.sub(r"^```\w+\n.*?^```$", "", pages.text(page), flags=re.DOTALL | re.MULTILINE)
    raw = {"".join(found) for found in _RAW.findall(text)}

    assert raw - ALLOWED.get(page, set()) == set()


@pytest.mark.parametrize("page", [page for page in pages.PAGES if page not in ("docs/index.md", "docs/changelog.md")])
def test_a_page_starts_with_an_example_or_a_picture(page):
    text = re.sub(r"<!--.*?-->\n*", "", pages.text(page), flags=re.DOTALL)
    title, *parts = text.split("\n\n", 3)

    assert title.startswith("# ")
    assert any(part.lstrip().startswith(("```", "|", "![")) for part in parts[:2]), parts[:2]


@pytest.mark.parametrize("page", pages.PAGES[1:])
def test_the_parts_from_elsewhere_are_up_to_date(page):
    written = runpy.run_path(str(pages.CHECKOUT / "docs" / "parts.py"))["page"](pages.CHECKOUT / page)

    assert written == pages.text(page), "run `make docs`, which writes the parts"
