"""The tasks that the documentation shows without a DAG around them, in a real Airflow."""

from __future__ import annotations

import json

import pages
import pytest

PEOPLE = [
    (1, "Zoë O'Brien", "zoe@example.com", "(202) 555-0101"),
    (2, "Kofi Park", "kofi@example.com", "202-555-0102"),
    (3, "Ana Park", "ana@example.com", "0044 20 7946 0000"),
]


def first(page: str, language: str) -> str:
    """The first block of a page in this language."""
    return pages.to_run(page, language)[0].text


def rows(people):
    return [dict(zip(("id", "full_name", "email", "phone"), person, strict=True)) for person in people]


def test_the_operators_example_pushes_what_the_page_shows(airflow, crm):
    crm.table("people", rows(PEOPLE[:1]))
    dag = airflow.dag(first("docs/operator.md", "python"), dag_id="new_customers")
    assert airflow.test(dag).state == "success"
    crm.table("people", rows(PEOPLE))

    create = airflow.test(dag)["create"]
    shown = json.loads(first("docs/operator.md", "json"))
    pushed = {name: create.xcom(name) for name in shown}

    assert create.summary["posts"] == 1
    text = json.dumps(pushed)
    for here, there in zip(create.ids, shown["return_value"], strict=True):
        text = text.replace(here, there)
    assert json.loads(text) == shown


def test_a_guard_stops_the_run_with_the_text_on_the_page(airflow, crm, sandbox, said):
    crm.table("people", rows((number, "John Smith", f"j{number}@example.com", "202") for number in range(120)))

    run = airflow.run(first("docs/plans.md", "python"))

    assert (run["create"].state, sandbox.stats()["requests"]) == ("failed", {})
    assert first("docs/plans.md", "text").strip() in said()


@pytest.mark.parametrize("page", ["docs/fields.md", "docs/operating.md"])
def test_the_first_task_of_the_page_is_accepted(airflow, page):
    [task] = airflow.dag(first(page, "python")).tasks

    assert task.table == "people"
