"""A database as the source of records: every row is read once, in key order, with any names."""

from __future__ import annotations

import datetime
import traceback
import tracemalloc
import uuid
from decimal import Decimal

import pytest
import sqlalchemy as sa
from source_tables import PEOPLE, SOURCE_KINDS, Table, ids, mark, read, source
from sqlalchemy.pool import QueuePool

from payarc_provider.exceptions import PayarcConfigError, PayarcSourceError
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.sources import Batches

KINDS = SOURCE_KINDS

# ---- pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 9, 10, 11, 100])
def test_every_row_is_read_once_in_key_order_with_any_page_size(database, people, page_size):
    rows = read(database, table_name=people(PEOPLE), page_size=page_size)
    assert rows == [{"id": number, "name": f"Person {number}"} for number in range(1, 11)]


def test_an_empty_table_has_no_rows(database, people):
    name = database.name("people")
    Table(database, name, ("id INTEGER", "name VARCHAR(50)"))
    assert read(database, table_name=name) == []
    assert source(database, table_name=name).total() == 0


def test_a_table_knows_its_number_of_rows_and_a_query_does_not(database, people):
    name = people([*PEOPLE, (None, "Keyless")])
    assert source(database, table_name=name).total() == 11
    assert source(database, sql=f"SELECT * FROM {name}").total() is None


def test_pages_are_read_on_demand_and_no_connection_stays_open_between_them(database, people):
    name = people(PEOPLE)
    engine = database.engine(poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=1)
    pages = DatabaseSource(engine, ["id"], None, name="s", table_name=name, page_size=4).pages()
    seen = ids(next(pages))
    assert seen == [1, 2, 3, 4]
    assert engine.pool.checkedout() == 0
    with engine.begin() as connection:  # the only connection is free, and rows written now are read later
        connection.exec_driver_sql(f"INSERT INTO {name} VALUES (11, 'New')")
    for page in pages:
        seen += ids(page)
    assert seen == list(range(1, 12))


def test_memory_does_not_grow_with_the_table(database):
    name = database.name("people")
    table = Table(database, name, ("id INTEGER PRIMARY KEY", "name VARCHAR(300)"))
    for start in range(0, 6000, 3000):
        table.fill([(number, "x" * 300) for number in range(start, start + 3000)])
    pages = source(database, table_name=name, page_size=100).pages()
    for _ in range(5):
        next(pages)  # everything that stays in memory has been allocated by now
    tracemalloc.start()
    count = sum(len(page) for page in pages)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5500
    assert peak < 1_000_000, "a tenth of what the rows would take together"


# ---- keys ----------------------------------------------------------------------------------------------------------


def test_rows_are_ordered_by_all_key_columns(database, people):
    rows = [(tenant, number) for tenant in ("b", "a", "c") for number in (2, 10, 1)]
    name = people(rows, "tenant VARCHAR(10)", "id INTEGER")
    got = [(row["tenant"], row["id"]) for row in read(database, ["tenant", "id"], table_name=name, page_size=2)]
    assert got == sorted(rows)


def test_three_key_columns_lose_no_row_with_any_page_size(database, people):
    rows = [(a, b, c) for a in (1, 2) for b in ("x", "y") for c in (1, 2, 3)]
    name = people(rows, "a INTEGER", "b VARCHAR(5)", "c INTEGER")
    for page_size in range(1, 14):
        got = read(database, ["a", "b", "c"], table_name=name, page_size=page_size)
        assert [(row["a"], row["b"], row["c"]) for row in got] == rows


def test_rows_without_a_key_are_read_and_rejected(database, people):
    name = people([(1, "Person A"), (None, "Person B"), (2, "Person C"), (None, "Person D")])
    rows = read(database, table_name=name, page_size=1)
    assert sorted(row["name"] for row in rows) == ["Person A", "Person B", "Person C", "Person D"]
    reader = RecordReader("id", None, "secret")
    records = [reader.read(index, row) for index, row in enumerate(rows)]
    assert sorted(record.key or "" for record in records) == ["", "", "1", "2"]
    assert [list(record.errors) for record in records if record.key is None] == [["id"], ["id"]]


def test_rows_that_lack_part_of_their_key_are_read_once(database, people):
    rows = [("a", 1), ("a", None), (None, 1), (None, None), ("b", 2)]
    name = people(rows, "tenant VARCHAR(10)", "id INTEGER")
    got = [(row["tenant"], row["id"]) for row in read(database, ["tenant", "id"], table_name=name, page_size=2)]
    assert sorted(got, key=str) == sorted(rows, key=str)


@pytest.mark.parametrize("page_size", [1, 2, 3, 4])
def test_equal_keys_are_not_lost_at_the_end_of_a_page(database, people, page_size):
    rows = [(1, "a"), (2, "b"), (2, "c"), (2, "d"), (2, "e"), (3, "f"), (3, "g")]
    got = read(database, table_name=people(rows), page_size=page_size)
    assert sorted((row["id"], row["name"]) for row in got) == rows


@pytest.mark.parametrize("page_size", [1, 2, 3])
def test_keys_that_only_the_database_considers_equal_are_not_lost(database, people, page_size):
    kind = (
        "VARCHAR(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci" if database.kind == "mariadb" else "VARCHAR(10)"
    )
    if database.kind == "sqlite":
        kind += " COLLATE NOCASE"
    keys = ["a", "A", "á", "Á", "ä", "b", "B", "ß", "s", "ss", "a ", "z"]
    name = people([(key, "x") for key in keys], f"id {kind}", "name VARCHAR(5)")
    assert sorted(ids(read(database, table_name=name, page_size=page_size))) == sorted(keys)


KEY_TYPES = {
    "text": (
        "VARCHAR(40)",
        ["", " ", "%", "'", '"', "\\", "10", "9", "A", "a", "ä", "ж", "🙂", "{{ 7*7 }}", ":x", "%s"],
    ),
    "padded": ("CHAR(6)", ["a", "ab", "b", "ba"]),
    "big": ("BIGINT", [-(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1]),
    "decimal": (
        "DECIMAL(30, 10)",
        [Decimal("-1.5"), Decimal("0.1"), Decimal("0.3"), Decimal(10) ** 15 + Decimal("0.1")],
    ),
    "date": ("DATE", [datetime.date(2026, 1, day) for day in (1, 2, 31)]),
    "moment": ("TIMESTAMP", [datetime.datetime(2026, 1, 1, 12, 0, second) for second in range(4)]),
}


@pytest.mark.parametrize("name", KEY_TYPES)
def test_keys_of_any_exact_type_are_all_read(database, people, name):
    kind, values = KEY_TYPES[name]
    given = [
        str(value) if database.kind == "sqlite" and not isinstance(value, int | str) else value for value in values
    ]
    table = people([(value, "x") for value in given], f"id {kind}", "name VARCHAR(5)")
    assert len(read(database, table_name=table, page_size=1)) == len(values)
    got = {str(row["id"]).strip() for row in read(database, table_name=table, page_size=3)}
    assert len(got) == len({str(value).strip() for value in values})


def test_keys_that_are_uuids_are_all_read(database, people):
    kind = "CHAR(36)" if database.kind == "sqlite" else "UUID"
    values = sorted(str(uuid.UUID(int=number * 2**120 + 7)) for number in range(7))
    table = people([(value, "x") for value in values], f"id {kind}", "name VARCHAR(5)")
    assert [str(value) for value in ids(read(database, table_name=table, page_size=2))] == values


@pytest.mark.parametrize("kind", ["REAL", "FLOAT", "DOUBLE PRECISION"])
def test_keys_of_an_inexact_type_are_all_read_or_the_column_is_rejected(database, people, kind):
    table = people([(value, "x") for value in (0.1, 1.1, 1.7, 2.3, 3.3)], f"id {kind}", "name VARCHAR(5)")
    count, rejected = 0, ""
    try:
        for page in source(database, table_name=table, page_size=2).pages():
            count += len(page)
            assert count <= 5, "a row was read twice, and would be forever"
    except (PayarcConfigError, PayarcSourceError) as error:
        rejected = str(error)
    assert "cast" in rejected if rejected else count == 5


@pytest.mark.parametrize("form", ["table", "sql"])
@pytest.mark.parametrize("page_size", [1, 2])
def test_keys_of_an_enumeration_are_all_read_or_the_column_is_rejected(database, people, page_size, form):
    enum = "ENUM('zeta', 'beta', 'alpha')"
    kind = {"sqlite": "TEXT", "postgresql": "planet", "mariadb": enum, "duckdb": enum}[database.kind]
    if database.kind == "postgresql":
        database.at_end("DROP TYPE planet CASCADE")
        database.execute("CREATE TYPE planet AS ENUM ('zeta', 'beta', 'alpha')")
    rows = [(name, number) for name in ("zeta", "beta", "alpha") for number in (1, 2)]
    table = people(rows, f"kind {kind}", "id INTEGER")
    given = {"table_name": table} if form == "table" else {"sql": f"SELECT * FROM {table}"}
    got, rejected = [], ""
    try:
        for page in source(database, ["kind", "id"], page_size=page_size, **given).pages():
            got += [(row["kind"], row["id"]) for row in page]
            assert len(got) <= len(rows), "a row was read twice"
    except (PayarcConfigError, PayarcSourceError) as error:
        rejected = str(error)
    assert "cast" in rejected if rejected else sorted(got) == sorted(rows)


@pytest.mark.parametrize("page_size", [1, 2, 3])
def test_keys_of_case_insensitive_text_are_all_read(database, people, page_size):
    if database.kind != "postgresql":
        pytest.skip("only PostgreSQL has citext")
    if not database.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'citext'"):
        pytest.skip("this PostgreSQL comes without citext; set PAYARC_TEST_POSTGRESQL to one that has it")
    database.at_end("DROP EXTENSION citext CASCADE")
    database.execute("CREATE EXTENSION citext")
    keys = ["a", "B", "c", "D", "e"]
    table = people([(key, "x") for key in keys], "id citext", "name VARCHAR(5)")
    assert ids(read(database, table_name=table, page_size=page_size)) == keys


@pytest.mark.parametrize(
    ("kinds", "values"),
    [
        (("BLOB", "BYTEA", "VARBINARY(10)", "BLOB"), [b"\x00", b"\x01", b"\xff"]),
        (("BOOLEAN", "BOOLEAN", "BOOLEAN", "BOOLEAN"), [False, True]),
    ],
    ids=["binary", "boolean"],
)
def test_keys_that_can_only_be_rejected_are_all_read(database, people, kinds, values):
    kind = kinds[SOURCE_KINDS.index(database.kind)]
    table = people([(value, "x") for value in values], f"id {kind}", "name VARCHAR(5)")
    assert len(read(database, table_name=table, page_size=1)) == len(values)


# ---- names ---------------------------------------------------------------------------------------------------------

ODD_NAMES = [
    "order",
    "select",
    "Mixed Case",
    "two words",
    "it's",
    "tab%le",
    "naïve",
    "таблица",
    "a:b",
    "x?y",
    "semi;colon",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_tables_and_columns_may_have_any_name(database, name):
    table_name = database.name(name)
    Table(database, table_name, [(name, "INTEGER"), ("group", "VARCHAR(20)"), (f"{name} 2", "INTEGER")]).fill(
        [(number, "x", number) for number in range(7)]
    )
    rows = read(database, [name, f"{name} 2"], ["group"], table_name=table_name)
    assert ids(rows, name) == list(range(7))
    assert rows[0]["group"] == "x"
    queried = f"SELECT * FROM {database.quoted(table_name)}"
    assert ids(read(database, name, ["group"], sql=queried), name) == list(range(7))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("dot.ted", '"dot.ted"'),
        ("dot.ted", "`dot.ted`"),
        ("dot.ted", "[dot.ted]"),
        ('quo"ted', '"quo""ted"'),
        ("back`tick", "`back``tick`"),
    ],
)
def test_names_with_dots_or_quotes_may_be_quoted(database, name, written):
    stem = database.name("people").split("_")[1]
    table = Table(database, f"{name}{stem}", ["id INTEGER", ('co"lumn`.x', "INTEGER")]).fill([(1, 2), (3, 4)])
    given = written[:-1] + stem + written[-1]
    try:
        assert ids(read(database, 'co"lumn`.x', table_name=given, page_size=1), 'co"lumn`.x') == [2, 4]
    finally:
        database.execute(f"DROP TABLE {table.sql_name}")


def test_a_table_may_be_qualified_by_its_schema(database):
    name = database.name("people")
    schema = {"postgresql": "public", "mariadb": database.url.database}.get(database.kind, "main")
    Table(database, name, ["id INTEGER"]).fill([(1,), (2,)])
    assert ids(read(database, table_name=f"{schema}.{name}")) == [1, 2]
    assert source(database, table_name=f"{schema}.{name}").total() == 2
    assert ids(read(database, table_name=f'"{schema}"."{name}"')) == [1, 2]


def test_a_table_may_be_qualified_by_its_database_too(database):
    name = database.name("people")
    Table(database, name, ["id INTEGER"]).fill([(1,), (2,)])
    if database.kind in ("sqlite", "mariadb"):
        with pytest.raises(PayarcConfigError, match=r'^table: "a\.b\.c" has three parts'):
            source(database, table_name="a.b.c")
        return
    parts = (database.url.database, "public") if database.kind == "postgresql" else ("test", "main")
    assert ids(read(database, table_name=".".join((*parts, name)))) == [1, 2]
    assert ids(read(database, table_name=".".join(f'"{part}"' for part in (*parts, name)))) == [1, 2]
    assert source(database, table_name=".".join((*parts, name))).total() == 2


@pytest.mark.parametrize("name", ["", ".", "a.b.c.d", '""'])
def test_a_malformed_table_name_is_rejected(database, name):
    with pytest.raises(PayarcConfigError, match=r"^table: "):
        source(database, table_name=name)


# ---- queries -------------------------------------------------------------------------------------------------------


def test_a_query_is_read_in_key_order(database, people):
    name = people(PEOPLE)
    assert ids(read(database, sql=f"SELECT id, name FROM {name} WHERE id > 2 ORDER BY name DESC")) == list(range(3, 11))


def test_a_query_takes_its_parameters_as_a_mapping(database, people):
    name = people(PEOPLE)
    query = f"SELECT * FROM {name} WHERE id >= {mark(database, 'least')} AND name LIKE {mark(database, 'like')}"
    assert ids(read(database, sql=query, parameters={"least": 4, "like": "Person%"}, page_size=2)) == list(range(4, 11))


def test_a_query_takes_its_parameters_as_a_sequence(database, people):
    name = people(PEOPLE)
    query = f"SELECT * FROM {name} WHERE id >= {mark(database)} AND name LIKE {mark(database)}"
    for parameters in ([4, "Person%"], (4, "Person%")):
        assert ids(read(database, sql=query, parameters=parameters, page_size=2)) == list(range(4, 11))


@pytest.mark.parametrize("parameter", ["id", "id_1", "param_1", "payarc_source_query"])
def test_a_querys_own_parameters_may_have_any_name(database, people, parameter):
    name = people(PEOPLE)
    query = f"SELECT * FROM {name} WHERE id <> {mark(database, parameter)}"
    assert ids(read(database, sql=query, parameters={parameter: 5}, page_size=2)) == [1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_percent_signs_mean_themselves_in_a_query_without_parameters(database, people):
    name = people([(1, "50% off"), (2, "none"), (3, "100%"), (4, "%s"), (5, "%(x)s")])
    assert ids(read(database, sql=f"SELECT * FROM {name} WHERE name LIKE '%off' OR name LIKE '1__%'", page_size=1)) == [
        1,
        3,
    ]
    assert ids(read(database, sql=f"SELECT * FROM {name} WHERE name IN ('%s', '%(x)s')", page_size=1)) == [4, 5]
    assert ids(read(database, sql=f"SELECT * FROM {name} WHERE id % 2 = 0", page_size=1)) == [2, 4]


def test_percent_signs_in_a_query_with_parameters_are_doubled_if_the_driver_requires_it(database, people):
    name = people(PEOPLE)
    like = "Person 1%" if mark(database) == "?" else "Person 1%%"
    query = f"SELECT * FROM {name} WHERE name LIKE '{like}' AND id < {mark(database, 'most')}"
    assert ids(read(database, sql=query, parameters={"most": 10}, page_size=1)) == [1]


def test_colons_and_question_marks_in_literals_mean_themselves(database, people):
    name = people([(1, "10:30"), (2, "why?"), (3, ":id"), (4, "other")])
    query = f"SELECT * FROM {name} WHERE name IN ('10:30', 'why?', ':id')"
    assert ids(read(database, sql=query, page_size=1)) == [1, 2, 3]
    query += f" AND id > {mark(database, 'least')}"
    assert ids(read(database, sql=query, parameters={"least": 1}, page_size=1)) == [2, 3]


@pytest.mark.parametrize("end", [";", " ;\n", " -- the end", "\n-- the end\n", " /* the end */", " -- the end;", "\n"])
def test_a_query_may_end_in_a_semicolon_or_a_comment(database, people, end):
    name = people(PEOPLE)
    query = f"SELECT id, name FROM {name} WHERE name <> 'a;--b'{end}"
    assert ids(read(database, sql=query, page_size=4)) == list(range(1, 11))


ENDS = {
    "sqlite": ["id < 5--1", "name <> ';--'", "id < 5 /* + 1 */;"],
    "postgresql": ["id = 7 # 2", "name <> $$;--$$", "name <> $$/*$$", "name <> E'\\';--';", "id < 5--1"],
    "mariadb": ["id < 5--1", "id < 5 /*!50000 + 1 */", "id < 5 # + 1", 'name <> ";--"', "name <> '\\';#';"],
    "duckdb": ["id < 5--1", "name <> $$;--$$", "name <> $$/*$$", "name <> E'\\';--';", "id < 5 // 1"],
}


@pytest.mark.parametrize("number", range(5))
def test_the_end_of_a_query_means_what_it_means_to_the_database(database, people, number):
    """Comments, operators and literals look different in every database."""
    if number >= len(ENDS[database.kind]):
        pytest.skip("fewer examples for this database")
    query = f"SELECT id, name FROM {people(PEOPLE)} WHERE {ENDS[database.kind][number]}"
    expected = sorted(row[0] for row in database.execute(query))
    assert ids(read(database, sql=query)) == expected


def test_a_query_may_have_very_many_literals(database, people):
    listed = ", ".join(f"'Person {number}'" for number in range(20_000))
    query = f"SELECT * FROM {people(PEOPLE)} WHERE name IN ({listed});"
    assert ids(read(database, sql=query)) == list(range(1, 11))


def test_a_query_may_begin_with_comments_and_be_a_with_a_union_or_a_join(database, people):
    name = people(PEOPLE)
    with_query = f"-- people\n/* all */ WITH few AS (SELECT * FROM {name} WHERE id < 4) SELECT * FROM few"
    assert ids(read(database, sql=with_query, page_size=2)) == [1, 2, 3]
    union = f"SELECT id FROM {name} WHERE id < 3 UNION ALL SELECT id FROM {name} WHERE id > 8"
    assert ids(read(database, sql=union, page_size=3)) == [1, 2, 9, 10]
    join = f"SELECT a.id, b.name FROM {name} a JOIN {name} b ON a.id = b.id"
    assert len(read(database, sql=join)) == 10


def test_a_query_may_rename_its_columns(database, people):
    name = people(PEOPLE)
    rows = read(database, "the key", ["the name"], sql=_renamed(database, name))
    assert ids(rows, "the key") == list(range(1, 11))
    assert rows[0]["the name"] == "Person 1"


def _renamed(database, name):
    key, text = (database.quoted(column) for column in ("the key", "the name"))
    return f"SELECT id AS {key}, name AS {text} FROM {name}"


# ---- what is wrong with a source -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "sql"])
@pytest.mark.parametrize(
    ("key", "columns", "text"),
    [
        ("ID_", None, 'key: the source has no column "ID_"; its columns are id, name'),
        (["id", "tenant"], None, 'key: the source has no column "tenant"; its columns are id, name'),
        ("id", ["name", "mail"], 'fields: the source has no column "mail"; its columns are id, name'),
    ],
)
def test_the_error_for_a_missing_column_lists_the_existing_ones(database, people, form, key, columns, text):
    name = people(PEOPLE)
    given = {"table_name": name} if form == "table" else {"sql": f"SELECT * FROM {name}"}
    with pytest.raises(PayarcConfigError) as caught:
        read(database, key, columns, **given)
    assert str(caught.value) == text


def test_the_error_for_a_missing_column_lists_ten_columns_at_most(database):
    name = database.name("wide")
    Table(database, name, [f"c{number} INTEGER" for number in range(12)])
    with pytest.raises(PayarcConfigError) as caught:
        read(database, table_name=name)
    listed = ", ".join(f"c{number}" for number in range(10))
    assert str(caught.value) == f'key: the source has no column "id"; its columns are {listed} and 2 more'


@pytest.mark.parametrize("sql", ["", " ; ", "\n"])
def test_an_empty_query_is_rejected(database, sql):
    with pytest.raises(PayarcConfigError, match=r"^sql: is empty\. Give one query$"):
        source(database, sql=sql)


@pytest.mark.parametrize(
    "sql", ["SELECT 1 AS id; SELECT 2 AS id", "-- nothing", "DELETE FROM {}", "SELECT id FROM {};;"]
)
def test_what_is_not_one_query_is_rejected_by_the_database(database, people, sql):
    name = people(PEOPLE)
    with pytest.raises(PayarcSourceError, match=r"^the source could not be read: "):
        read(database, sql=sql.format(name))
    assert source(database, table_name=name).total() == 10


NO_TABLE = {
    "sqlite": "OperationalError SQLITE_ERROR",
    "postgresql": "UndefinedTable 42P01",
    "mariadb": "ProgrammingError 1146",
    "duckdb": "CatalogException",
}


def test_the_error_for_a_missing_table_names_the_source_and_the_databases_code(database):
    absent = source(database, table_name="no_such_table")
    for call in (absent.total, lambda: list(absent.pages())):
        with pytest.raises(PayarcSourceError) as caught:
            call()
        assert str(caught.value) == (
            f"the source could not be read: {NO_TABLE[database.kind]}. "
            "Fix the source, its connection or its parameters, and run again"
        )


@pytest.mark.parametrize("parameters", [{"other": 1}, [], [1, 2, 3]])
def test_parameters_that_do_not_match_the_query_are_a_source_error(database, people, parameters):
    name = people(PEOPLE)
    placeholder = mark(database, "least" if isinstance(parameters, dict) else None)
    with pytest.raises(PayarcSourceError):
        read(
            database, sql=f"SELECT * FROM {name} WHERE id > {placeholder} AND id < {placeholder}", parameters=parameters
        )


def test_no_error_contains_a_value_from_the_source_or_the_parameters(database, people):
    name = people([(1, "SECRET-NAME"), (2, "SECRET-NAME")])
    cast = "CAST(name AS INTEGER)" if database.kind in ("postgresql", "duckdb") else "no_such_function(name)"
    query = f"SELECT id, {cast} AS name FROM {name} WHERE name <> {mark(database, 'secret')}"
    with pytest.raises(PayarcSourceError) as caught:
        read(database, sql=query, parameters={"secret": "SECRET-PARAMETER"})
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def value_in_error(database):
    """A query whose error quotes a value, in a class of errors that are not about values."""
    name = database.name("speak")
    if database.kind == "sqlite":
        return "SELECT id, CAST(CAST(name AS BLOB) || x'ff' AS TEXT) AS name FROM {}"
    if database.kind == "duckdb":
        return "SELECT id, error(name) AS name FROM {}"
    database.at_end(f"DROP FUNCTION {name}")
    if database.kind == "postgresql":
        body = "BEGIN RAISE EXCEPTION 'no %', said USING DETAIL = said; END"
        database.execute(f"CREATE FUNCTION {name}(said text) RETURNS text LANGUAGE plpgsql AS $${body}$$")
    else:
        body = "BEGIN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = said; RETURN said; END"
        database.execute(f"CREATE FUNCTION {name}(said VARCHAR(50)) RETURNS VARCHAR(50) DETERMINISTIC {body}")
    return f"SELECT id, {name}(name) AS name FROM {{}}"


CODES = {
    "sqlite": "OperationalError (a text that is not valid in the database's encoding)",
    "postgresql": "RaiseException P0001",
    "mariadb": "OperationalError 1644",
    "duckdb": "InvalidInputException",
}


def test_a_value_that_the_database_quotes_is_not_passed_on(database, people):
    query = value_in_error(database).format(people([(1, "SECRET")]))
    with pytest.raises(Exception, match="SECRET"):
        database.execute(query)
    with pytest.raises(PayarcSourceError) as caught:
        read(database, sql=query)
    assert str(caught.value).startswith(f"the source could not be read: {CODES[database.kind]}. ")
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_a_value_that_cannot_be_decoded_is_not_passed_on(sqlite_database):
    Table(sqlite_database, "people", ("id INTEGER", "name TEXT")).fill([(1, b"SECRET\xff")])
    engine = sqlite_database.engine()

    @sa.event.listens_for(engine, "connect")
    def decode(connection, _record):
        connection.text_factory = bytes.decode

    query = "SELECT id, CAST(name AS TEXT) AS name FROM people"
    with pytest.raises(PayarcSourceError, match=r"^the source could not be read: UnicodeDecodeError \(") as caught:
        list(DatabaseSource(engine, ["id"], None, name="the source", sql=query).pages())
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_an_unreachable_database_is_a_source_error(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/no/such/folder/people.db", hide_parameters=True)
    with pytest.raises(PayarcSourceError, match=r"^the source could not be read"):
        list(DatabaseSource(engine, ["id"], None, name="the source", table_name="people").pages())


# ---- batches -------------------------------------------------------------------------------------------------------


def test_a_table_is_cut_into_batches_of_consecutively_numbered_records(database, people):
    batches = Batches(source(database, table_name=people(PEOPLE)), RecordReader("id", None, "secret"), size=4)
    assert batches.total == 10
    read_batches = []
    while (batch := batches.next_batch()) is not None:
        read_batches.append([(record.index, record.key) for record in batch])
    assert read_batches == [
        [(0, "1"), (1, "2"), (2, "3"), (3, "4")],
        [(4, "5"), (5, "6"), (6, "7"), (7, "8")],
        [(8, "9"), (9, "10")],
    ]
    assert (batches.records_read, batches.repeated) == (10, 0)
