"""The page "How it is built" agrees with the code."""

from __future__ import annotations

import re
import runpy

import pages
import pytest

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


@pytest.mark.parametrize("line", [line for line in pages.text(PAGE).splitlines() if re.match(r"\d+\. ", line)])
def test_each_step_of_a_record_names_code_that_exists(line):
    for module, names in re.findall(r"`([\w/]+\.py)`(?: \(((?:`[\w.]+`(?:, )?)+)\))?", line):
        assert module in MODULES
        code = (PACKAGE / module).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b(def|class) {name}\b", code), f"{name} in {module}"
