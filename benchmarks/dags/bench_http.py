"""A mapped HttpOperator, one task instance per record."""

import datetime
import json
import os

from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.http.operators.http import HttpOperator

with DAG("bench_http", schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False):

    @task(show_return_value_in_logs=False)
    def bodies() -> list[str]:
        with open(os.environ["BENCH_BODIES"]) as file:
            return json.load(file)

    HttpOperator.partial(
        task_id="post",
        http_conn_id="payarc_http",
        endpoint="v1/customers",
        headers={"Content-Type": "application/json"},
    ).expand(data=bodies())
