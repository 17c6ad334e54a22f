"""The example DAGs, run by a real Airflow against the sandbox. Runs on every supported Airflow."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow import __version__ as airflow_version
from packaging.version import Version

from payarc_provider.sandbox import SandboxServer, make_token

PROGRAM = Path(__file__).with_name("run_examples.py")
CHECKOUT = PROGRAM.parents[2]
_version = Version(Version(airflow_version).base_version)
HAS_APPROVALS = _version >= Version("3.1") and Version(version("apache-airflow-providers-standard")) >= Version("1.13")
WAITS_FOR_APPROVALS = _version >= Version("3.3")  # in dag.test(), whose triggers get no answers in 3.1 and 3.2
EXAMPLES = {path.stem for path in (CHECKOUT / "airflow_provider_payarc" / "example_dags").glob("*.py")} - (
    {"payarc_approval"} if not HAS_APPROVALS else set()
)
PEOPLE = [
    (1, "Zoë O'Brien", "zoe@example.com", "Donut shop", "(202) 555-0101", "US", "2026-01-01 09:00:00"),
    (2, "Jean-Luc Žižka", "jean-luc.example.com", "Tea house", "(202) 555-0102", "US", "2026-03-05 23:59:59"),
    (3, "Kofi Park", "kofi@example.com", None, None, None, "2026-03-06 02:00:00"),
]
SIGN_UPS = [
    [{"uuid": "6f1c", "first_name": "Núria", "last_name": "Ito", "email": "nuria@example.com", "phone": "2025550104"}],
    [{"uuid": "9b2e", "first_name": "Søren", "last_name": "Park", "email": "soren@example.com"}],
]
EDIT = """
    UPDATE people SET full_name = 'Kofi Park-Ito', updated_at = '2026-03-07 08:00:00' WHERE id = 3;
    INSERT INTO people
    VALUES (4, 'Ana Park', 'ana@example.com', NULL, NULL, NULL, '2026-03-07', '2026-03-07 09:00:00', NULL)
"""
OLD = "UPDATE people SET full_name = 'Kofi Parc', updated_at = '2026-03-06 12:00:00' WHERE id = 3"
# DAG, logical date, conf, and a change of the CRM before it. Each DAG has a CRM, a ledger and a merchant of its own.
PLAN: list[tuple[str, str | None, dict[str, Any], str]] = [
    ("payarc_by_hand", None, {"since": "2026-01-01", "until": "2026-02-01", "limit": 5, "dry_run": True}, ""),
    ("payarc_by_hand", None, {"since": "2026-01-01", "until": "2026-02-01", "limit": 5, "dry_run": False}, ""),
    ("payarc_nightly", "2026-03-06T02:00:00+00:00", {}, ""),
    ("payarc_nightly", "2026-03-07T02:00:00+00:00", {}, ""),
    ("payarc_after_nightly", None, {}, ""),
    ("payarc_from_table", None, {}, ""),
    ("payarc_from_xcom", None, {}, ""),
    ("payarc_from_function", None, {}, ""),
    ("payarc_from_api", None, {}, ""),
    ("payarc_sync", None, {}, ""),
    ("payarc_sync", None, {}, EDIT),
    ("payarc_sync", None, {}, OLD),
    ("payarc_fan_out", None, {}, ""),
    ("payarc_merchants", None, {}, ""),
]
RENAME = "UPDATE people SET full_name = 'Zoë Park', updated_at = '2026-03-08 09:00:00' WHERE id = 1"
APPROVAL: list[tuple[str, str | None, dict[str, Any], str]] = [
    ("payarc_approval", None, {"answer": "Reject", "meanwhile": ""}, ""),
    ("payarc_approval", None, {"answer": "Approve", "meanwhile": RENAME}, ""),
    ("payarc_approval", None, {"answer": "Approve", "meanwhile": ""}, ""),
    ("payarc_approval", None, {"answer": "Approve", "meanwhile": ""}, EDIT),
]
if WAITS_FOR_APPROVALS:
    PLAN += APPROVAL
CHANGE = """
    UPDATE people SET full_name = 'Kofi Park-Ito' WHERE id = 3;
    INSERT INTO people
    SELECT 4, 'Ana Park', 'ana@example.com', NULL, NULL, NULL, signed_up, updated_at, NULL FROM people WHERE id = 3
"""
BY_HAND = {"since": "2026-03-06", "until": "2027-01-01", "limit": 5, "dry_run": False}
# Likewise. These runs share a CRM, its ledger and a merchant.
SHARED: list[tuple[str, str | None, dict[str, Any], str]] = [
    ("payarc_nightly", "2026-03-07T02:00:00+00:00", {}, ""),
    ("payarc_by_hand", None, BY_HAND, CHANGE),
    ("payarc_nightly", "2026-03-07T02:00:00+00:00", {}, ""),
]


class CrmApi(BaseHTTPRequestHandler):
    """The API that the DAG payarc_from_api reads: two pages."""

    def do_GET(self) -> None:
        """Answer."""
        page = int(parse_qs(urlsplit(self.path).query)["page"][0])
        right = self.headers["Authorization"] == "Bearer not-a-real-token"
        body = json.dumps({"people": SIGN_UPS[page - 1], "next_page": page + 1 if page < len(SIGN_UPS) else None})
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(body.encode() if right else b"")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def sandbox():
    """A sandbox for this module, because Airflow runs once for all its tests, in another process."""
    with SandboxServer() as server:
        yield server


@pytest.fixture(scope="module")
def crm_api():
    """The base URL of an API that lists people."""
    with ThreadingHTTPServer(("127.0.0.1", 0), CrmApi) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def ran(sandbox: SandboxServer, crm_api: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of running all examples."""
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "airflow_provider_payarc" / "example_dags"),
        "AIRFLOW_CONN_PAYARC_ACME": sandbox.connection_json(make_token("acme")),
        "AIRFLOW_CONN_PAYARC_BOLT": sandbox.connection_json(make_token("bolt")),
        "AIRFLOW_CONN_CRM_API": json.dumps({"conn_type": "http", "host": crm_api, "password": "not-a-real-token"}),
    }
    own = {name: _connections(home, sandbox, name) for name in {name for name, *_ in PLAN}}
    shared = _connections(home, sandbox, "shared")
    plan = [[*what, own[what[0]]] for what in PLAN] + [[*what, shared] for what in SHARED]
    (home / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, str(PROGRAM), str(home / "plan.json"), str(home / "report.json")]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return json.loads((home / "report.json").read_text()) | {"environment": environment}


def _connections(home: Path, sandbox: SandboxServer, dag_id: str) -> dict[str, str]:
    crm = sqlite3.connect(home / f"{dag_id}.db")
    with crm:
        columns = "full_name, email, company, phone, country, signed_up, updated_at, payarc_customer_id VARCHAR(64)"
        crm.execute(f"CREATE TABLE people (id INTEGER PRIMARY KEY, {columns})")
        crm.executemany("INSERT INTO people VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, NULL)", PEOPLE)
        for merchant in ("acme", "bolt"):
            crm.execute(f"CREATE TABLE {merchant}_people (id INTEGER PRIMARY KEY, full_name, email)")
            crm.execute(f"INSERT INTO {merchant}_people VALUES (1, 'Ana Park', 'ana@{merchant}.example.com')")
    crm.close()
    ledger = json.dumps({"conn_type": "sqlite", "host": str(home / f"{dag_id}.ledger.db")})
    return {
        "AIRFLOW_CONN_PAYARC_DEFAULT": sandbox.connection_json(make_token(dag_id)),
        "AIRFLOW_CONN_CRM": json.dumps({"conn_type": "sqlite", "host": str(home / f"{dag_id}.db")}),
        "AIRFLOW_CONN_PAYARC_LEDGER": ledger,
    }


def tasks(ran, dag_id, task_id, nth=0):
    """The tasks with this id, mapped or not, of the DAG's n-th run."""
    run = [run for run in ran["runs"] if run["dag"] == dag_id][nth]
    return [task for task in run["tasks"] if task["task"] == task_id]


def created(ran, dag_id, nth=0):
    """The XComs of the task that creates the customers."""
    (task,) = tasks(ran, dag_id, "create_customers", nth)
    return task["xcom"]


def emails(sandbox, merchant):
    """The email addresses of a merchant's customers, in order."""
    return sorted(customer["email"] for customer in sandbox.customers(merchant))


def test_all_examples_are_documented_and_succeed(ran):
    assert ran["import_errors"] == {}
    assert set(ran["docs"]) == {name for name, *_ in PLAN} | EXAMPLES
    assert EXAMPLES - {name for name, *_ in PLAN} <= ({"payarc_approval"} if not WAITS_FOR_APPROVALS else set())
    assert all(ran["docs"].values())
    refused = [name == "payarc_approval" and bool(conf["meanwhile"]) for name, _, conf, _ in [*PLAN, *SHARED]]
    assert [run["dag"] for run in ran["runs"]] == [name for name, *_ in [*PLAN, *SHARED]]
    assert [run["state"] for run in ran["runs"]] == ["failed" if refuse else "success" for refuse in refused]


def test_none_runs_before_somebody_wants_it(ran):
    assert ran["by_themselves"] == []


@pytest.mark.skipif(_version < Version("3.3"), reason="Airflow looks for providers' examples from 3.3 on")
def test_airflow_shows_them_among_its_examples(ran, tmp_path):
    of_bundle = "--local --bundle-name airflow-provider-payarc-example-dags -o json"
    environment = os.environ | ran["environment"] | {"AIRFLOW__CORE__LOAD_EXAMPLES": "True"}

    def listed(what: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "airflow", "dags", what, *of_bundle.split()]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "airflow_provider_payarc" not in done.stderr, "no module is missing"
        found: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    assert listed("list-import-errors") == []
    assert {dag["dag_id"] for dag in listed("list")} == EXAMPLES | {"payarc_after_nightly"}


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("payarc_by_hand", ["zoe@example.com"]),
        ("payarc_nightly", ["kofi@example.com"]),
        ("payarc_from_table", ["kofi@example.com", "zoe@example.com"]),
        ("payarc_from_xcom", ["chloe@example.com", "jean-luc@example.com"]),
        ("payarc_from_function", ["ana@example.com", "soren@example.com"]),
        ("payarc_from_api", ["nuria@example.com", "soren@example.com"]),
        ("payarc_sync", ["ana@example.com", "kofi@example.com", "zoe@example.com"]),
        ("payarc_fan_out", ["kofi@example.com", "zoe@example.com"]),
        ("acme", ["ana@acme.example.com"]),
        ("bolt", ["ana@bolt.example.com"]),
    ],
)
def test_each_person_is_created_once(ran, sandbox, name, made):
    assert emails(sandbox, name) == made


@pytest.mark.parametrize("name", ["payarc_from_table", "payarc_from_xcom"])
def test_downstream_tasks_get_each_id(ran, sandbox, name):
    ids = created(ran, name)["return_value"]

    assert len(ids) == len(set(ids)) == 2
    assert set(ids) <= {customer["customer_id"] for customer in sandbox.customers()}
    assert [task["state"] for task in tasks(ran, name, "welcome")] == ["success", "success"]


def test_rejections_by_payarc_are_reported(ran):
    assert created(ran, "payarc_from_table")["rejected"] == [
        {"key": "2", "errors": {"email": ["The email must be a valid email address."]}}
    ]


def test_the_manual_example_does_a_dry_run_first(ran):
    (tried,) = tasks(ran, "payarc_by_hand", "try_customers", 0)
    (left,) = tasks(ran, "payarc_by_hand", "create_customers", 0)

    assert tried["xcom"]["summary"]["would_create"] == 1
    assert left["state"] == "skipped"
    assert created(ran, "payarc_by_hand", 1)["summary"]["created"] == 1


def test_the_nightly_example_reads_its_data_interval(ran):
    nights = [created(ran, "payarc_nightly", nth) for nth in range(2)]

    assert [night["summary"]["records"] for night in nights] == [1, 1]
    assert [night["summary"]["created"] for night in nights] == [0, 1]
    assert [one["key"] for one in nights[0]["rejected"]] == ["2"]


def test_the_nightly_and_the_manual_example_work_side_by_side(ran, sandbox):
    runs = [created(ran, "payarc_nightly", 2), created(ran, "payarc_by_hand", 2), created(ran, "payarc_nightly", 3)]
    first, second, third = ([run["summary"][name] for name in ("created", "known", "changed")] for run in runs)

    assert (first, second) == ([1, 0, 0], [1, 1, 1])
    # On Airflow 2, the third repeats the DAG run of the first and reports that one's customer as created.
    assert third in ([0, 2, 1], [1, 1, 1])
    assert [run["summary"]["rejected"] for run in runs] == [0, 0, 0]
    assert emails(sandbox, "shared") == ["ana@example.com", "kofi@example.com"]
    assert runs[1]["return_value"] == runs[2]["return_value"]


def test_the_sync_example_keeps_customers_up_to_date(ran, sandbox):
    nights = [tasks(ran, "payarc_sync", "sync_customers", nth)[0]["xcom"]["summary"] for nth in range(3)]
    counts = [[night[name] for name in ("created", "updated", "known", "stale", "rejected")] for night in nights]

    assert counts == [[2, 0, 0, 0, 1], [1, 1, 1, 0, 1], [0, 0, 3, 1, 1]]
    names = {customer["email"]: customer["name"] for customer in sandbox.customers("payarc_sync")}
    assert names["kofi@example.com"] == "Kofi Park-Ito"
    assert [night["written_back"] for night in nights] == [2, 1, 0]


def test_the_fan_out_example_maps_over_groups_of_ids(ran):
    assert [len(group) for group in created(ran, "payarc_fan_out")["return_value"]] == [2]
    assert [task["xcom"]["return_value"] for task in tasks(ran, "payarc_fan_out", "invite")] == [2]


def test_the_merchants_example_has_a_task_for_each_merchant(ran):
    assert [task["map_index"] for task in tasks(ran, "payarc_merchants", "create_customers")] == [0, 1]


@pytest.mark.skipif(not HAS_APPROVALS, reason="approvals came with Airflow 3.1, and their time limit later")
@pytest.mark.skipif(HAS_APPROVALS and not WAITS_FOR_APPROVALS, reason="dag.test() gets no answers before 3.3")
def test_the_approval_example_carries_out_what_was_approved(ran, sandbox):
    states, plans, applied = [], [], []
    for nth in range(4):
        (plan,), (apply,) = (tasks(ran, "payarc_approval", name, nth) for name in ("plan_customers", "apply_plan"))
        states.append(apply["state"])
        plans.append([(step["key"], step["action"], step["fields"]) for step in plan["xcom"]["plan"]])
        applied.append(apply["xcom"]["summary"])

    # refused by the person; refused because somebody was renamed in between; carried out; carried out after an edit
    assert states == ["skipped", "failed", "success", "success"]
    first = [
        ("1", "create", ["email", "name", "phone"]),
        ("2", "create", ["email", "name", "phone"]),
        ("3", "create", ["email", "name"]),
    ]
    assert plans[:3] == [first] * 3
    assert plans[3] == [("2", "reject", ["email"]), ("3", "update", ["name"]), ("4", "create", ["email", "name"])]
    assert applied[:2] == [None, None], "nothing was sent"
    assert [applied[2][name] for name in ("created", "rejected", "posts")] == [2, 1, 3]
    assert [applied[3][name] for name in ("created", "updated", "posts", "patches")] == [1, 1, 1, 1]
    names = {customer["email"]: customer["name"] for customer in sandbox.customers("payarc_approval")}
    assert names == {"zoe@example.com": "Zoë Park", "kofi@example.com": "Kofi Park-Ito", "ana@example.com": "Ana Park"}


def test_every_count_of_the_summary_is_documented(ran):
    page = (CHECKOUT / "docs" / "operator.md").read_text()

    assert [name for name in created(ran, "payarc_from_table")["summary"] if f"`{name}`" not in page] == []
