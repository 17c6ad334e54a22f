"""The pages of the documentation can be read on GitHub, too, and their links lead somewhere."""

from __future__ import annotations

import re

import pages
import pytest

OTHERS = ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
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
