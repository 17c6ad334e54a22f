"""Airflow's hooks for warehouses: the engine has the dialect and the driver of the hook's own connections."""

from __future__ import annotations

import importlib
import json

import pytest

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.hooks.sql import sql_engine

LOGIN = {"host": "warehouse.example", "login": "clerk", "password": "pa55word"}
CONNECTIONS = {
    "oracle": ({"extra": {"service_name": "crm"}}, "oracledb.Connection"),
    "mssql": ({"schema": "crm", "port": 1433}, "pymssql.Connection"),
    "trino": ({"schema": "crm", "port": 8080}, "trino.dbapi.Connection"),
    "databricks": (
        {"login": None, "extra": {"http_path": "/sql/1.0/warehouses/1"}},
        "databricks.sql.client.Connection",
    ),
    "redshift": ({"schema": "crm", "port": 5439}, "redshift_connector.Connection"),
    "snowflake": (
        {"schema": "crm", "extra": {"account": "a", "database": "db"}},
        "snowflake.connector.SnowflakeConnection",
    ),
}


def engine_for(monkeypatch, fields):
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps(fields))
    return sql_engine("crm", "sql_conn_id")


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_an_engine_has_the_driver_of_the_hooks_connections(monkeypatch, kind):
    fields, connection = CONNECTIONS[kind]
    engine = engine_for(monkeypatch, {"conn_type": kind, **LOGIN, **fields})
    assert engine.dialect.name == kind
    module, _, name = connection.rpartition(".")
    opened = getattr(importlib.import_module(module), name)
    assert engine.dialect.dbapi.__name__.partition(".")[0] == opened.__module__.partition(".")[0]


def test_a_connection_of_the_hook_is_the_one_that_is_used(monkeypatch):
    engine = engine_for(monkeypatch, {"conn_type": "trino", **LOGIN, "port": 8080, "extra": {"protocol": "https"}})
    connection = engine.dialect.connect()
    assert (connection.host, connection.http_scheme, connection.auth._username) == (LOGIN["host"], "https", "clerk")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"conn_type": "generic", **LOGIN}, 'has the type "generic", which is not a SQL database'),
        (
            {"conn_type": "athena", **LOGIN},
            "cannot be turned into a database URL (AirflowException): fix its fields, or",
        ),
        ({"conn_type": "aws", **LOGIN}, 'has the type "aws", which is not a SQL database'),
    ],
)
def test_what_is_no_sql_database_is_named(monkeypatch, fields, reason):
    with pytest.raises(PayarcConfigError) as caught:
        engine_for(monkeypatch, fields)
    assert str(caught.value).startswith("sql_conn_id: the connection crm ")
    assert reason in str(caught.value)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_no_warehouse_can_store_a_ledger(monkeypatch, kind):
    fields, _ = CONNECTIONS[kind]
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps({"conn_type": kind, **LOGIN, **fields}))
    with pytest.raises(PayarcConfigError, match=rf"the connection crm is to {kind}, which cannot store a ledger: use"):
        sql_engine("crm", "ledger_conn_id", ledger=True)
