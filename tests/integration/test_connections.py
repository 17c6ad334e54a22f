"""A SQL connection is used with all that Airflow's own hooks read from it, for the source and for the ledger."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from source_tables import Table, ids

from payarc_provider.exceptions import PayarcConfigError, PayarcError, PayarcSourceError
from payarc_provider.hooks.sql import sql_engine
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.ledger import Ledger

TYPES = {"sqlite": "sqlite", "postgresql": "postgres", "mariadb": "mysql"}
EMOJI = "Zoë 🦊"


@pytest.fixture
def connect(monkeypatch):
    """Define the Airflow connection ``crm`` to a database, and return an engine for it; disposed of at the end."""
    with contextlib.ExitStack() as stack:

        def make(database, extra=None, *, ledger=False, **fields):
            url = database.url
            given = {
                "conn_type": TYPES[database.kind],
                "host": url.database if database.kind == "sqlite" else url.query.get("host") or url.host,
                "extra": ({"client": "pymysql"} if database.kind == "mariadb" else {}) | (extra or {}),
            }
            if database.kind != "sqlite":
                given |= {"login": url.username, "password": url.password, "port": url.port, "schema": url.database}
            monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps(given | fields))
            engine = sql_engine("crm", "ledger_conn_id" if ledger else "sql_conn_id", ledger=ledger)
            stack.callback(engine.dispose)
            return engine

        yield make


def read(engine, name, columns=None):
    source = DatabaseSource(engine, ["id"], columns, name="the source", table_name=name, page_size=2)
    return [row for page in source.pages() for row in page]


def fill(ledger):
    """Use a ledger once, with a text that not every character set has."""
    ledger.open()
    ledger.remember("a fact", EMOJI)
    return ledger.fact("a fact")


def mysql_clients():
    modules = {"pymysql": "pymysql", "mysqlclient": "MySQLdb", "mysql-connector-python": "mysql"}
    for client, module in modules.items():
        absent = importlib.util.find_spec(module) is None
        yield pytest.param(client, marks=pytest.mark.skipif(absent, reason=f"{client} is not installed"))


# ---- PostgreSQL ----------------------------------------------------------------------------------------------------


@pytest.fixture
def crm(database):
    """A table in the schema ``crm``, and one of the same name where a connection without extra finds it."""
    if database.kind != "postgresql":
        pytest.skip("only PostgreSQL has a search path")
    name = database.name("people")
    Table(database, name, ("id INTEGER", "name TEXT")).fill([(1, "Wrong")])
    database.execute("CREATE SCHEMA crm")
    database.at_end("DROP SCHEMA crm CASCADE")
    database.execute(f"CREATE TABLE crm.{name} (id INTEGER, name TEXT)")
    database.execute(f"INSERT INTO crm.{name} VALUES (2, 'Right')")
    return name


def test_the_search_path_of_the_connection_holds_for_the_source(database, crm, connect):
    engine = connect(database, {"options": "-csearch_path=crm"})
    assert read(engine, crm) == [{"id": 2, "name": "Right"}]
    assert DatabaseSource(engine, ["id"], None, name="s", table_name=crm).total() == 1


def test_the_search_path_of_the_connection_holds_for_the_ledger(database, crm, connect):
    engine = connect(database, {"options": "-csearch_path=crm"}, ledger=True)
    assert fill(Ledger(engine, "ledger_of_crm")) == EMOJI
    assert database.execute("SELECT count(*) FROM crm.ledger_of_crm_facts WHERE name = 'a fact'") == [(1,)]


@pytest.mark.parametrize("ledger", [False, True])
def test_the_drivers_own_parameters_reach_the_driver(database, connect, ledger):
    if database.kind != "postgresql":
        pytest.skip("the extra of other connections is shown below")
    extra = {"sslmode": "disable", "application_name": "crm", "connect_timeout": 7, "keepalives_idle": 3}
    engine = connect(database, extra, ledger=ledger)
    if ledger:
        fill(Ledger(engine, database.name()))
    with engine.connect() as connection:
        parameters = connection.connection.driver_connection.info.get_parameters()
    assert {name: parameters[name] for name in extra} == {name: str(value) for name, value in extra.items()}
    assert parameters.get("tcp_user_timeout") == ("30000" if ledger else None), "the ledger's own limits remain"


@pytest.mark.parametrize(
    "extra",
    [{"cursor": "dictcursor"}, {"cursor": "namedtuplecursor"}, {"autocommit": True}, {"prepare_threshold": 1}],
    ids=str,
)
def test_extras_that_change_how_rows_look_change_nothing(database, people, connect, extra):
    if database.kind != "postgresql":
        pytest.skip("psycopg's extras")
    name = people([(number, f"Person {number}") for number in range(5)])
    assert ids(read(connect(database, extra), name)) == list(range(5))
    ledger = Ledger(connect(database, extra, ledger=True), database.name())
    assert fill(ledger) == EMOJI
    with contextlib.suppress(ZeroDivisionError), ledger.database.write() as connection:
        connection.exec_driver_sql(f"DELETE FROM {ledger.schema.facts.name}")
        raise ZeroDivisionError
    assert ledger.fact("a fact") == EMOJI, "transactions are rolled back"


# ---- MySQL and MariaDB ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", mysql_clients())
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"charset": "utf8"},
        {"charset": "latin1"},
        {"cursor": "sscursor"},
        {"cursor": "dictcursor", "charset": "utf8mb4"},
        {"cursor": "ssdictcursor"},
        {"local_infile": True},
    ],
    ids=str,
)
def test_no_extra_of_mysql_changes_a_value(database, connect, client, extra):
    if database.kind != "mariadb":
        pytest.skip("MySQL's extras")
    name = database.name("people")
    database.execute(f"CREATE TABLE {name} (id INTEGER, name VARCHAR(50)) CHARACTER SET utf8mb4")
    database.execute(f"INSERT INTO {name} VALUES (1, %s), (2, %s), (3, %s)", [EMOJI, "日本", "Ada"])
    rows = read(connect(database, {"client": client, **extra}), name)
    assert [row["name"] for row in rows] == [EMOJI, "日本", "Ada"]
    ledger = Ledger(connect(database, {"client": client, **extra}, ledger=True), database.name())
    assert fill(ledger) == EMOJI


@pytest.mark.parametrize("client", mysql_clients())
def test_encryption_is_not_dropped(database, connect, client):
    if database.kind != "mariadb":
        pytest.skip("MySQL's extras")
    extra = {"ssl_ca": "/nonexistent.pem"} if client.startswith("mysql-") else {"ssl": {"ca": "/nonexistent.pem"}}
    engine = connect(database, {"client": client, **extra})
    with pytest.raises(PayarcError, match=r"cannot be opened|could not be read"):
        read(engine, "people")
    text = connect(database, {"client": client, **{name: json.dumps(value) for name, value in extra.items()}})
    with pytest.raises(PayarcError, match=r"cannot be opened|could not be read"):
        read(text, "people")


@pytest.mark.parametrize("client", mysql_clients())
def test_a_temporary_password_is_fetched_for_every_connection(database, people, connect, client, monkeypatch):
    if database.kind != "mariadb" or client == "mysql-connector-python":
        pytest.skip("Airflow fetches tokens for mysqlclient's parameters only")
    from airflow.providers.mysql.hooks.mysql import MySqlHook

    name, fetched = people([(1, "Person A")]), []

    def get_iam_token(_hook, _connection):
        fetched.append(1)
        return "t0ken", database.url.port or 3306

    monkeypatch.setattr(MySqlHook, "get_iam_token", get_iam_token)
    database.execute("CREATE USER iam_user@'%' IDENTIFIED BY 't0ken'")
    database.at_end("DROP USER iam_user@'%'")
    database.execute(f"GRANT SELECT ON {database.url.database}.* TO iam_user@'%'")
    engine = connect(database, {"client": client, "iam": True}, login="iam_user", password=None)
    assert ids(read(engine, name)) == [1]
    assert fetched


# ---- SQLite --------------------------------------------------------------------------------------------------------


def test_parameters_of_a_sqlite_connection_hold(sqlite_database, connect):
    Table(sqlite_database, "people", ("id INTEGER", "name TEXT")).fill([(1, "Person A")])
    engine = connect(sqlite_database, {"mode": "ro"})
    assert ids(read(engine, "people")) == [1]
    with pytest.raises(PayarcError, match="OperationalError SQLITE_READONLY"):
        Ledger(connect(sqlite_database, {"mode": "ro"}, ledger=True)).open()


# ---- PgBouncer -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pgbouncer(database, tmp_path_factory):
    """PgBouncer in transaction mode in front of PostgreSQL, with one server connection for all; its port."""
    if database.kind != "postgresql":
        pytest.skip("PgBouncer is for PostgreSQL")
    if shutil.which("pgbouncer") is None:
        pytest.skip("pgbouncer is not installed")
    folder = tmp_path_factory.mktemp("pgbouncer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, ini = database.url, folder / "pgbouncer.ini"
    host = url.query.get("host") or url.host
    where = f"host={host} port={url.port or 5432} dbname={url.database} user={url.username}"
    ini.write_text(
        f"[databases]\nbounced = {where}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 1\nunix_socket_dir =\nclient_login_timeout = 5\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    command = ["pgbouncer", str(ini)]
    if getpass.getuser() == "root":  # which PgBouncer refuses
        for path in (folder, ini):
            os.chmod(path, 0o755)
        for parent in folder.parents:
            if parent.name.startswith("pytest-"):
                os.chmod(parent, 0o755)
        command[1:1] = ["-u", Path(host).owner() if host.startswith("/") else "nobody"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, "pgbouncer has ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
        yield port
    finally:
        process.terminate()
        process.wait()


def test_pgbouncer_in_transaction_mode_works(database, people, connect, pgbouncer):
    """Its clients share server connections, so that one finds the prepared statements of another."""
    name = people([(number, f"Person {number}") for number in range(60)])
    where = {"host": "127.0.0.1", "port": pgbouncer, "schema": "bounced"}
    sources = [
        DatabaseSource(connect(database, **where), ["id"], None, name="s", table_name=name, page_size=3)
        for _ in range(2)
    ]
    pages = list(zip(sources[0].pages(), sources[1].pages(), strict=True))
    assert [ids(page) for page, _ in pages] == [[number, number + 1, number + 2] for number in range(0, 60, 3)]
    table = database.name()
    ledgers = [Ledger(connect(database, ledger=True, **where), table) for _ in range(2)]
    assert [fill(ledger) for ledger in ledgers] == [EMOJI, EMOJI]
    for number in range(20):  # psycopg prepares a statement that it has executed five times
        ledgers[number % 2].replace_fact("a fact", str(number))
    assert [ledger.fact("a fact") for ledger in ledgers] == ["19", "19"]


# ---- what cannot be used -------------------------------------------------------------------------------------------

SECRET = {"login": "clerk", "password": "pa55word"}
UNUSABLE = {
    "another type": ({"conn_type": "payarc", "password": "pa55word"}, 'has the type "payarc", which is not a SQL'),
    "no provider": ({"conn_type": "nonsense", **SECRET}, 'has the type "nonsense", which no installed provider knows'),
    "no database": ({"conn_type": "generic", **SECRET}, 'has the type "generic", which is not a SQL'),
    "SQLite in memory": ({"conn_type": "sqlite", "host": ":memory:"}, "is to a SQLite database in memory"),
    "SQLite without a file": ({"conn_type": "sqlite"}, "is to a SQLite database in memory"),
    "SQLite in shared memory": ({"conn_type": "sqlite", "host": "x", "extra": {"mode": "memory"}}, "in memory"),
    "a relative file": ({"conn_type": "sqlite", "host": "people.db"}, "is to another file in every working directory"),
    "SQLite with a password": ({"conn_type": "sqlite", "host": "/x.db", **SECRET}, "leave login and password empty"),
    "a client": ({"conn_type": "mysql", "extra": {"client": "odbc"}, **SECRET}, "has an unknown client in its extra"),
}


@pytest.mark.parametrize("ledger", [False, True])
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_connection_that_cannot_be_used_is_named_with_the_reason(monkeypatch, name, ledger):
    fields, reason = UNUSABLE[name]
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps(fields))
    with pytest.raises(PayarcConfigError) as caught:
        sql_engine("crm", "sql_conn_id", ledger=ledger)
    assert str(caught.value).startswith("sql_conn_id: the connection crm ")
    assert reason in str(caught.value)
    assert "pa55word" not in str(caught.value)
    assert len(str(caught.value)) <= 200


def test_a_missing_driver_is_named_with_its_connection(monkeypatch):
    if importlib.util.find_spec("MySQLdb") is not None:
        pytest.skip("mysqlclient is installed")
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps({"conn_type": "mysql", "host": "h", "schema": "s", **SECRET}))
    with pytest.raises(PayarcConfigError, match=r"^sql_conn_id: the connection crm needs .* install MySQLdb"):
        sql_engine("crm", "sql_conn_id")


def test_a_mysql_connection_without_a_schema_cannot_have_a_ledger(monkeypatch):
    fields = {"conn_type": "mysql", "host": "h", "extra": {"client": "pymysql"}}
    monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps(fields))
    with pytest.raises(PayarcConfigError, match=r"^ledger_conn_id: the connection crm names no database: .* schema$"):
        sql_engine("crm", "ledger_conn_id", ledger=True)


def test_a_mysql_connection_without_a_schema_reads_tables_that_name_theirs(database, people, connect):
    if database.kind != "mariadb":
        pytest.skip("other databases always have one")
    name = people([(1, "Person A")])
    engine = connect(database, schema=None)
    assert ids(read(engine, f"{database.url.database}.{name}")) == [1]
    with pytest.raises(
        PayarcConfigError, match=r"^the source: its connection names no database: fill in its field schema"
    ):
        read(engine, name)


@pytest.mark.parametrize(
    ("kind", "extra", "reason"),
    [
        ("postgresql", {"cursor": "nonsense"}, "cannot be opened (ValueError)"),
        ("mariadb", {"ssl_mode": "REQUIRED"}, "has ssl_mode in its extra, which PyMySQL does not know: use ssl"),
    ],
)
def test_an_extra_that_cannot_be_honoured_is_an_error(database, connect, kind, extra, reason):
    if database.kind != kind:
        pytest.skip(f"this extra is {kind}'s")
    with pytest.raises(PayarcConfigError) as caught:
        read(connect(database, extra, password="pa55word"), "people")
    assert str(caught.value).startswith("sql_conn_id: the connection crm ")
    assert reason in str(caught.value)
    assert "pa55word" not in str(caught.value)


def test_an_unknown_extra_is_an_error_of_the_driver(database, connect):
    if database.kind != "postgresql":
        pytest.skip("other hooks ignore what they do not know")
    with pytest.raises(PayarcSourceError, match="the source could not be read"):
        read(connect(database, {"nonsense": "x"}), "people")
