"""A source in Snowflake: Airflow's hook and Snowflake's driver, with fakesnow in place of Snowflake's servers.

fakesnow runs the SQL in DuckDB, which ignores the case of names. Here, a quoted name must be written as it is stored.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import json
import os
from decimal import Decimal
from pathlib import Path

import fakesnow
import fakesnow.cursor
import pages
import pytest
import snowflake.connector
from snowflake.connector.errors import ProgrammingError
from sqlglot import exp

from payarc_provider.exceptions import PayarcConfigError, PayarcSourceError
from payarc_provider.hooks.sql import sql_engine
from payarc_provider.sync.database_source import DatabaseSource

PEOPLE = ", ".join(f"({number}, 'Person {number}', 'p{number}@example.com')" for number in range(1, 11))
STORED = """
    SELECT database_name FROM duckdb_databases() UNION SELECT schema_name FROM duckdb_schemas()
    UNION SELECT table_name FROM duckdb_columns() UNION SELECT column_name FROM duckdb_columns()"""
_execute = fakesnow.cursor.FakeSnowflakeCursor._execute


@pytest.fixture
def statements(monkeypatch):
    """The queries that arrive, which must name things as they are stored; names without quotes are in capitals."""
    arrived = []

    def execute(cursor, transformed, *arguments):
        if isinstance(transformed, exp.Select) and transformed.args.get("from_"):
            arrived.append(transformed.sql("snowflake"))
            stored = {row[0] for row in cursor._duck_conn.execute(STORED).fetchall()}
            stored |= {name.alias for name in transformed.find_all(exp.Alias, exp.TableAlias, exp.Subquery, exp.CTE)}
            for name in transformed.find_all(exp.Identifier):
                if name.this not in stored:
                    raise ProgrammingError(f"invalid identifier '{name.this}'", errno=904, sqlstate="42000")
        return _execute(cursor, transformed, *arguments)

    monkeypatch.setattr(fakesnow.cursor.FakeSnowflakeCursor, "_execute", execute)
    return arrived


@pytest.fixture(scope="module")
def server():
    """A stand-in for Snowflake, by HTTP."""
    with fakesnow.server() as parameters:
        yield parameters


@pytest.fixture
def warehouse(server, statements, monkeypatch, request):
    """An engine for the Airflow connection ``warehouse``, to a database with ten people."""
    name = f"db{abs(hash(request.node.name)) % 10**9}"
    extra = {"account": "fakesnow", "database": name, "host": server["host"], "port": server["port"]}
    extra |= {"session_parameters": server["session_parameters"]}
    fields = {"conn_type": "snowflake", "login": "fake", "password": "snow", "schema": "crm", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
    plain = functools.partial(snowflake.connector.connect, protocol="http", network_timeout=5)
    monkeypatch.setattr(snowflake.connector, "connect", plain)
    engine = sql_engine("warehouse", "sql_conn_id")
    engine.database = name
    run(engine, "CREATE TABLE people (id INT, name VARCHAR, email VARCHAR)", f"INSERT INTO people VALUES {PEOPLE}")
    statements.clear()
    yield engine
    engine.dispose()


def run(engine, *commands):
    with engine.begin() as connection:
        return [connection.exec_driver_sql(command) for command in commands]


def read(engine, key="id", columns=("name",), **options):
    source = DatabaseSource(engine, [key], columns, name="table people of warehouse", page_size=4, **options)
    return [row for page in source.pages() for row in page]


def ids(rows, column="id"):
    return [row[column] for row in rows]


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ['SELECT "id" FROM people', 'SELECT "ID" FROM "people"', 'SELECT x FROM "crm".people']
)
def test_the_stand_in_is_as_strict_as_snowflake(warehouse, query):
    with pytest.raises(Exception, match="invalid identifier"):
        run(warehouse, query)


@pytest.mark.parametrize("key", ["id", "ID", "Id"])
@pytest.mark.parametrize("table", ["people", "PEOPLE", "crm.people", "{}.crm.People", '"PEOPLE"', '{}."CRM".people'])
def test_any_spelling_without_quotes_means_the_name_in_capitals(warehouse, table, key):
    assert ids(read(warehouse, key, ("Name",), table_name=table.format(warehouse.database)), key) == list(range(1, 11))


def test_names_in_quotes_keep_their_case(warehouse):
    run(
        warehouse,
        'CREATE SCHEMA "low"',
        'CREATE TABLE "low"."Odd Name" ("Key" INT, "e.mail" VARCHAR)',
        """INSERT INTO "low"."Odd Name" VALUES (2, 'b'), (1, 'a')""",
    )
    for table in ('"low"."Odd Name"', f'{warehouse.database}."low"."Odd Name"'):
        assert ids(read(warehouse, "Key", ("e.mail",), table_name=table), "Key") == [1, 2]
        assert ids(read(warehouse, "key", ("E.Mail",), table_name=table), "key") == [1, 2]
    with pytest.raises(PayarcSourceError, match=r"^table people of warehouse could not be read: ProgrammingError"):
        read(warehouse, "Key", table_name='low."Odd Name"')


def test_names_of_a_query_follow_the_same_rule(warehouse):
    query = 'SELECT id AS "my key", name FROM people ORDER BY id DESC LIMIT 3'
    assert ids(read(warehouse, "my key", sql=query), "my key") == [8, 9, 10]
    with pytest.raises(PayarcConfigError, match=r'^key: the source has no column "nr"; its columns are my key, NAME$'):
        read(warehouse, "nr", sql=query)


# ---- queries and values --------------------------------------------------------------------------------------------


def test_a_query_may_be_a_with_and_have_parameters(warehouse):
    query = "WITH few AS (SELECT * FROM people WHERE id > {} AND name LIKE 'Person%{}') SELECT * FROM few;"
    assert ids(read(warehouse, sql=query.format("3", ""))) == list(range(4, 11))
    assert ids(read(warehouse, sql=query.format("%s", "%"), parameters=[3])) == list(range(4, 11))
    assert ids(read(warehouse, sql=query.format("%(least)s", "%"), parameters={"least": 3})) == list(range(4, 11))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("NUMBER(38, 0)", [1, 2**53 + 1, 10**18]),
        ("NUMBER(12, 2)", [Decimal("0.10"), Decimal("4.50"), Decimal("10.00")]),
        ("VARCHAR", ["%s", "10", "9", "A", "\\", "a", "it's", "ä"]),
        ("DATE", [datetime.date(2026, 1, day) for day in (1, 2, 31)]),
        ("TIMESTAMP_NTZ", [datetime.datetime(2026, 1, 1, 12, 0, 1, number) for number in (1, 2, 3)]),
    ],
)
@pytest.mark.parametrize("form", ["table", "sql"])
def test_keys_of_any_exact_type_are_all_read(warehouse, kind, values, form):
    run(warehouse, f"CREATE TABLE keyed (id {kind}, name VARCHAR)")
    with warehouse.begin() as connection:
        for value in values:
            connection.exec_driver_sql("INSERT INTO keyed VALUES (%s, 'x')", (value,))
    given = {"table_name": "keyed"} if form == "table" else {"sql": "SELECT * FROM keyed"}
    source = DatabaseSource(warehouse, ["id"], None, name="s", page_size=1, **given)
    assert [row["id"] for page in source.pages() for row in page] == values


def test_an_error_names_the_connection_and_no_value(warehouse):
    with pytest.raises(PayarcSourceError) as caught:
        read(warehouse, sql="SELECT CAST(name AS INT) AS id, name FROM people")
    assert str(caught.value).startswith("table people of warehouse could not be read: ProgrammingError 22")
    assert "Person" not in str(caught.value)


# ---- the page of the documentation ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def airflow():
    """Airflow's metadata database."""
    from airflow.utils.db import initdb

    initdb()


@pytest.mark.parametrize("number", [0, 1])
def test_the_dags_of_the_page_create_everybody_once(
    warehouse, statements, airflow, payarc_sandbox, tmp_path, monkeypatch, number
):
    block = [block for block in pages.blocks("docs/warehouse.md") if block.language == "python"][number]
    file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / "warehouse.py"
    file.write_text(block.text)
    ledger = {"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")}
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_LEDGER", json.dumps(ledger))
    columns = "id INT, full_name VARCHAR, email VARCHAR"
    run(warehouse, f"CREATE OR REPLACE TABLE people ({columns})", f"INSERT INTO people VALUES {PEOPLE}")
    statements.clear()
    bag = importlib.import_module("airflow.dag_processing.dagbag").DagBag(str(file))
    assert bag.import_errors == {}
    (dag,) = bag.dags.values()
    for _ in range(2):
        assert dag.test().state == "success"
    assert sorted(customer["name"] for customer in payarc_sandbox.customers()) == sorted(
        f"Person {number}" for number in range(1, 11)
    )
    assert payarc_sandbox.stats()["posts"]["created"] == 10
    print(*statements, sep="\n")
    assert len(statements) == (2 if number else 10), "per run: once, or columns, rows without key and two pages"
