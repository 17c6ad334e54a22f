"""What the libraries below us would log at DEBUG: rows, headers that cannot be parsed, requests with the token."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading

import pytest
import sqlalchemy as sa

from payarc_provider.api.client import PayarcClient
from payarc_provider.hooks.sql import sql_engine

SECRETS = ["Secretname", "secrettoken", "secretheader", "Secretparameter"]


def found(text):
    return [secret for secret in SECRETS if secret in text]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "people.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE people (name TEXT)")
        connection.exec_driver_sql("INSERT INTO people VALUES ('Secretname')")
    engine.dispose()
    return path


def read(engine):
    with engine.connect() as connection:
        query = sa.text("SELECT name FROM people WHERE name <> :other")
        return connection.execute(query, {"other": "Secretparameter"}).scalars().all()


@pytest.mark.parametrize("ledger", [False, True])
def test_rows_and_parameters_are_not_logged(monkeypatch, caplog, file, ledger):
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps({"conn_type": "sqlite", "host": str(file)}))
    for name in ("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.engine.Engine.payarc"):
        caplog.set_level(logging.DEBUG, logger=name)
    assert read(sql_engine("crm", "sql_conn_id", ledger=ledger)) == ["Secretname"]
    assert "SELECT name FROM people" in caplog.text
    assert found(caplog.text) == []


def test_an_echo_on_the_engine_shows_no_rows_either(monkeypatch, capfd, caplog, file):
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps({"conn_type": "sqlite", "host": str(file)}))
    engine = sql_engine("crm", "sql_conn_id")
    engine.echo = "debug"
    assert read(engine) == ["Secretname"]
    assert found(caplog.text + "".join(capfd.readouterr())) == []


def test_other_engines_are_left_alone(caplog, file):
    caplog.set_level(logging.DEBUG, logger="sqlalchemy.engine")
    assert read(sa.create_engine(f"sqlite:///{file}")) == ["Secretname"]
    assert found(caplog.text) == ["Secretname", "Secretparameter"]


HEADS = [
    b"HTTP/1.1 201 Created\r\nsecretheader Secretname\r\nContent-Length: 23\r\n\r\n",
    b"HTTP/1.1 201 Created\r\nContent-Length: 23\r\nX-Odd\r\n secretheader: Secretname\r\n\r\n",
    b"HTTP/1.1 201 Created\r\nContent-Length: 23\r\n: secretheader\r\n\r\n",
    b"HTTP/1.1 201 Created\r\nContent-Length: 23\r\nContent-Type: multipart/mixed; boundary=Secretname\r\n\r\n",
    b"HTTP/1.1 201 Created\r\nContent-Length: 23\r\nContent-Type: message/rfc822\r\n\r\n",
]


@pytest.mark.parametrize("head", HEADS)
def test_neither_unreadable_headers_nor_the_request_are_logged_or_printed(monkeypatch, caplog, capfd, head):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                while b"name=" not in connection.recv(65536):
                    pass
                connection.sendall(head + b'{"data": {"id": "abc"}}')

        thread = threading.Thread(target=serve)
        thread.start()
        client = PayarcClient(f"http://127.0.0.1:{server.getsockname()[1]}/v1", lambda refresh: "secrettoken")
        assert client.create_customer({"name": "Secretname"})["customer_id"] == "abc"
        client.close()
        thread.join()
    assert "POST /v1/customers" in caplog.text
    assert found(caplog.text + "".join(capfd.readouterr())) == []
