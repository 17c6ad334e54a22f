"""The DAG in docs/recipes.md that tells somebody about rejected records, with a real notifier and a mail server."""

from __future__ import annotations

import email
import html
import os
import re
import shutil
import socketserver
import threading
from pathlib import Path

import pages
import pytest
from airflow import __version__ as airflow_version
from conftest import Crm, dags_of
from sqlalchemy.engine import make_url

PAGE = "docs/recipes.md"
GOOD = [{"id": str(number), "name": "John Smith"} for number in range(3)]
BAD = [{"id": f"b<{number}>{{{{ 7 * 7 }}}}", "name": "Jo"} for number in range(4)]


class _Session(socketserver.StreamRequestHandler):
    """As much of SMTP as smtplib needs."""

    def handle(self):
        self._say("220 ready")
        for line in self.rfile:
            command = line[:4].upper()
            if command == b"DATA":
                self._say("354 go on")
                self.server.mails.append(self._mail())
            self._say("221 bye" if command == b"QUIT" else "250 ok")
            if command == b"QUIT":
                return

    def _say(self, text):
        self.wfile.write(f"{text}\r\n".encode())

    def _mail(self):
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return email.message_from_bytes(b"".join(lines))


@pytest.fixture
def mails(connect):
    """What the mail server behind ``smtp_default`` has received, as (subject, text)."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Session) as server:
        server.daemon_threads, server.mails = True, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        extra = {"disable_ssl": True, "disable_tls": True}
        connect("smtp_default", conn_type="smtp", host="127.0.0.1", port=server.server_address[1], extra=extra)
        yield lambda: [(mail["Subject"], _text(mail)) for mail in server.mails]
        server.shutdown()


def _text(mail):
    (part,) = [part for part in mail.walk() if part.get_content_type() == "text/html"]
    return html.unescape(re.sub("<[^>]+>", "", part.get_payload(decode=True).decode())).replace("\r\n", "\n").strip()


@pytest.fixture
def dag(airflow):
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    pages.save_files(PAGE, folder)
    yield dags_of(folder / "dags" / "payarc_alerts.py")["payarc_alerts"]
    shutil.rmtree(folder / "dags")


@pytest.fixture
def people(tmp_path, connect):
    """Set the table ``people``."""
    connect("crm", conn_type="sqlite", host=str(tmp_path / "crm.db"))
    crm = Crm(make_url(f"sqlite:///{tmp_path}/crm.db"))
    yield lambda rows: crm.table("people", rows)
    crm.engine.dispose()


def test_nobody_is_told_if_nothing_is_rejected(airflow, dag, people, mails):
    people(GOOD)
    assert airflow.test(dag).state == "success"
    assert mails() == []


def test_somebody_is_told_if_the_task_succeeds_in_spite_of_rejections(airflow, dag, people, mails):
    people([*GOOD, *BAD])
    run = airflow.test(dag)
    assert (run.state, run["tell"].state) == ("success", "success")
    keys = ", ".join(row["id"] for row in BAD)
    assert mails() == [
        ("Some people were rejected", f"4 records: name must have at least 3 characters (keys {keys})"),
    ]


# Airflow's workers give a callback the exception; dag.test() of these versions does not.
needs_exception = pytest.mark.skipif(
    airflow_version.startswith(("3.0.", "3.1.", "3.2.")), reason="dag.test() gives callbacks no exception"
)


@needs_exception
def test_somebody_is_told_once_if_the_task_fails_and_the_dag_run_fails(airflow, dag, people, mails):
    people([*GOOD, *({**row, "id": f"{row['id']}{number}"} for row in BAD for number in range(3))])
    run = airflow.test(dag)
    assert (run.state, run["create"].state, run["tell"].state) == ("failed", "failed", "upstream_failed")
    ((subject, text),) = mails()
    assert subject == "No customers for everybody"
    assert text.startswith("Rejected 12 of 15 records, but max_rejected is 10.")
    assert "12 records: name must have at least 3 characters (keys b<0>{{ 7 * 7 }}0, " in text


@needs_exception
def test_somebody_is_told_why_a_run_was_stopped(airflow, dag, people, mails, sandbox):
    people(GOOD)
    sandbox.faults([{"kind": "unauthorized", "method": "*", "times": None}])
    assert airflow.test(dag).state == "failed"
    ((_, text),) = mails()
    assert text.startswith("Connection payarc_default: PayArc does not accept the access token (401)")
