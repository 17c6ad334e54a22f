"""Write the map of modules in ``docs/architecture.md`` from the modules' docstrings; ``make docs`` does this first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "payarc_provider"
PAGE = CHECKOUT / "docs" / "architecture.md"
BEGIN, END = "<!-- map: written by docs/module_map.py -->\n", "<!-- end map -->"
ORDER = [
    "",
    "operators",
    "hooks",
    "sync",
    "sync/ledger",
    "api",
    "ledger",
    "plugins",
    "probe",
    "sandbox",
]  # as imports point


def summary(module: Path) -> str:
    """Return the first sentence of the module's docstring, as Markdown."""
    docstring = ast.get_docstring(ast.parse(module.read_text())) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[.:]) (?=[A-Z`])", paragraph)[0].rstrip(":").replace("``", "`")


def module_map() -> str:
    """Return the map: a table for each package, with a row for each of its modules."""
    packages = [path.parent.relative_to(PACKAGE).as_posix().removeprefix(".") for path in PACKAGE.rglob("__init__.py")]
    packages.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return "\n".join(line for name in packages for line in _table(PACKAGE / name))


def _table(package: Path) -> Iterator[str]:
    yield f"**`{package.relative_to(CHECKOUT).as_posix()}/`**: {summary(package / '__init__.py')}"
    modules = sorted(path for path in package.glob("*.py") if path.name != "__init__.py")
    if modules:
        yield ""
        yield "| module | what it does |"
        yield "|---|---|"
    for module in modules:
        yield f"| `{module.name}` | {summary(module).rstrip('.')} |"
    yield ""


def page_with_map() -> str:
    """Return the page with a new map."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{module_map()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page_with_map())
