"""What the demo asks of Airflow, through its public API."""

from __future__ import annotations

from typing import Any

import requests

TASK = "create_customers"


class AirflowApi:
    """The API of an Airflow on this machine that needs no login.

    :param port: of its API server
    """

    def __init__(self, port: int) -> None:
        self._origin = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        self._session.trust_env = False

    def is_ready(self, dag_id: str) -> bool:
        """Whether all components are healthy and the DAG is known."""
        try:
            health = self._session.get(f"{self._origin}/api/v2/monitor/health", timeout=60).json()
            healthy = all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor"))
            return healthy and dag_id in {dag["dag_id"] for dag in self._call("GET", "dags")["dags"]}
        except (requests.RequestException, KeyError, ValueError):
            return False

    def trigger(self, dag_id: str) -> str:
        """Start a DAG run and return its path in the API."""
        run = self._call("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None})
        return f"dags/{dag_id}/dagRuns/{run['dag_run_id']}"

    def state(self, run: str) -> str:
        """The state of a DAG run."""
        return str(self._call("GET", run)["state"])

    def task(self, run: str) -> dict[str, Any]:
        """The task that creates the customers."""
        found: dict[str, Any] = self._call("GET", f"{run}/taskInstances/{TASK}")
        return found

    def log(self, run: str, tries: int) -> list[str]:
        """What the provider has logged in this try of the task."""
        lines = self._call("GET", f"{run}/taskInstances/{TASK}/logs/{tries}")["content"]
        return [line["event"] for line in lines if "payarc_provider" in line.get("logger", "")]

    def _call(self, method: str, path: str, **body: Any) -> Any:
        if "Authorization" not in self._session.headers:
            token = self._session.get(f"{self._origin}/auth/token", timeout=60)
            token.raise_for_status()
            self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
        answer = self._session.request(method, f"{self._origin}/api/v2/{path}", timeout=60, **body)
        answer.raise_for_status()
        return answer.json()
