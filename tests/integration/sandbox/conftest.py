"""Fixtures for the sandbox's tests: a running sandbox and a client for it."""

import pytest
from sandbox_client import Client


@pytest.fixture
def sandbox(payarc_sandbox):
    return payarc_sandbox


@pytest.fixture
def client(sandbox):
    with Client(sandbox) as session:
        yield session
