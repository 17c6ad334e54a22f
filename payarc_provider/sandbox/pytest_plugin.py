"""The pytest fixture ``payarc_sandbox``, for tests of DAGs.

In ``conftest.py``::

    pytest_plugins = ["payarc_provider.sandbox.pytest_plugin"]

A test that uses ``payarc_sandbox`` gets an empty sandbox, and the Airflow connection ``payarc_default`` points to it.
"""

from __future__ import annotations

import atexit
from functools import cache

import pytest

from payarc_provider.sandbox.server import SandboxServer


@cache
def _shared_server() -> SandboxServer:
    # One server for all tests, started by the first test that uses it. A session fixture would have to be imported too.
    server = SandboxServer()
    server.start()
    atexit.register(server.stop)
    return server


@pytest.fixture
def payarc_sandbox(monkeypatch: pytest.MonkeyPatch) -> SandboxServer:
    """An empty :class:`SandboxServer` with default settings, and an Airflow connection ``payarc_default`` to it."""
    server = _shared_server()
    server.reset()
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", server.connection_json())
    return server
