"""A key must be stable: the database finds each key again, with the same record, before anything of a page is used."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from source_tables import PEOPLE, SOURCE_KINDS, ids, read, source

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.database_source import DatabaseSource

KINDS = SOURCE_KINDS

UNSTABLE = r"^key: the source returns other keys, or others' keys, each time it is read\. Use stored columns"
RANDOM = {
    "sqlite": "lower(hex(randomblob(16)))",
    "postgresql": "gen_random_uuid()",
    "mariadb": "md5(rand())",
    "duckdb": "gen_random_uuid()",
}


def unstable_keys(database):
    """Expressions whose values differ from one reading to the next."""
    new = RANDOM[database.kind]
    text = {"postgresql": "id::text", "mariadb": "CONCAT('a', id)"}.get(database.kind, "CAST(id AS TEXT)")
    number = "rand()" if database.kind == "mariadb" else "random()"
    return {
        "a random key": new,
        "a random key for some records": f"CASE WHEN id IN (1, 5) THEN {text} ELSE CAST({new} AS CHAR(36)) END",
        "a number by random order": f"ROW_NUMBER() OVER (ORDER BY {number})",
    }


@pytest.mark.parametrize("form", ["table", "sql"])
@pytest.mark.parametrize("page_size", [1, 4, 100])
@pytest.mark.parametrize("kind", ["a random key", "a random key for some records", "a number by random order"])
def test_a_key_that_is_not_stable_stops_the_run_before_its_page_is_used(database, people, kind, page_size, form):
    if kind == "a number by random order" and (form == "table" or page_size == 1):
        pytest.skip("a view's data are not compared; a single row may be the same by chance")
    if kind == "a number by random order" and database.kind == "duckdb":
        pytest.skip("DuckDB itself rejects such a number")
    query = f"SELECT {unstable_keys(database)[kind]} AS id, name FROM {people(PEOPLE * 3)}"
    given = {"sql": query}
    if form == "table":
        given = {"table_name": database.name("view")}
        database.execute(f"CREATE VIEW {given['table_name']} AS {query}")
        database.at_end(f"DROP VIEW {given['table_name']}")
    used, stable = [], {"1", "5", "a1", "a5"} if kind == "a random key for some records" else set()
    with pytest.raises(PayarcConfigError, match=UNSTABLE):
        used += source(database, page_size=page_size, **given).pages()
    assert {row["id"] for page in used for row in page} <= stable, "with the random keys they would get another one"


@pytest.mark.parametrize("form", ["table", "sql"])
@pytest.mark.parametrize("page_size", [1, 2, 100])
@pytest.mark.parametrize("kind", ["ENUM('zeta', 'beta', 'alpha')", "SET('zeta', 'beta', 'alpha')"])
def test_types_that_mariadb_orders_by_number_are_read_in_the_order_of_their_text(
    database, people, kind, page_size, form
):
    if database.kind != "mariadb":
        pytest.skip("only MariaDB and MySQL have these types")
    values = ["zeta", "beta", "alpha"] + (["zeta,beta", "beta,alpha"] if kind.startswith("SET") else [])
    name = people([(value, "x") for value in values], f"id {kind}", "name VARCHAR(5)")
    given = {"table_name": name} if form == "table" else {"sql": f"SELECT * FROM {name}"}
    assert ids(read(database, page_size=page_size, **given)) == sorted(values)


@pytest.mark.parametrize("page_size", [1, 2, 100])
def test_keys_longer_than_any_usable_one_are_all_read(database, people, page_size):
    keys = [f"{'x' * 300}{number}" for number in range(5)]
    name = people([(key, "x") for key in keys], "id TEXT", "name VARCHAR(5)")
    for given in ({"table_name": name}, {"sql": f"SELECT * FROM {name}"}):
        assert ids(read(database, page_size=page_size, **given)) == keys


@pytest.mark.parametrize("form", ["table", "sql"])
def test_a_row_that_goes_between_the_two_statements_of_a_page_stops_nothing(database, people, form):
    name = people(PEOPLE)
    if database.kind == "sqlite":
        database.execute("PRAGMA journal_mode = WAL")  # so that the test can write while the source reads
    engine = database.engine()
    deleted = []

    @sa.event.listens_for(engine, "after_cursor_execute")
    def delete_last(_connection, _cursor, statement, *_rest):
        if "<=" not in statement and "1 = 0" not in statement and "NOT NULL" in statement and not deleted:
            deleted.append(10)
            database.execute(f"DELETE FROM {name} WHERE id = 10")

    given = {"table_name": name} if form == "table" else {"sql": f"SELECT * FROM {name}"}
    pages = DatabaseSource(engine, ["id"], None, name="the source", **given).pages()
    assert ids([row for page in pages for row in page])[:9] == list(range(1, 10))
    assert deleted


def test_a_key_that_very_many_rows_share_is_no_key(sqlite_database):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    query = f"{numbers} SELECT CASE WHEN i < 100 THEN i ELSE 100 END AS id, 'Person ' || i AS name FROM n"
    pages = source(sqlite_database, sql=query, page_size=50).pages()
    assert ids(next(pages)) == list(range(1, 51))
    with pytest.raises(PayarcConfigError, match=r"^key: the source has 10000 rows or more with the same key\."):
        list(pages)


# ---- the size of pages ---------------------------------------------------------------------------------------------


def test_a_page_has_fewer_rows_if_they_are_long(database, people):
    long = "x" * 50_000
    rows = [(number, long if 20 < number <= 50 else "x") for number in range(1, 90)]
    name = people(rows, "id INTEGER", "name TEXT")
    pages = source(database, table_name=name, page_size=20, page_bytes=500_000).pages()
    found, sizes = [], []
    for page in pages:
        found += ids(page)
        sizes.append(sum(len(row["name"]) for row in page))
    assert found == list(range(1, 90))
    assert max(sizes) < 550_000


def test_a_row_longer_than_a_page_is_read_alone(database, people):
    name = people([(number, "x" * 50_000) for number in range(1, 6)], "id INTEGER", "name TEXT")
    pages = list(source(database, table_name=name, page_size=5, page_bytes=1000).pages())
    assert [ids(page) for page in pages] == [[1], [2], [3], [4], [5]]


@pytest.mark.parametrize("page_size", [1, 2, 4, 13, 14, 100])
def test_rows_without_a_key_are_read_in_pages(database, people, page_size):
    rows = [(None, f"Person {number % 7}") for number in range(13)]
    pages = list(source(database, table_name=people(rows), page_size=page_size).pages())
    assert sorted(row["name"] for page in pages for row in page) == sorted(name for _, name in rows)
    assert max(map(len, pages)) <= page_size


def test_long_rows_without_a_key_are_read_in_pages_too(database, people):
    rows = [(None, f"{number:03}{'x' * 50_000}") for number in range(100)]
    pages = source(database, table_name=people(rows, "id INTEGER", "name TEXT"), page_size=90, page_bytes=1000).pages()
    found = [[row["name"][:3] for row in page] for page in pages]
    assert sorted(name for page in found for name in page) == [f"{number:03}" for number in range(100)]
    assert max(map(len, found)) <= 50


# ---- a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("count", [5, 100])
def test_a_run_over_random_keys_creates_no_customer(bench, people, count):
    rows = [(number, f"Person {number}") for number in range(count)]
    query = f"SELECT {RANDOM[bench.database.kind]} AS id, name FROM {people(rows)}"
    outcome = bench.run(DatabaseSource(bench.database.engine(), ["id"], None, name="the source", sql=query))
    assert isinstance(outcome.error, PayarcConfigError)
    assert "each time it is read" in str(outcome.error)
    assert bench.sandbox.customers() == []
