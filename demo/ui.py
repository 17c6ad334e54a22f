"""Airflow and the sandbox, with the data of ``make demo``. ``.demo/ui.sh`` starts it, Ctrl-C stops it."""

from __future__ import annotations

import contextlib
import time

import services
from airflow_api import AirflowApi
from run import DAG, wait_for_airflow


def main() -> None:
    """Run both until one of them ends, or until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), services.home(empty=False):
        ports = services.ports()
        settings = services.settings(ports)
        services.write_scripts(settings)
        with services.services(ports, settings) as processes:
            print("Starting Airflow ...", flush=True)
            wait_for_airflow(AirflowApi(ports["airflow"]), processes)
            address = settings["AIRFLOW__API__BASE_URL"]
            print(f"The DAG               {address}/dags/{DAG}")
            print(f"The customers' page   {address}/plugin/payarc-customers")
            print("Stop Airflow and the sandbox with Ctrl-C.", flush=True)
            while processes.alive():
                time.sleep(1)


if __name__ == "__main__":
    main()
