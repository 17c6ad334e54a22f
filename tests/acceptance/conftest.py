"""A real Airflow for the test session: DAG files, ``dag.test()`` and the metadata database."""

from __future__ import annotations

import contextlib
import datetime
import functools
import inspect
import itertools
import json
import os
import sqlite3
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

_numbers = itertools.count(1)

PRELUDE = """
import json, os
from datetime import datetime, timedelta, timezone
from airflow.providers.common.compat.sdk import DAG, task
from payarc_provider.operators.customer import CreateCustomerOperator

began = datetime(2026, 1, 1, tzinfo=timezone.utc)
with DAG({dag_id!r}, schedule=None, start_date=began, catchup=False{options}) as dag:
    @task(show_return_value_in_logs=False)
    def extract(name="records"):
        with open(os.environ["TEST_DATA"] + "/" + name + ".json") as file:
            return json.load(file)

"""


def dag_bag(path: str | Path) -> Any:
    """The DAGs of a file or a folder."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag
    return DagBag(str(path))


def dags_of(path: str | Path) -> dict[str, Any]:
    """The DAGs of an importable file, by id."""
    bag = dag_bag(path)
    assert bag.import_errors == {}
    dags: dict[str, Any] = bag.dags
    return dags


@functools.cache
def _keep_api_server() -> None:
    """Before 3.3, Airflow 3 creates a new API server for each tested task, which takes seconds."""
    with contextlib.suppress(ImportError):  # Airflow 2 has none
        from airflow.sdk.execution_time import supervisor

        if not hasattr(supervisor.in_process_api_server, "cache_info"):
            supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)


def run_dag(dag: Any, when: datetime.datetime | None = None, **arguments: Any) -> Any:
    """``dag.test()`` in any version.

    :param when: the logical date
    """
    _keep_api_server()
    if when is not None:
        name = "logical_date" if "logical_date" in inspect.signature(dag.test).parameters else "execution_date"
        arguments[name] = when
    return dag.test(**arguments)


@dataclass
class TaskRun:
    """One task instance after its DAG run."""

    state: str | None
    try_number: int
    _instance: Any

    def xcom(self, key: str = "return_value") -> Any:
        """The XCom under this key; None if there is none."""
        found = self._instance
        return found.xcom_pull(task_ids=found.task_id, key=key, map_indexes=found.map_index)

    @property
    def ids(self) -> list[str]:
        """The customer ids."""
        return self.xcom()

    @property
    def summary(self) -> dict[str, Any]:
        """The summary."""
        return self.xcom("summary")

    @property
    def customers(self) -> list[dict[str, Any]]:
        """The XCom ``customers``."""
        return self.xcom("customers")

    @property
    def rejected(self) -> list[dict[str, Any]]:
        """The XCom ``rejected``."""
        return self.xcom("rejected")


@dataclass
class DagRun:
    """One run of a DAG."""

    state: str
    tasks: dict[tuple[str, int], TaskRun]

    def __getitem__(self, task: str | tuple[str, int]) -> TaskRun:
        return self.tasks[task if isinstance(task, tuple) else (task, -1)]


class Airflow:
    """Runs DAGs in this process.

    :param home: of Airflow, with the metadata database
    :param data: where the task ``extract`` finds what it returns
    """

    def __init__(self, home: Path, data: Path) -> None:
        self.home = home
        self.data = data
        self._files: list[Path] = []

    def records(self, records: Any, name: str = "records") -> None:
        """Set what ``extract()`` returns, outside the DAG file, which is stored in the metadata database."""
        (self.data / f"{name}.json").write_text(json.dumps(records))

    def dag(self, body: str, *, dag_id: str | None = None, **options: Any) -> Any:
        """Create a DAG in a new file; the body may use ``extract``, ``task`` and ``CreateCustomerOperator``.

        :param dag_id: None for a new one; the same as before changes the DAG
        """
        dag_id = dag_id or f"test_{next(_numbers)}"
        given = "".join(f", {name}={value!r}" for name, value in options.items())
        code = PRELUDE.format(dag_id=dag_id, options=given) + textwrap.indent(textwrap.dedent(body), "    ")
        return self.save(f"{dag_id}.py", code)[dag_id]

    def save(self, name: str, code: str) -> dict[str, Any]:
        """Save a file in the DAGs folder and return its DAGs."""
        path = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / name
        self._files.append(path)
        path.write_text(code)
        return dags_of(path)

    def test(self, dag: Any, when: datetime.datetime | None = None) -> DagRun:
        """Run a DAG once; a second call with the same logical date repeats the DAG run."""
        run = run_dag(dag, when)
        tasks = {
            (one.task_id, one.map_index): TaskRun(str(one.state) if one.state else None, one.try_number, one)
            for one in run.get_task_instances()
        }
        return DagRun(str(run.state), tasks)

    def run(self, body: str, **options: Any) -> DagRun:
        """Run a new DAG once."""
        return self.test(self.dag(body, **options))

    def create(self, arguments: str, **options: Any) -> TaskRun:
        """Run a DAG with one task ``create`` of the operator, which must succeed."""
        run = self.run(f"CreateCustomerOperator(task_id='create', {arguments})", **options)
        assert (run.state, run["create"].state) == ("success", "success")
        return run["create"]

    def metadata(self, *tables: str, without: tuple[str, ...] = ()) -> str:
        """The contents of these tables of the metadata database, or of all, as one string."""
        return self.dump(self.home / "airflow.db", *tables, without=without)

    def close(self) -> None:
        """Remove the DAG files, because each ``dag.test()`` parses the whole folder."""
        for path in self._files:
            path.unlink(missing_ok=True)

    @staticmethod
    def dump(path: str | os.PathLike[str], *tables: str, without: tuple[str, ...] = ()) -> str:
        """The contents of these tables of a SQLite file, or of all, as one string."""
        with contextlib.closing(sqlite3.connect(path)) as connection:
            every = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            chosen = [name for name in (tables or every) if name not in without]
            rows = [row for name in chosen for row in connection.execute(f'SELECT * FROM "{name}"')]
        return "\n".join(str(value) for row in rows for value in row)


@pytest.fixture(scope="session")
def _migrated() -> Path:
    from airflow.utils.db import initdb

    initdb()
    return Path(os.environ["AIRFLOW_HOME"])


@pytest.fixture
def airflow(
    _migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., None], payarc_sandbox: Any
) -> Iterator[Airflow]:
    """A real Airflow. ``payarc_default`` connects to an empty sandbox, ``ledger`` to an empty SQLite file."""
    monkeypatch.setenv("TEST_DATA", str(tmp_path))
    connect("ledger", conn_type="sqlite", host=str(tmp_path / "ledger.db"))
    real = Airflow(_migrated, tmp_path)
    yield real
    real.close()


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    """The SQLite file behind the connection ``ledger``."""
    return tmp_path / "ledger.db"


@pytest.fixture
def sandbox(payarc_sandbox: Any) -> Any:
    """The sandbox behind ``payarc_default``."""
    return payarc_sandbox


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets an Airflow connection; ``connect("crm", conn_type=…, …)``, or a whole one as JSON."""

    def set_up(conn_id: str, whole: str | None = None, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", whole or json.dumps(fields))

    return set_up


class Crm:
    """The user's database, connection ``crm``."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.engine = sa.create_engine(url)

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Create a table with these rows; columns have the types of their values."""
        kinds = {int: sa.Integer, float: sa.Float, str: sa.String(200)}
        columns = {column: value for row in rows for column, value in row.items() if value is not None}
        made = sa.Table(
            name, sa.MetaData(), *(sa.Column(column, kinds[type(value)]) for column, value in columns.items())
        )
        with self.engine.begin() as connection:
            made.drop(connection, checkfirst=True)
            made.create(connection)
            connection.execute(made.insert(), [{column: row.get(column) for column in columns} for row in rows])


@pytest.fixture(params=["sqlite", "postgresql"])
def crm(request: pytest.FixtureRequest, tmp_path: Path, connect: Callable[..., None]) -> Iterator[Crm]:
    """The connection ``crm``: to SQLite and to PostgreSQL, with Airflow's own hooks."""
    with _crm(request, tmp_path, connect) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def any_crm(request: pytest.FixtureRequest, tmp_path: Path, connect: Callable[..., None]) -> Iterator[Crm]:
    """Like ``crm``, and to MariaDB as well."""
    with _crm(request, tmp_path, connect) as found:
        yield found


@contextlib.contextmanager
def _crm(request: pytest.FixtureRequest, tmp_path: Path, connect: Callable[..., None]) -> Iterator[Crm]:
    if request.param == "sqlite":
        connect("crm", conn_type="sqlite", host=str(tmp_path / "crm.db"))
        found = Crm(make_url(f"sqlite:///{tmp_path}/crm.db"))
        yield found
        found.engine.dispose()
        return
    url: URL = request.getfixturevalue(f"{request.param}_url")
    connect("crm", **_as_connection(url))
    found = Crm(url)
    yield found
    with found.engine.begin() as connection:
        quote = connection.dialect.identifier_preparer.quote
        for name in sa.inspect(connection).get_table_names():
            connection.exec_driver_sql(f"DROP TABLE {quote(name)} CASCADE")
    found.engine.dispose()


def _as_connection(url: URL) -> dict[str, Any]:
    """The fields of an Airflow connection to this database."""
    host = url.host or url.query.get("host")
    fields = {"login": url.username, "password": url.password, "host": host, "port": url.port, "schema": url.database}
    if url.get_backend_name() == "postgresql":
        fields["conn_type"] = "postgres"
    else:
        pytest.importorskip("airflow.providers.mysql", reason="apache-airflow-providers-mysql is not installed")
        fields |= {"conn_type": "mysql", "extra": {"client": "pymysql", "charset": "utf8mb4"}}
    return {name: value for name, value in fields.items() if value}
