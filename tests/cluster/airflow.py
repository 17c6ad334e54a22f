"""A real Airflow of several processes, and its public API."""

from __future__ import annotations

import base64
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import requests

from .processes import PATIENCE, ClusterError, Processes, program, wait_until
from .servers import PostgreSQL, free_port

Executor = Literal["CeleryExecutor", "LocalExecutor"]
CHECKOUT = Path(__file__).resolve().parents[2]


class Airflow:
    """api-server, scheduler, dag-processor and triggerer, and the Celery workers that are started.

    :param home: an empty folder
    :param connections: connection id → its JSON
    """

    def __init__(self, home: Path, database: PostgreSQL, connections: dict[str, str]) -> None:
        self.home = home
        dags = home / "dags"
        shutil.copytree(Path(__file__).with_name("dags"), dags, ignore=shutil.ignore_patterns("__pycache__"))
        for example in (CHECKOUT / "airflow_provider_payarc" / "example_dags").glob("payarc_*.py"):
            shutil.copy(example, dags)
        (home / "log").mkdir()
        self.port = free_port()
        self.processes = Processes(home / "log", {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(home)})
        self.processes.environment |= self._environment(database) | {
            f"AIRFLOW_CONN_{name.upper()}": connection for name, connection in connections.items()
        }
        self._session = requests.Session()
        self._session.trust_env = False

    def _environment(self, database: PostgreSQL) -> dict[str, str]:
        metadata = database.url("airflow")
        simple = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        settings = {
            "CORE__AUTH_MANAGER": simple,
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "CORE__DAGS_FOLDER": str(self.home / "dags"),
            "CORE__PLUGINS_FOLDER": str(self.home / "plugins"),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__PARALLELISM": "8",
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.port}/execution/",
            "DATABASE__SQL_ALCHEMY_CONN": metadata,
            "DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.port),
            "API__BASE_URL": f"http://127.0.0.1:{self.port}",
            "API__SECRET_KEY": secrets.token_hex(16),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            # Notice a dead worker's task within half a minute instead of five.
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "5",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
            "CELERY__RESULT_BACKEND": f"db+{metadata}",
            "CELERY__WORKER_CONCURRENCY": "2",
            "CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
            "CELERY__WORKER_ENABLE_REMOTE_CONTROL": "True",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        return {"AIRFLOW_HOME": str(self.home)} | {f"AIRFLOW__{name}": value for name, value in settings.items()}

    def command(self, *arguments: str) -> None:
        """Run an ``airflow`` command until it ends."""
        done = subprocess.run(
            [program("airflow"), *arguments],
            env=self.processes.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ClusterError(f"airflow {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def start(self, executor: Executor, *, broker: int | None = None) -> None:
        """Start everything but the workers."""
        self.processes.environment |= {"AIRFLOW__CORE__EXECUTOR": executor}
        if broker is not None:
            self.processes.environment |= {"AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{broker}/0"}
        for component in ("api-server", "scheduler", "dag-processor", "triggerer"):
            self.component(component)

    def component(self, name: str) -> None:
        """Start one component."""
        self.processes.start(name, program("airflow"), name)

    def worker(self, name: str) -> None:
        """Start a Celery worker."""
        port = str(free_port())
        command = (program("airflow"), "celery", "worker", "--celery-hostname", name)
        self.processes.start(name, *command, AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=port)

    def wait_until_healthy(self, dags: set[str]) -> float:
        """Wait until all components are healthy and the DAGs are known; return the seconds it took."""

        def healthy() -> bool:
            self.processes.check()
            try:
                health = self._session.get(f"http://127.0.0.1:{self.port}/api/v2/monitor/health", timeout=10).json()
                parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
                known = {dag["dag_id"] for dag in self.get("dags?limit=100")["dags"]}
            except (requests.RequestException, KeyError, ValueError):
                return False
            return all(health[part]["status"] == "healthy" for part in parts) and dags <= known

        return wait_until("Airflow is healthy", healthy)

    def get(self, path: str) -> Any:
        """Read a path of the API."""
        return self._call("GET", path)

    def trigger(self, dag_id: str) -> str:
        """Start a DAG run and return its id."""
        run = self._call("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None})
        return str(run["dag_run_id"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a DAG run."""
        found: list[dict[str, Any]] = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return found

    def wait_for(self, dag_id: str, run_id: str, patience: float = PATIENCE) -> None:
        """Wait until a DAG run has succeeded."""

        def ended() -> bool:
            state = self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"]
            if state == "failed":
                tasks = [(task["task_id"], task["map_index"], task["state"]) for task in self.tasks(dag_id, run_id)]
                raise ClusterError(f"{dag_id} failed: {tasks}; see {self.home}/logs")
            return bool(state == "success")

        wait_until(f"{dag_id} ends", ended, patience)

    def backfilled(self, dag_id: str) -> bool:
        """Whether all its backfills have ended."""
        return all(one["completed_at"] for one in self.get(f"backfills?dag_id={dag_id}")["backfills"])

    def succeeded(self, dag_id: str, run_type: str) -> int:
        """Number of its successful runs of this type."""
        runs = self.get(f"dags/{dag_id}/dagRuns?run_type={run_type}&state=success")
        return int(runs["total_entries"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, key: str = "return_value") -> Any:
        """A value that a task pushed."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(f"{path}?map_index={map_index}&deserialize=false")["value"]

    def _call(self, method: str, path: str, **body: Any) -> Any:
        origin = f"http://127.0.0.1:{self.port}"
        if "Authorization" not in self._session.headers:
            token = self._session.get(f"{origin}/auth/token", timeout=30)
            token.raise_for_status()
            self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
        answer = self._session.request(method, f"{origin}/api/v2/{path}", timeout=60, **body)
        answer.raise_for_status()
        return answer.json()
