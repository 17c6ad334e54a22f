"""The distributions: a wheel with nothing but the package, and an sdist that can be built again."""

from __future__ import annotations

import configparser
import email
import os
import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import payarc_provider

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("payarc_provider", "airflow_provider_payarc")
REPOSITORY = "acme/airflow-provider-payarc"

pytest.importorskip("build", reason="packages are built where the development environment is")
markdown = pytest.importorskip("readme_renderer.markdown", reason="packages are built where they are developed")


def _build(source: Path, folder: Path, repository: str | None, *options: str) -> Path:
    """Build both distributions into a folder; the wheel is made from the sdist."""
    environment = {name: value for name, value in os.environ.items() if name != "GITHUB_REPOSITORY"}
    if repository:
        environment["GITHUB_REPOSITORY"] = repository
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def _files(dist: Path) -> dict[str, bytes]:
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions, as GitHub builds them."""
    return _build(CHECKOUT, tmp_path_factory.mktemp("dist"), REPOSITORY)


@pytest.fixture(scope="module")
def wheel(dist: Path) -> dict[str, bytes]:
    """The wheel's files."""
    return _files(dist)


@pytest.fixture(scope="module")
def sdist(dist: Path) -> set[str]:
    """The sdist's files."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}


def _of_dist_info(wheel: dict[str, bytes], end: str) -> str:
    (content,) = (content for name, content in wheel.items() if name.endswith(f".dist-info/{end}"))
    return content.decode()


def _rendered(wheel: dict[str, bytes]) -> str:
    """The readme as a package index shows it."""
    text = email.message_from_string(_of_dist_info(wheel, "METADATA")).get_payload()
    html: str | None = markdown.render(text)
    assert html
    return html


def _targets(shown: str) -> list[str]:
    """Where links and images lead, without those within the page."""
    return re.findall(r'(?:href|src)="([^#"][^"]*)"', shown)


def test_the_wheel_contains_only_the_package_and_its_examples(wheel):
    tops = {name.split("/")[0] for name in wheel}

    assert tops == {*PACKAGES, f"airflow_provider_payarc-{payarc_provider.__version__}.dist-info"}
    assert "payarc_provider/py.typed" in wheel
    assert not [name for name in wheel if "__pycache__" in name]


def test_the_wheel_contains_every_file_of_the_package_and_its_examples(wheel):
    paths = [path for package in PACKAGES for path in (CHECKOUT / package).rglob("*")]
    ours = {str(path.relative_to(CHECKOUT)) for path in paths if path.is_file() and path.suffix != ".pyc"}

    assert ours == {name for name in wheel if ".dist-info/" not in name}


def test_the_entry_point_returns_the_metadata(wheel):
    points = configparser.ConfigParser()
    points.read_string(_of_dist_info(wheel, "entry_points.txt"))

    assert dict(points["apache_airflow_provider"]) == {
        "provider_info": "payarc_provider.get_provider_info:get_provider_info"
    }
    assert dict(points["airflow.plugins"]) == {
        "payarc_customers": "payarc_provider.plugins.customers:PayarcCustomersPlugin"
    }


def test_the_wheel_has_its_metadata(wheel):
    said = email.message_from_string(_of_dist_info(wheel, "METADATA"))

    assert said["Name"] == "airflow-provider-payarc"
    assert said["Version"] == payarc_provider.__version__
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == ">=3.11"
    assert said["Description-Content-Type"] == "text/markdown"
    assert said["Maintainer"] == "The contributors to airflow-provider-payarc"
    assert _of_dist_info(wheel, "licenses/LICENSE") == (CHECKOUT / "LICENSE").read_text()
    named = dict(url.split(", ") for url in said.get_all("Project-URL"))
    assert {"Changelog", "Documentation", "Issues", "Source"} <= set(named)
    assert all(url.startswith("https://") and "acme" in url for url in named.values())


def test_the_readme_renders_on_a_package_index(wheel):
    shown = _rendered(wheel)
    targets = _targets(shown)

    assert "docs/images/demo.svg" in shown
    assert "docs/guarantee.md" in shown
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "<!--" not in shown
    assert "&lt;!--" not in shown
    here = f"/{REPOSITORY}/(?:blob/)?v{re.escape(payarc_provider.__version__)}/"
    files = [re.split(here, target)[1].partition("#")[0] for target in targets if REPOSITORY in target]
    assert files
    assert [name for name in files if not (CHECKOUT / name).exists()] == []


def test_without_a_repository_nothing_is_invented(tmp_path):
    wheel = _files(_build(CHECKOUT, tmp_path, None, "--wheel"))

    assert "Project-URL: " not in _of_dist_info(wheel, "METADATA")
    assert [target for target in _targets(_rendered(wheel)) if not target.startswith("https://")] == []


def test_a_wheel_built_from_the_sdist_has_the_same_metadata(dist, wheel, tmp_path):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()

    again = _files(_build(source, tmp_path / "dist", None, "--wheel"))
    assert _of_dist_info(again, "METADATA") == _of_dist_info(wheel, "METADATA")


def test_twine_accepts_both_distributions(dist):
    twine = [sys.executable, "-m", "twine", "check", "--strict", *map(str, dist.iterdir())]
    checked = subprocess.run(twine, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("PASSED") == 2


def test_the_version_is_defined_in_one_place():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]

    assert "version" not in project
    assert "version" in project["dynamic"]


def test_the_sdist_contains_what_is_needed_to_build_and_test(sdist):
    needed = {"LICENSE", "Makefile", "README.md", "demo/run.py", "pyproject.toml", "requirements-dev.txt"}

    assert needed <= sdist
    assert {"tests/acceptance/test_package.py", "airflow_provider_payarc/example_dags/payarc_from_table.py"} <= sdist


def test_the_sdist_contains_no_untracked_files(sdist):
    stray = {name for name in sdist if name.endswith((".pyc", ".db", ".log", ".whl", ".tar.gz")) or "/." in name}
    known = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    assert stray == set()
    assert not [name for name in sdist - {".gitignore"} if name.startswith((".", "build/", "dist/"))]
    if known.returncode == 0:  # else this is no checkout but an sdist itself
        tops = {name.partition("/")[0] for name in known.stdout.splitlines()}
        assert {name.partition("/")[0] for name in sdist} <= tops | {"PKG-INFO"}


def test_the_locked_requirements_name_no_index():
    locked = (CHECKOUT / "requirements-dev.txt").read_text()

    assert not re.search(r"://|^-", locked, re.MULTILINE)


def test_ci_covers_every_supported_python_and_airflow():
    workflow = CHECKOUT / ".github" / "workflows" / "ci.yml"
    if not workflow.exists():
        pytest.skip("this is an sdist, which has no workflows")
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    classifiers = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["classifiers"]
    compat = runpy.run_path(str(CHECKOUT / "tests" / "compat.py"))

    pythons = [name.rpartition(" ")[2] for name in classifiers if name.startswith("Programming Language :: Python ::")]
    assert jobs["test"]["strategy"]["matrix"]["python"] == pythons
    assert jobs["compat"]["strategy"]["matrix"]["airflow"] == list(compat["AIRFLOWS"])
