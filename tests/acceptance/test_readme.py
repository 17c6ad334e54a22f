"""The README says everything, and what it shows works."""

from __future__ import annotations

import inspect
import json
import os
import re
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from payarc_provider import exceptions
from payarc_provider.api.fields import FIELDS
from payarc_provider.get_provider_info import CONN_FIELDS
from payarc_provider.operators.customer import CreateCustomerOperator
from payarc_provider.sync.states import State, Status

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
PARAMETERS = re.findall(r"^\| `(\w+)`( \*)? \| `(.+?)` \| ", README, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_parameter_is_documented_with_its_default():
    signature = inspect.signature(CreateCustomerOperator.__init__).parameters
    defaults = {name: repr(one.default) for name, one in signature.items() if name not in ("self", "kwargs")}

    assert {name: default.replace('"', "'") for name, _, default in PARAMETERS} == defaults
    assert [name for name, _, _ in PARAMETERS] == list(defaults)


def test_every_template_field_is_marked():
    assert {name for name, star, _ in PARAMETERS if star} == set(CreateCustomerOperator.template_fields)


@pytest.mark.parametrize("name", [*FIELDS, *CONN_FIELDS, *exceptions.__all__, *State, *Status])
def test_it_is_mentioned(name):
    assert re.search(rf"\b{name}\b", README)


def test_its_dag_and_its_test_work(tmp_path):
    dag, conftest, test = (
        _block(beginning) for beginning in ("import datetime", "pytest_plugins", "from airflow.dag_")
    )
    if find_spec("airflow.sdk") is None:
        dag = dag.replace("airflow.sdk", "airflow.decorators")
    if find_spec("airflow.dag_processing.dagbag") is None:
        test = test.replace("airflow.dag_processing.dagbag", "airflow.models.dagbag")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "new_customers.py").write_text(dag)
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_new_customers.py").write_text(test)
    _make_crm(tmp_path / "crm.db")
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW_CONN_CRM": json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "crm.db")}),
    }

    for command in (["-m", "airflow", "db", "migrate"], ["-m", "pytest", "-q"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "1 passed" in done.stdout


def _block(beginning: str) -> str:
    (block,) = (block for block in BLOCKS if block.startswith(beginning))
    return block


def _make_crm(path: Path) -> None:
    crm = sqlite3.connect(path)
    with crm:
        crm.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, full_name, email, phone)")
        names = ["Zoë O'Brien", "Jean-Luc Žižka", "Kofi Park"]
        rows = [(name, f"person{number}@example.com", f"(202) 555-010{number}") for number, name in enumerate(names)]
        crm.executemany("INSERT INTO people (full_name, email, phone) VALUES (?, ?, ?)", rows)
    crm.close()
