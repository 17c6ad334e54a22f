"""The DAG on the home page has the results that the page shows."""

from __future__ import annotations

import json
import re

import pages
import pytest
from test_from_table import people

PAGE = "docs/index.md"
LOGS = [block.text.strip() for block in pages.to_run(PAGE, "text")]
[CUSTOMERS] = [json.loads(block.text) for block in pages.to_run(PAGE, "json")]


@pytest.mark.parametrize("crm", ["sqlite"], indirect=True)
def test_its_dag_has_the_results_that_it_shows(airflow, sandbox, crm, said):
    [code] = [block.text for block in pages.to_run(PAGE, "python")]
    dag = airflow.save("home_page.py", code)["new_customers"]
    runs = []
    for count in (2, 3):
        crm.table("people", people(count, first=1))
        runs.append(airflow.test(dag)["create"])

    ends = re.findall(r"\d+ records? in [\d.]+ s: .+? POSTs?", said())
    assert [_without_time(end) for end in ends] == [_without_time(log) for log in LOGS]
    shown = [{**one, "customer_id": id_} for one, id_ in zip(CUSTOMERS, runs[0].ids, strict=True)]
    assert runs[0].customers == shown
    assert {len(one["customer_id"]) for one in CUSTOMERS} == {len(id_) for id_ in runs[0].ids}
    assert len(sandbox.customers()) == 3


def _without_time(log):
    return re.sub(r" in [\d.]+ s", "", log)
