"""The example DAGs, run by a real Airflow against the sandbox. Runs on every supported Airflow."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from payarc_provider.sandbox import SandboxServer

PROGRAM = Path(__file__).with_name("run_examples.py")
PEOPLE = [
    (1, "Zoë O'Brien", "zoe@example.com", "Donut shop", "(202) 555-0101", "US"),
    (2, "Jean-Luc Žižka", "jean-luc.example.com", "Tea house", "(202) 555-0102", "US"),
    (3, "Kofi Park", "kofi@example.com", None, None, None),
]


@pytest.fixture(scope="module")
def sandbox():
    """A sandbox of their own, since Airflow is another process and all tests here share one run."""
    with SandboxServer() as server:
        yield server


@pytest.fixture(scope="module")
def ran(sandbox: SandboxServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of running them all."""
    home = tmp_path_factory.mktemp("airflow")
    crm = sqlite3.connect(home / "crm.db")
    with crm:
        crm.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, full_name, email, company, phone, country)")
        crm.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?, ?)", PEOPLE)
    crm.close()
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROGRAM.parents[2] / "example_dags"),
        "AIRFLOW_CONN_PAYARC_DEFAULT": sandbox.connection_json(),
        "AIRFLOW_CONN_CRM": json.dumps({"conn_type": "sqlite", "host": str(home / "crm.db")}),
        "AIRFLOW_CONN_PAYARC_LEDGER": json.dumps({"conn_type": "sqlite", "host": str(home / "ledger.db")}),
    }
    command = [sys.executable, str(PROGRAM), str(home / "report.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return json.loads((home / "report.json").read_text())


def test_they_import(ran):
    assert ran["import_errors"] == {}
    assert set(ran["dags"]) == {"payarc_from_table", "payarc_from_xcom"}
    assert all(dag["doc"] for dag in ran["dags"].values())


@pytest.mark.parametrize("name", ["payarc_from_table", "payarc_from_xcom"])
def test_each_customer_is_made_once_and_handed_downstream(ran, sandbox, name):
    dag = ran["dags"][name]

    assert dag["state"] == "success"
    assert len(dag["ids"]) == len(set(dag["ids"])) == 2
    assert set(dag["ids"]) <= {customer["customer_id"] for customer in sandbox.customers()}
    assert dag["mapped"] == ["success", "success"]


def test_nothing_else_is_made(ran, sandbox):
    assert {customer["email"] for customer in sandbox.customers()} == {
        "zoe@example.com",
        "kofi@example.com",
        "chloe@example.com",
        "jean-luc@example.com",
    }
    assert sandbox.stats()["posts"]["received"] == 5


def test_what_payarc_refuses_is_told(ran):
    assert ran["dags"]["payarc_from_table"]["rejected"] == [
        {"key": "2", "errors": {"email": ["The email must be a valid email address."]}}
    ]


def test_every_count_of_the_summary_is_documented(ran):
    readme = (PROGRAM.parents[2] / "README.md").read_text()

    assert [name for name in ran["dags"]["payarc_from_table"]["summary"] if f"`{name}`" not in readme] == []
