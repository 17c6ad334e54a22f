"""Runs of every kind at level DEBUG, with tracebacks that show local variables: no value and no token anywhere."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow import __version__ as airflow_version
from airflow_logs import without_internal_messages
from airflow_tables import XCOMS, XCOMS_OF_TASKS

from payarc_provider.api.fields import FIELDS
from payarc_provider.sandbox import SandboxServer

PROGRAM = Path(__file__).with_name("run_marked.py")
MARK = "zqmark"
STATES = {
    "accepted": "success",
    "known": "success",
    "planned": "success",
    "changed": "failed",
    "adopted": "success",
    "guarded": "failed",
    "rejected": "failed",
    "lost": "failed",
    "unauthorized": "failed",
    "undecodable": "failed",
    "misread": "failed",
    "no_column": "failed",
    "no_ledger": "failed",
    "failing_ledger": "failed",
    "from_xcom": "failed",
    "unexpected": "failed",
    "mapped": "failed",
    "careless": "failed",
}
SAID = {
    "changed": "rejected",
    "guarded": "max_new",
    "rejected": "but max_rejected is",
    "lost": "left pending",
    "unauthorized": "does not accept the access token",
    "undecodable": "OperationalError (a text that is not valid in the database's encoding)",
    "misread": "could not be read: OperationalError SQLITE_ERROR",
    "no_column": "no_such_column",
    "no_ledger": "DatabaseError SQLITE_NOTADB",
    "failing_ledger": "OperationalError SQLITE_ERROR",
    "from_xcom": "but max_rejected is",
    "unexpected": "ValueError",
    "mapped": "max_rejected",
}
"""What the output must say all the same, so that people know what to do."""


def person(number, **others):
    """A record with a marker in every field."""
    letter = chr(97 + number % 26)
    values = {
        "name": f"Zqmarkname{letter} Smith",
        "email": f"zqmarkmail{number}@example.com",
        "description": "Zqmarkwords",
        "send_email_address": f"zqmarkinvoice{number}@example.com",
        "cc_email_address": f"zqmarkcopy{number}@example.com",
        "country": "Zqmarkland",
        "address_1": f"{number} Zqmark Street",
        "address_2": f"Zqmark floor {number}",
        "city": f"Zqmarkcity{letter}",
        "state": f"Zqmarkstate{letter}",
        "zip": f"{71830 + number}-{5310 + number}",
        "phone": f"202738{4100 + number}",
    }
    assert values.keys() == FIELDS.keys()
    return {"id": number, **values, **others}


def changed_name(number):
    return f"Zqmarkchanged{chr(97 + number)}"


def rejected_people():
    """Invalid by each of our rules, and rejected by PayArc in each of the ways of `echoes`."""
    rows = [person(number) for number in range(100, 120)]
    rows[0]["phone"] += "5551"
    rows[1]["email"] = "zqmarkmail" + "x" * 40
    rows[2]["zip"] = "Zqmarkzip"
    rows[3]["name"] = "Zqmarkname" * 6
    rows[4]["description"] *= 5
    rows[5]["id"] = None
    rows[6]["email"] = "zqmark mail@example.com"
    rows[7]["name"] = "\x07" + rows[7]["name"]
    rows[8] = {**person(109), "name": "Zqmarkname Other"}  # the next one's key
    return rows


def echoes(number, token):
    """Bodies of a 422 or 409 that quote a record's values, other people's and the token."""
    values = {name: value for name, value in person(number).items() if name != "id"}
    name, email = values["name"], values["email"]
    quoted = [
        *values.values(),
        token,
        name.upper(),
        ", ".join(reversed(name.split())),
        name[:9],
        email.partition("@")[0],
    ]
    quoted += [
        "".join(f"&#{ord(char)};" for char in name),
        base64.b64encode(name.encode()).decode(),
        "\u200d".join(name),
    ]
    envelope = {"status": "error", "message": f"{name} and {token} are not valid", "status_code": 422}
    return [
        {**envelope, "errors": {"name": [f"The value {text} is not valid." for text in quoted[at : at + 5]]}}
        for at in range(0, len(quoted), 5)
    ] + [
        {**envelope, "errors": {text: ["The name format is invalid."] for text in quoted}},
        {**envelope, "errors": {"name": {text: {"deep": quoted} for text in quoted}}},
        {**envelope, "errors": {f"name.{name}": quoted}},
        envelope,
        quoted,
    ]


def faults(token):
    """What goes wrong: with a POST by the record's email, with a PATCH by its new name."""

    def of(number, kind, **more):
        match = {"name": changed_name(number)} if "method" in more else {"email": f"zqmarkmail{number}@example.com"}
        return {"kind": kind, "match": match, **more}

    def refuse(number, body, **more):
        status = 409 if isinstance(body, list) else 422
        return of(number, "status_before", status=status, body=json.dumps(body), **more)

    refused = [refuse(110 + at, body) for at, body in enumerate(echoes(110, token)[:10])]
    changes = [refuse(10 + at, body, method="PATCH") for at, body in enumerate(echoes(10, token)[:3])]
    name = person(1)["name"]
    return [
        *refused,
        *changes,
        of(1, "lost_after"),
        of(2, "garbage_after", body=name),
        of(3, "status_after", body=name),
        of(4, "html_after", body=name, headers={"X-Echo": name}),
        of(13, "lost_after", method="PATCH"),
        of(14, "garbage_after", method="PATCH", body=name),
        *(of(200, "lost_before") for _ in range(9)),
        of(210, "unauthorized", times=None, headers={"X-Echo": name}),
    ]


def make_crm(path):
    """A database with the tables that the DAGs read."""
    changed = [{**person(number), "name": changed_name(number)} for number in range(10, 16)]
    tables = {
        "people": [person(number) for number in range(16)],
        "changed": changed,
        "rejected": rejected_people(),
        "lost": [person(200)],
        "unauthorized": [person(210)],
        "undecodable": [person(220)],
    }
    crm = sqlite3.connect(path)
    with crm:
        for table, rows in tables.items():
            crm.execute(f"CREATE TABLE {table} (id INTEGER, {', '.join(FIELDS)})")
            crm.executemany(f"INSERT INTO {table} VALUES (:id, {', '.join(f':{name}' for name in FIELDS)})", rows)
        crm.execute("UPDATE undecodable SET name = CAST(CAST(name AS BLOB) || x'ff' AS TEXT)")
    crm.close()


@dataclass
class Marked:
    """What the runs have left behind."""

    home: Path
    token: str
    states: dict[str, str]
    said: dict[str, str]

    def found(self, text: str) -> list[str]:
        """The markers in a text, with what stands around them."""
        pattern = rf"{MARK}|202738\d|71(?:8|9)\d\d-5[34]|{re.escape(self.token[20:40])}|{re.escape(self.token[-20:])}"
        text += re.sub(r"\x1b\[[\d;]*m|[│\s]", "", text)  # in a traceback, lines are wrapped and coloured
        return [text[max(0, hit.start() - 200) : hit.end() + 40] for hit in re.finditer(pattern, text, re.IGNORECASE)]


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Run all DAGs in one process, because Airflow takes seconds to start."""
    home = tmp_path_factory.mktemp("marked")
    private = tmp_path_factory.mktemp("private")
    make_crm(private / "crm.db")
    (private / "records.json").write_text(json.dumps([person(300), {**person(301), "zip": "Zqmarkzip"}]))
    (home / "garbage.db").write_text("this is no database, but it is long enough to be taken for one" * 100)
    with SandboxServer() as sandbox:
        sandbox.faults(faults(sandbox.token))
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROGRAM.with_name("marked_dags")),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "DEV": "1",  # tracebacks with local variables, which Airflow 3.0 shows in any case
            "COLUMNS": "500",  # their width
            "AIRFLOW_CONN_PAYARC_DEFAULT": sandbox.connection_json(account="main", timeout=1),
            "AIRFLOW_CONN_CRM": json.dumps({"conn_type": "sqlite", "host": str(private / "crm.db")}),
            **{
                f"AIRFLOW_CONN_{name.upper()}": json.dumps({"conn_type": "sqlite", "host": str(home / f"{name}.db")})
                for name in ("ledger", "failing", "garbage")
            },
            "MARKED_LEDGER": str(home / "failing.db"),
            "MARKED_RECORDS": str(private / "records.json"),
            "MARKED_VALUE": "Zqmarkname Smith",
        }
        command = [sys.executable, str(PROGRAM), str(home / "states.json"), *STATES]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    (private / "said.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:]
    parts = re.split(r"^=== (\w+)$", without_internal_messages(done.stdout), flags=re.MULTILINE)
    said = {"before": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}
    return Marked(home, sandbox.token, json.loads((home / "states.json").read_text()), said)


def test_the_dags_ended_as_they_should(marked):
    assert marked.states == STATES


@pytest.mark.parametrize("dag_id", SAID)
def test_failures_are_explained_without_values(marked, dag_id):
    assert SAID[dag_id] in " ".join(marked.said[dag_id].split())


@pytest.mark.skipif(airflow_version.startswith("2."), reason="Airflow 2 shows no local variables")
def test_local_variables_are_shown_in_tracebacks(marked):
    assert marked.found(marked.said["careless"]), "otherwise these tests show nothing"


@pytest.mark.parametrize("dag_id", ["before", *STATES])
def test_no_marker_is_printed_or_logged(marked, dag_id):
    if dag_id == "careless":
        pytest.skip("prints a marker, to show that it would be found")
    assert marked.found(marked.said[dag_id]) == []


def test_no_marker_is_in_any_file_or_database(marked):
    files = [path for path in marked.home.rglob("*") if path.is_file() and "careless" not in str(path)]
    files = [path for path in files if path.name not in ("airflow.db-shm", "airflow.db-wal")]  # read with airflow.db
    assert {"airflow.db", "ledger.db", "failing.db"} <= {path.name for path in files}
    for path in files:
        if path.name == "airflow.db":
            with contextlib.closing(sqlite3.connect(path)) as metadata:
                rows = [row for row in metadata.iterdump() if not row.startswith(f'INSERT INTO "{XCOMS}"')]
            text = "\n".join(rows)
        else:
            text = path.read_bytes().decode("utf-8", "replace")
        if path.name == "failing.db":
            text = text.replace("json_extract('{}', 'no such Zqmarkname Smith')", "")  # the trigger itself
        assert marked.found(text) == [], path


def test_only_what_an_upstream_task_pushed_is_in_xcom(marked):
    with sqlite3.connect(marked.home / "airflow.db") as metadata:
        rows = metadata.execute(
            f"SELECT task_id, key, value FROM {XCOMS_OF_TASKS} WHERE task_id != 'extract'"
        ).fetchall()
    assert {key for _, key, _ in rows} >= {"summary", "customers", "rejected"}
    assert marked.found(str(rows)) == []
