"""A DAG whose task can be killed at a checkpoint. The attempt's spec comes from an environment variable."""

import json
import os
from datetime import datetime

from airflow.sdk import dag, task
from crash.forking import Spec
from crash.worker import Listener

from payarc_provider.operators.customer import CreateCustomerOperator
from payarc_provider.sync import checkpoints

spec = Spec(**json.loads(os.environ["PAYARC_CRASH_SPEC"]))
checkpoints.listener = Listener(spec)


@dag(dag_id="killed", schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def killed() -> None:
    """Create customers from a table, and count the ids downstream."""
    create = CreateCustomerOperator(
        task_id="create",
        table=spec.source_table,
        sql_conn_id="crm",
        ledger_table=spec.table,
        settle=spec.settings["settle"],
        lease=spec.settings["lease"],
        concurrency=spec.settings["concurrency"],
        batch_size=spec.settings["batch_size"],
    )

    @task
    def count(customer_ids: list[str]) -> int:
        return len(customer_ids)

    count(create.output)


killed()
