"""The page "How it is built" agrees with the code."""

from __future__ import annotations

import re
import runpy

import pages

PACKAGE = pages.CHECKOUT / "payarc_provider"
PAGE = "docs/architecture.md"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_the_map_is_up_to_date():
    written = runpy.run_path(str(pages.CHECKOUT / "docs" / "module_map.py"))["page_with_map"]()

    assert written == pages.text(PAGE), "run `make docs`, which writes the map"


def test_the_map_has_every_module_once_and_no_other():
    mapped, package = [], ""
    for line in pages.text(PAGE).splitlines():
        if heading := re.match(r"\*\*`payarc_provider/([\w/]*?)/?`\*\*", line):
            package = f"{heading[1]}/".lstrip("/")
            mapped.append(f"{package}__init__.py")
        elif row := re.match(r"\| `(\w+\.py)` \| \S", line):
            mapped.append(f"{package}{row[1]}")

    assert sorted(mapped) == MODULES


def test_the_way_of_a_record_names_code_that_exists():
    way = pages.text(PAGE).partition("## How a record travels through the code")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)`(?:\s\(((?:`\w+`(?:,\s)?)+)\))?", way)

    assert len(named) > 10
    assert [module for module, _ in named if module not in MODULES] == []
    for module, names in named:
        code = (PACKAGE / module).read_text()
        missing = [name for name in re.findall(r"\w+", names) if not re.search(rf"\b(def|class) {name}\b", code)]
        assert missing == [], module
