"""What real runs report: metrics to StatsD, spans, OpenLineage events, assets and hook lineage."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from airflow_tables import RENDERED_FIELDS_OF_TASKS

from payarc_provider.operators import reporting
from payarc_provider.sandbox import SandboxServer

PROGRAM = Path(__file__).with_name("run_observed.py")
PEOPLE = 12
RUNS = ["from_table", "reader", "from_table", "from_query", "from_xcom", "mapped", "stopped"]
STATSD = importlib.util.find_spec("statsd") is not None
OPENLINEAGE = importlib.util.find_spec("openlineage") is not None


class StatsServer:
    """A StatsD server that keeps what it receives as (name, value, kind)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.received: list[tuple[str, float, str]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while packet := self._socket.recv(65536):
            for line in packet.decode().splitlines():
                name, value, kind = re.fullmatch(r"(.+):([^|]+)\|(\w+).*", line).groups()
                self.received.append((name, float(value), kind))

    def close(self) -> None:
        """Receive all that has been sent, then close."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()


class Observed:
    """What ``RUNS`` have reported."""

    def __init__(self, home: Path, place: str, report: dict[str, Any], received: list[tuple[str, float, str]]) -> None:
        self.home = home
        self.place = place
        self.states = report["states"]
        self.spans = report["spans"]
        self.hook_lineage = report["hook_lineage"]
        self.stats: dict[str, list[float]] = defaultdict(list)
        self.kinds: dict[str, str] = {}
        for name, value, kind in received:
            if name.startswith("airflow.payarc."):
                self.stats[name.removeprefix("airflow.")].append(value)
                self.kinds[name.removeprefix("airflow.")] = kind

    def ours(self, name: str) -> list[dict[str, Any]]:
        """The spans of this name."""
        if self.spans is None:
            pytest.skip("opentelemetry-sdk is not installed")
        return [span for span in self.spans if span["scope"] == "payarc_provider" and span["name"] == name]

    def events(self, kind: str, dag_id: str, task_id: str = "create") -> list[dict[str, Any]]:
        """OpenLineage's events of a task, in order."""
        if not OPENLINEAGE:
            pytest.skip("apache-airflow-providers-openlineage is not installed")
        lines = (self.home / "lineage.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [one for one in events if one["eventType"] == kind and one["job"]["name"] == f"{dag_id}.{task_id}"]


def make_crm(path: Path) -> None:
    """A CRM in which one person of ``people`` has an email address that PayArc rejects."""
    crm = sqlite3.connect(path)
    with crm:
        crm.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, full_name, mail)")
        crm.execute("CREATE TABLE contacts (person INTEGER, address)")
        crm.execute("CREATE TABLE rejected (id INTEGER PRIMARY KEY, full_name, mail)")
        mails = [f"p{number}@example.com" for number in range(1, PEOPLE)] + ["no-address.example.com"]
        crm.executemany("INSERT INTO people (full_name, mail) VALUES ('Secret Smith', ?)", [(mail,) for mail in mails])
        crm.execute("INSERT INTO contacts VALUES (1, 'p1@example.com')")
        crm.execute("INSERT INTO rejected (full_name, mail) VALUES ('Secret Smith', 'neither.example.com')")
    crm.close()


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """Run all DAGs in one process, because Airflow takes seconds to start."""
    home = tmp_path_factory.mktemp("airflow")
    make_crm(home / "crm.db")
    stats = StatsServer()
    with SandboxServer() as sandbox:
        place = sandbox.url.split("/")[2]
        sandbox.settings(rate_limit=6, rate_window=1.0)
        sandbox.faults([{"kind": "lost_after", "method": "POST", "skip": 3}])
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROGRAM.with_name("observed_dags")),
            "AIRFLOW__METRICS__STATSD_ON": str(STATSD),
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(stats.port),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(home / "lineage.jsonl"), "append": True}
            ),
            "AIRFLOW__OPENLINEAGE__INCLUDE_FULL_TASK_INFO": "True",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "AIRFLOW_CONN_PAYARC_DEFAULT": sandbox.connection_json(account="main", timeout=1),
            "AIRFLOW_CONN_CRM": json.dumps({"conn_type": "sqlite", "host": str(home / "crm.db")}),
            "OBSERVED_ENVIRONMENT": place,
            "OBSERVED_EVENTS": str(home / "events.json"),
        }
        command = [sys.executable, str(PROGRAM), str(home / "report.json"), *RUNS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    stats.close()
    (home / "said.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return Observed(home, place, json.loads((home / "report.json").read_text()), stats.received)


def test_all_dags_ran(observed):
    assert observed.states == ["success"] * 6 + ["failed"]


VALUES = ("Secret Smith", "Secretparameter", "p1@example.com", "neither.example.com")
UPSTREAM = ("Kofi Park", "kofi@example.com", "Ama Park", "ama@example.com")
"""Values that an upstream task passes through XCom, which Airflow stores, and prints when the task returns them."""


def found(path, values):
    content = path.read_bytes()
    return [value for value in values if value.encode() in content]


def test_no_value_is_in_any_file_even_at_debug(observed):
    files = [path for path in observed.home.rglob("*") if path.is_file() and not path.name.startswith("crm.db")]
    assert {"airflow.db", "said.txt"} <= {path.name for path in files}
    assert "SELECT" in (observed.home / "said.txt").read_text()
    assert {path.name: found(path, VALUES) for path in files if found(path, VALUES)} == {}


def test_no_value_is_in_openlineages_full_task_info(observed):
    (event,) = observed.events("COMPLETE", "from_query")
    assert "options" in event["run"]["facets"]["airflow"]["task"], "the task's attributes are there"
    assert found(observed.home / "lineage.jsonl", VALUES + UPSTREAM) == []


def test_airflow_stores_the_types_of_parameters(observed):
    with sqlite3.connect(observed.home / "airflow.db") as database:
        stored = database.execute(f"SELECT rendered_fields FROM {RENDERED_FIELDS_OF_TASKS} WHERE dag_id = 'from_query'")
        ((fields,),) = stored.fetchall()
    assert str(json.loads(fields)["parameters"]) == "['(str)']"  # Airflow 2 stores it as text


# ---- metrics --------------------------------------------------------------------------------------------------------

needs_statsd = pytest.mark.skipif(not STATSD, reason="the package statsd is not installed")


@needs_statsd
def test_every_count_reaches_statsd_once(observed):
    sums = {name: sum(values) for name, values in observed.stats.items() if observed.kinds[name] == "c"}

    assert sums == {
        "payarc.customers.created": PEOPLE - 1 + 2,
        "payarc.customers.known": PEOPLE - 1 + 1,
        "payarc.customers.rejected": 3,
        "payarc.customers.unknown": 1,
        "payarc.requests": 18,
    }


@needs_statsd
def test_counts_are_sent_during_a_run(observed):
    first_run, rest = observed.stats["payarc.customers.created"][:-2], observed.stats["payarc.customers.created"][-2:]

    assert rest == [1, 1]
    assert len(first_run) > 1


@needs_statsd
def test_times_are_milliseconds(observed):
    waited, took = observed.stats["payarc.rate_limit.wait"], observed.stats["payarc.run.duration"]

    assert observed.kinds["payarc.rate_limit.wait"] == observed.kinds["payarc.run.duration"] == "ms"
    assert len(took) == len(RUNS) - 1
    # Eleven customers at six a second: the run waits for at least one window.
    assert 300 < sum(waited) < sum(took)


# ---- spans ----------------------------------------------------------------------------------------------------------


def test_request_spans_are_within_the_run_and_the_run_within_the_task(observed):
    posts, runs = observed.ours("POST /customers"), observed.ours("payarc.run")
    (task,) = [span for span in observed.spans if span["name"] == "task"]

    assert len(posts) == PEOPLE + 2
    assert {span["parent"] for span in posts} <= {span["id"] for span in runs}
    assert {span["parent"] for span in observed.ours("payarc.batch")} == {span["id"] for span in runs}
    assert {span["parent"] for span in observed.ours("payarc.claim")} <= {span["id"] for span in runs}
    assert {span["parent"] for span in runs} == {task["id"]}
    assert len({span["trace"] for span in posts}) == 1


def test_run_and_batch_spans_have_counts(observed):
    run, batch, claim = (observed.ours(name)[0] for name in ("payarc.run", "payarc.batch", "payarc.claim"))

    assert batch["attributes"] == {"payarc.batch.size": PEOPLE}
    assert claim["attributes"] == {"payarc.claim.size": PEOPLE}
    assert run["attributes"] == {
        "payarc.batch.size": 500,
        "payarc.concurrency": 8,
        "payarc.dry_run": False,
        "payarc.customers.created": PEOPLE - 1,
        "payarc.customers.updated": 0,
        "payarc.customers.known": 0,
        "payarc.customers.adopted": 0,
        "payarc.customers.rejected": 1,
        "payarc.customers.unknown": 1,
        "payarc.requests": PEOPLE + 2,
        "payarc.deferred": False,
    }


def test_request_spans_have_the_status_or_the_error(observed):
    posts = observed.ours("POST /customers")
    codes = [span["attributes"].get("http.response.status_code") for span in posts]
    (rejected,) = [span for span in posts if span["attributes"].get("http.response.status_code") == 422]
    (lost,) = [span for span in posts if "http.response.status_code" not in span["attributes"]]

    assert codes.count(201) == PEOPLE
    assert rejected["attributes"]["error.type"] == "422"
    assert lost["attributes"]["error.type"] == "PayarcUnknownOutcome"
    assert [span["ok"] for span in (rejected, lost)] == [False, False]
    assert {span["attributes"]["payarc.attempt"] for span in posts} == {1}


def test_reports_contain_no_value_and_no_token(observed):
    seen = [path for path in observed.home.iterdir() if path.name in ("report.json", "lineage.jsonl", "events.json")]
    text = "".join(path.read_text() for path in seen) + str(dict(observed.stats))

    assert [secret for secret in ("Secret", "Smith", "@", "example.com", "Bearer", "eyJ") if secret in text] == []
    assert not [span for span in observed.spans or [] if span["scope"] == "payarc_provider" and span["events"]]


# ---- OpenLineage ----------------------------------------------------------------------------------------------------


def named(datasets):
    return sorted((one["namespace"], one["name"]) for one in datasets)


def columns(output):
    fields = output["facets"]["columnLineage"]["fields"]
    return {
        field: [(one["name"], one["field"]) for one in known["inputFields"]] for field, known in sorted(fields.items())
    }


@pytest.mark.parametrize("kind", ["START", "COMPLETE"])
def test_the_table_is_the_input_and_the_customers_are_the_output(observed, kind):
    event = observed.events(kind, "from_table")[0]
    (output,) = event["outputs"]

    assert named(event["inputs"]) == [(f"sqlite://{observed.home}/crm.db", "people")]
    assert named([output]) == [(f"payarc://{observed.place}", "main/customers")]
    assert columns(output) == {"email": [("people", "mail")], "name": [("people", "full_name")]}


def test_the_output_has_the_number_of_new_customers(observed):
    first, second = observed.events("COMPLETE", "from_table")

    rows = [event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] for event in (first, second)]
    assert rows == [PEOPLE - 1, 0]


def test_a_query_has_its_tables_as_inputs_and_column_lineage(observed):
    (event,) = observed.events("COMPLETE", "from_query")

    assert [name for _, name in named(event["inputs"])] == ["contacts", "people"]
    assert columns(event["outputs"][0]) == {"email": [("contacts", "address")], "name": [("people", "full_name")]}


@pytest.mark.skipif(not OPENLINEAGE, reason="apache-airflow-providers-openlineage is not installed")
def test_tables_are_named_with_their_schema_and_placeholders_do_not_matter(crm, connect):
    from payarc_provider.operators.customer import CreateCustomerOperator

    connect("payarc_default", conn_type="payarc", password="token-1", extra={"account": "main"})
    server = crm.engine.dialect.name == "postgresql"
    since = "%(since)s" if server else "?"
    query = f"SELECT p.id, p.full_name AS name FROM people p JOIN crm.orders o ON o.id = p.id WHERE o.at > {since}"
    parameters = {"since": 1} if server else [1]
    lineage = CreateCustomerOperator(
        task_id="create", sql=query, parameters=parameters, sql_conn_id="crm", fields={"name": "name"}
    ).get_openlineage_facets_on_start()

    people = f"{crm.url.database}.public.people" if server else "people"
    assert sorted(one.name for one in lineage.inputs) == [
        f"{crm.url.database}.crm.orders" if server else "crm.orders",
        people,
    ]
    (known,) = lineage.outputs[0].facets["columnLineage"].fields["name"].inputFields
    assert (known.name, known.field) == (people, "full_name")


@pytest.mark.parametrize(("dag", "upstream"), [("from_xcom", "extract"), ("mapped", "extract_many")])
def test_the_input_of_records_from_xcom_is_named_after_the_upstream_task(observed, dag, upstream):
    (event,) = observed.events("COMPLETE", dag)
    name = f"{dag}.{upstream}.return_value"

    assert named(event["inputs"]) == [("xcom://default", name)]
    assert columns(event["outputs"][0]) == {"email": [(name, "mail")], "name": [(name, "full_name")]}


def test_a_failed_task_has_lineage_too(observed):
    (event,) = observed.events("FAIL", "stopped")

    assert [name for _, name in named(event["inputs"] + event["outputs"])] == ["main/customers", "rejected"]


@pytest.mark.skipif(not OPENLINEAGE, reason="no plugin reads hook lineage: OpenLineage's is not installed")
def test_hook_lineage_has_what_was_written(observed):
    assert observed.hook_lineage == {"inputs": [], "outputs": [f"payarc://{observed.place}/main/customers"]}


# ---- assets ---------------------------------------------------------------------------------------------------------


def test_asset_events_have_the_counts(observed):
    events = json.loads((observed.home / "events.json").read_text())
    extra = events.pop(f"payarc://{observed.place}/main/customers")

    assert extra.pop("run_id").startswith("manual__")
    assert extra == {
        "records": PEOPLE,
        "created": PEOPLE - 1,
        "adopted": 0,
        "updated": 0,
        "known": 0,
        "changed": 0,
        "rejected": 1,
        "dag_id": "from_table",
        "dry_run": False,
    }
    assert events == {"x-other://thing": {}}


# ---- the documentation ----------------------------------------------------------------------------------------------

TEXT = (PROGRAM.parents[2] / "docs" / "observability.md").read_text()
DOCUMENTED = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)))


def test_every_metric_is_documented(observed):
    code = "".join(path.read_text() for path in (PROGRAM.parents[2] / "payarc_provider" / "operators").glob("*.py"))
    sent = {
        *reporting.CUSTOMERS.values(),
        *(value for value in vars(reporting).values() if str(value).startswith("payarc.")),
    }

    assert re.findall(r"Stats\.\w+\((?!metric,)", code) == []  # every metric is named by a constant
    assert (sent | observed.stats.keys()) - DOCUMENTED == set()


def test_every_span_and_attribute_is_documented(observed):
    spans = [span for span in observed.spans or [] if span["scope"] == "payarc_provider"]
    names = {span["name"] for span in spans} | {name for span in spans for name in span["attributes"]}

    assert names - DOCUMENTED == set()


def test_every_extra_of_an_asset_is_documented(observed):
    events = json.loads((observed.home / "events.json").read_text())

    assert {name for extra in events.values() for name in extra} - DOCUMENTED == set()
