"""The README is short, the reference is complete, and the code that the documentation shows works."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pages
import pytest

from payarc_provider.api.fields import FIELDS
from payarc_provider.get_provider_info import CONN_FIELDS
from payarc_provider.operators.customer import CreateCustomerOperator
from payarc_provider.operators.options import KINDS
from payarc_provider.sync.ledger import State
from payarc_provider.sync.results import Status

README = pages.text("README.md")
OPERATOR = pages.text("docs/operator.md")
READ_CONNECTION = "from payarc_provider.hooks.payarc import PayarcHook; PayarcHook().settings"
READ_PEOPLE = """
from airflow.providers.sqlite.hooks.sqlite import SqliteHook
assert SqliteHook(sqlite_conn_id="crm").get_records("SELECT full_name, email, phone FROM people")"""
PARAMETERS = re.findall(r"^\| `(\w+)`( \*)? \| `(.+?)` \| ", OPERATOR, re.MULTILINE)


def test_the_readme_has_fewer_than_200_lines():
    assert len(README.splitlines()) < 200


def test_every_parameter_is_documented_with_its_default():
    signature = inspect.signature(CreateCustomerOperator.__init__).parameters
    defaults = {name: repr(one.default) for name, one in signature.items() if name not in ("self", "kwargs")}

    assert {name: default.replace('"', "'") for name, _, default in PARAMETERS} == defaults
    assert len(PARAMETERS) == len(defaults)


def test_every_template_field_is_marked():
    fields = set(CreateCustomerOperator.template_fields) - {"options"}
    assert {name for name, star, _ in PARAMETERS if star} == fields | KINDS.keys()


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/operator.md", [*Status]),
        ("docs/fields.md", [*FIELDS]),
        ("docs/connection.md", ["password", "host", *CONN_FIELDS]),
        ("docs/ledger.md", [*State]),
    ],
)
def test_every_name_is_documented(page, names):
    text = pages.text(page)
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_its_dag_works(airflow, connect, sandbox, tmp_path):
    [code] = [block.text for block in pages.to_run("README.md", "python") if block.file == "dags/new_customers.py"]
    if find_spec("airflow.sdk") is None:
        code = code.replace("airflow.sdk", "airflow.decorators")
    people = [(1, "Zoë O'Brien", "zoe@example.com"), (2, "Kofi Park", "kofi@example.com")]
    with contextlib.closing(sqlite3.connect(tmp_path / "crm.db")) as crm, crm:
        crm.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, full_name, email, phone)")
        crm.executemany("INSERT INTO people (id, full_name, email) VALUES (?, ?, ?)", people)
    connect("crm", conn_type="sqlite", host=str(tmp_path / "crm.db"))
    dag = airflow.save("readme.py", code)["new_customers"]

    for _ in range(2):
        assert airflow.test(dag).state == "success"
    assert sandbox.stats()["posts"]["created"] == len(sandbox.customers()) == 2


@pytest.mark.parametrize("page", ["README.md", "docs/connection.md"])
def test_its_commands_work_one_after_the_other(tmp_path, home, page):
    commands = "".join(block.text for block in pages.to_run(page, "bash"))
    check = READ_CONNECTION + (READ_PEOPLE if page == "README.md" else "")
    command = ["bash", "-ec", f"{commands}\npython -c '{check}'"]
    done = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "page", ["README.md", "docs/hook.md", "docs/observability.md", "docs/rate_limit.md", "docs/errors.md"]
)
def test_its_lines_of_python_work_and_print_what_it_shows(page, payarc_sandbox, capsys):
    for block in pages.to_run(page, "python"):
        if block.file is None:
            exec(compile(block.text, page, "exec"), {"__name__": "shown"})
    if page == "docs/hook.md":
        assert payarc_sandbox.stats()["requests"].keys() >= {"POST /customers", "PATCH /customers/{id}"}
    if page == "docs/errors.md":
        [shown] = [block.text for block in pages.to_run(page, "text")]
        assert capsys.readouterr().out == shown


@pytest.fixture
def home(tmp_path):
    """An environment of its own for a command: an Airflow home in an empty folder."""
    return os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
