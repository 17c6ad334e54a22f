"""The recipes do what they say. test_alerts.py runs the one about rejected records."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from test_from_table import people

from payarc_provider.sandbox import make_token

PAGE = "docs/recipes.md"
DAGS = {block.file: block.text for block in pages.to_run(PAGE, "python")}
ON_SQLITE = pytest.mark.parametrize("crm", ["sqlite"], indirect=True)


def dag(airflow, name, change=lambda code: code):
    """The DAG of the page with this name."""
    return airflow.save(f"{name}.py", change(DAGS[f"dags/{name}.py"]))[name]


def shell(text, folder):
    """Run commands, which must succeed, in a folder."""
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = ["bash", "-ec", text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def block(language, content):
    """The block in this language that has this in it."""
    [found] = [one.text for one in pages.to_run(PAGE, language) if content in one.text]
    return found


@ON_SQLITE
def test_a_backfill_gives_its_slot_back_and_is_completed(airflow, sandbox, crm):
    sandbox.settings(rate_limit=15, rate_window=10.0)
    crm.table("people", people(20))
    run = airflow.test(
        dag(airflow, "payarc_backfill", lambda code: code.replace("push_ids", "defer_after=0.5, push_ids"))
    )

    assert run.state == "success"
    assert run["create"].summary["created"] == len(sandbox.customers()) == 20
    assert run["create"].summary["deferrals"] >= 1
    assert run["create"].xcom() is None


def test_the_times_of_a_backfill_follow_from_the_rate_limit():
    text = pages.text(PAGE)
    use = re.search(r"\| one worker, 600 customers \| ([\d.]+)", pages.text("docs/rate_limit.md"))[1]
    rows = re.findall(r"^\| (\d+), .+? \| (.+) \|$", text, re.MULTILINE)

    assert f"÷ requests a minute ÷ {use}*" in text
    assert [int(limit) for limit, _ in rows] == [30, 90]
    for limit, times in rows:
        hours = [count / int(limit) / float(use) / 60 for count in (10_000, 100_000, 1_000_000)]
        expected = [f"{hours[0]:.1f} hours", f"{hours[1]:.1f} hours", f"{hours[2] / 24:.1f} days"]
        assert times.split(" | ") == expected


def test_full_names_are_the_same_from_a_query_and_from_a_task(airflow, sandbox, any_crm):
    rows = [("Zoë", "O'Brien"), (None, "Park"), ("Ana", None)]
    any_crm.table(
        "people",
        [
            {"id": number, "first_name": first, "last_name": last, "email": f"j{number}@example.com"}
            for number, (first, last) in enumerate(rows)
        ],
    )
    joined = re.search(r"TRIM\(.+(?= AS name)", DAGS["dags/payarc_full_names.py"])[0]
    in_mysql = re.search(r"`(CONCAT_WS\(.+?)`", pages.text(PAGE))[1]
    is_mysql = any_crm.url.get_backend_name() == "mysql"
    uses = in_mysql if is_mysql else joined
    run = airflow.test(dag(airflow, "payarc_full_names", lambda code: code.replace(joined, uses)))
    assert run.state == "success"
    assert sorted(customer["name"] for customer in sandbox.customers()) == ["Ana", "Park", "Zoë O'Brien"]

    if not is_mysql:  # there, Airflow's get_records() needs a driver that has to be compiled
        again = airflow.test(dag(airflow, "payarc_full_names_in_task"))["create"]
        assert [again.summary[name] for name in ("known", "changed", "posts")] == [3, 0, 0]
        assert again.ids == run["create"].ids


def test_two_merchants_share_a_ledger(airflow, sandbox, monkeypatch):
    connections = re.findall(r"export (\w+)='(.+)'\n", block("bash", "PAYARC_ACME"))
    airflow.records(people(1))

    assert len(connections) == 2
    for name, connection in connections:
        host = f'"host": "{sandbox.url}", '
        merchant = name.removeprefix("AIRFLOW_CONN_").lower()
        monkeypatch.setenv(
            name, connection.replace("not-a-real-token", make_token(merchant)).replace("{", "{" + host, 1)
        )
        created = airflow.create(f"records=extract(), ledger_conn_id='ledger', payarc_conn_id='{merchant}'")
        assert created.summary["created"] == len(sandbox.customers(merchant)) == 1


REPLACE = """
from pathlib import Path

import pytest
import requests

from payarc_provider.exceptions import PayarcAuthError
from payarc_provider.hooks.payarc import PayarcHook

hook = PayarcHook()
assert list(hook.list_customers()) == []
requests.post("{control}/revoke", json={{"token": "{old}"}}).raise_for_status()
with pytest.raises(PayarcAuthError):
    list(hook.list_customers())
file = Path("connections.json")
file.write_text(file.read_text().replace("{old}", "{new}"))
assert list(hook.list_customers()) == []
"""


def test_a_token_that_is_replaced_in_a_secrets_backend_is_picked_up(sandbox, monkeypatch, tmp_path):
    monkeypatch.delenv("AIRFLOW_CONN_PAYARC_DEFAULT")
    old, new = make_token(), make_token()
    commands = block("bash", "SECRETS__BACKEND").replace("not-a-real-token", old)
    commands = commands.replace('"password"', f'"host": "{sandbox.url}", "password"')
    control = sandbox.url.removesuffix("/v1") + "/_sandbox"
    (tmp_path / "replace.py").write_text(REPLACE.format(control=control, old=old, new=new))

    shell(f"{commands}python replace.py\n", tmp_path)


@ON_SQLITE
def test_after_uninstalling_people_without_an_email_address_are_new(airflow, sandbox, crm, tmp_path):
    crm.table("people", [*people(3), {"id": 3, "name": "Ana Park", "email": None}])
    body = "CreateCustomerOperator(task_id='create', table='people', sql_conn_id='crm', match_existing={!r})"
    customer_id = airflow.test(airflow.dag(body.format(None), dag_id="new_customers"))["create"].ids[0]
    assert customer_id in airflow.metadata("xcom")
    added = "airflow connections add payarc_default --conn-type payarc\n"
    shell(added + block("bash", "dags delete"), tmp_path)
    assert customer_id not in airflow.metadata("xcom")
    assert "payarc_default" not in airflow.metadata("connection")

    with crm.engine.begin() as connection:
        for statement in block("sql", "DROP TABLE").split(";\n")[:-1]:
            connection.exec_driver_sql(statement)
    later = airflow.test(airflow.dag(body.format("email")))["create"]
    assert (later.summary["adopted"], later.summary["created"]) == (3, 1)
    assert len(sandbox.customers()) == 5
