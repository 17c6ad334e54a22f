"""The pytest fixture ``payarc_sandbox``, for tests of DAGs.

In ``conftest.py``::

    pytest_plugins = ["payarc_provider.sandbox.pytest_plugin"]

A test that uses ``payarc_sandbox`` gets an empty sandbox, and the Airflow connection ``payarc_default`` points to it.
``pytest --payarc-profile NAME`` lets the sandbox be another possible PayArc in all tests, and
``@pytest.mark.parametrize("payarc_sandbox", ["strict", "guide"], indirect=True)`` in one.
"""

from __future__ import annotations

import atexit
from functools import cache

import pytest

from payarc_provider.sandbox.profiles import read_profile
from payarc_provider.sandbox.server import SandboxServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--payarc-profile``."""
    parser.addoption("--payarc-profile", metavar="PROFILE", help="a name or file: which PayArc the sandbox is")


@cache
def _shared_server() -> SandboxServer:
    # One server for all tests, started by the first test that uses it. A session fixture would have to be imported too.
    server = SandboxServer()
    server.start()
    atexit.register(server.stop)
    return server


@pytest.fixture
def payarc_sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SandboxServer:
    """An empty :class:`SandboxServer`, and an Airflow connection ``payarc_default`` to it.

    It has the settings of its parameter, a profile, or else of ``--payarc-profile``, or else the default settings.
    """
    server = _shared_server()
    server.reset()
    profile = getattr(request, "param", None) or request.config.getoption("--payarc-profile", None)
    if profile:
        server.settings(**read_profile(profile))
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", server.connection_json())
    return server
