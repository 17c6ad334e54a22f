"""``pyproject.toml`` declares what the package imports, and nothing else."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]

NOT_DECLARED = {
    "airflow.providers.databricks": "a connection of this type needs its provider",
    "flask_appbuilder": "Airflow 2's web server asks for the connection's form, and is built with it",
    "flask_babel": "likewise",
    "psycopg": "a connection of this driver has it",
    "wtforms": "likewise",
}
"""What whoever calls the code has imported already. It may be imported within functions only."""

OF_EXTRAS = {
    "hooks/tracing.py": {"opentelemetry"},
    "operators/customer.py": {"openlineage"},
    "operators/openlineage.py": {"openlineage"},
    "plugins/app.py": {"page"},
    "plugins/customers.py": {"page"},
    "sandbox/": {"sandbox"},
}
"""Files or folders → the extras whose packages they may import."""

NOT_IMPORTED = {"python-multipart": "Starlette reads forms with it"}

DISTRIBUTIONS = {"opentelemetry": "opentelemetry-api"}
"""Module → distribution, where the names differ."""


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The other packages' modules that a file imports, and whether that happens when it is imported itself."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            names = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and not child.level:
                names = [child.module or ""]
            yield from ((name, at_import) for name in names)
            is_typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, at_import and not is_typing and not is_function)

    for name, at_import in visit(ast.parse(path.read_text()), True):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "payarc_provider"}:
            yield name, at_import


def distribution(module: str) -> str:
    """The distribution that has a module; of Airflow's providers, the one whose name is longest."""
    parts = module.split(".")
    if parts[:2] == ["airflow", "providers"]:
        named = ["-".join(["apache-airflow-providers", *parts[2:end]]) for end in range(len(parts), 2, -1)]
        return next((name for name in named if name in ALL), named[-1])
    return "apache-airflow" if parts[0] == "airflow" else DISTRIBUTIONS.get(parts[0], parts[0])


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", one, maxsplit=1)[0] for one in requirements}


REQUIRED = names(PROJECT["dependencies"])
REQUIREMENTS = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
EXTRAS = {extra: names(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}
ALL = REQUIRED.union(*EXTRAS.values())
FILES = sorted((CHECKOUT / "payarc_provider").rglob("*.py"))


def is_expected(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NOT_DECLARED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_import_is_declared(path):
    within = path.relative_to(CHECKOUT / "payarc_provider").as_posix()
    extras = {extra for start, some in OF_EXTRAS.items() if within.startswith(start) for extra in some}
    declared = REQUIRED.union(*(EXTRAS[extra] for extra in extras))
    for module, at_import in imports(path):
        if module == "pytest" and within == "sandbox/pytest_plugin.py":  # pytest alone imports it
            continue
        assert distribution(module) in declared or (is_expected(module) and not at_import), module


def test_every_dependency_is_imported():
    imported = {distribution(module) for path in FILES for module, _ in imports(path)}
    assert ALL - imported == set(NOT_IMPORTED)


def test_every_exception_is_needed():
    imported = [module for path in FILES for module, _ in imports(path)]
    assert [name for name in NOT_DECLARED if not any(f"{module}.".startswith(f"{name}.") for module in imported)] == []
    assert set().union(*OF_EXTRAS.values()) == set(EXTRAS)


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_every_dependency_has_a_lower_bound_and_no_upper_one(requirement):
    """An upper bound would keep users from security fixes of other packages."""
    assert re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?>=[0-9.]+", requirement)
