"""What is distributed: a wheel that holds the package alone, and an sdist that can be built again."""

from __future__ import annotations

import configparser
import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import payarc_provider

CHECKOUT = Path(__file__).resolve().parents[2]

pytest.importorskip("build", reason="packages are built where the development environment is")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions; the wheel is made from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> dict[str, bytes]:
    """The wheel's files."""
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _of_dist_info(wheel: dict[str, bytes], end: str) -> str:
    (content,) = (content for name, content in wheel.items() if name.endswith(f".dist-info/{end}"))
    return content.decode()


def test_the_wheel_holds_the_package_alone(wheel):
    tops = {name.split("/")[0] for name in wheel}

    assert tops == {"payarc_provider", f"airflow_provider_payarc-{payarc_provider.__version__}.dist-info"}
    assert "payarc_provider/py.typed" in wheel
    assert not [name for name in wheel if "__pycache__" in name]


def test_the_wheel_holds_every_module_of_the_checkout(wheel):
    ours = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "payarc_provider").rglob("*.py")}

    assert ours == {name for name in wheel if name.endswith(".py")}
    assert {"payarc_provider/plugins/templates/base.html", "payarc_provider/plugins/templates/page.css"} <= set(wheel)


def test_the_entry_point_leads_to_the_metadata(wheel):
    points = configparser.ConfigParser()
    points.read_string(_of_dist_info(wheel, "entry_points.txt"))

    assert dict(points["apache_airflow_provider"]) == {
        "provider_info": "payarc_provider.get_provider_info:get_provider_info"
    }
    assert dict(points["airflow.plugins"]) == {
        "payarc_customers": "payarc_provider.plugins.customers:PayarcCustomersPlugin"
    }


def test_the_wheel_says_what_it_is(wheel):
    said = email.message_from_string(_of_dist_info(wheel, "METADATA"))

    assert said["Name"] == "airflow-provider-payarc"
    assert said["Version"] == payarc_provider.__version__
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == ">=3.11"
    assert said["Description-Content-Type"] == "text/markdown"
    assert _of_dist_info(wheel, "licenses/LICENSE") == (CHECKOUT / "LICENSE").read_text()


def test_the_version_stands_in_one_place():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]

    assert "version" not in project
    assert "version" in project["dynamic"]


def test_the_sdist_holds_what_is_needed_to_build_and_test(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}

    needed = {"LICENSE", "Makefile", "README.md", "demo/run.py", "pyproject.toml", "requirements-dev.txt"}
    assert needed <= files
    assert {"tests/acceptance/test_package.py", "example_dags/payarc_from_table.py"} <= files
    assert not [name for name in files if name.startswith((".venv", ".demo", ".git/")) or "__pycache__" in name]
