"""Only the needed columns of a source are read, and a needed name means one column."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from source_tables import SOURCE_KINDS, Table, ids, read, source

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.sources import Batches

KINDS = SOURCE_KINDS

REPEATED = r"^the source has more than one column named {}\. List the columns in sql and rename them with AS"


@pytest.fixture
def join(database, people):
    """A join of people and their companies, which both have an id, a name and an email."""
    columns = ("id INTEGER", "name VARCHAR(20)", "email VARCHAR(20)", "company INTEGER")
    staff = people([(1, "Person A", "a@example.com", 10), (2, "Person B", "b@example.com", 10)], *columns)
    companies = people([(10, "Company", "c@example.com", 0)], *columns)
    return f"SELECT {{}} FROM {staff} p JOIN {companies} c ON p.company = c.id"


@pytest.mark.parametrize("page_size", [1, 10])
def test_a_needed_column_that_occurs_twice_is_an_error(database, join, page_size):
    with pytest.raises(PayarcConfigError, match=REPEATED.format("name")):
        read(database, sql=join.format("p.*, c.name"), page_size=page_size)


def test_the_key_may_not_occur_twice_either(database, join):
    with pytest.raises(PayarcConfigError, match=REPEATED.format("id")):
        read(database, columns=["name"], sql=join.format("p.id, p.name, c.id"))


def test_the_error_lists_all_names_that_occur_twice(database, join):
    if database.kind == "mariadb":
        pytest.skip("MariaDB itself rejects such a query, and names the first column only")
    with pytest.raises(PayarcConfigError, match=REPEATED.format("id, name, email")):
        read(database, sql=join.format("*"))


def test_names_that_differ_in_case_are_one_column_where_the_database_says_so(database, join):
    query = join.format(f"p.id, p.name, c.name AS {database.quoted('NAME')}")
    if database.kind == "postgresql":
        assert [row["name"] for row in read(database, sql=query)] == ["Person A", "Person B"]
    else:
        with pytest.raises(PayarcConfigError, match=r"^the source has more than one column named (name|NAME)\."):
            read(database, sql=query)


def test_columns_that_occur_twice_and_are_not_needed_are_left_out(database, join):
    if database.kind == "mariadb":
        pytest.skip("MariaDB rejects every such query")
    rows = read(database, columns=["email"], sql=join.format("p.id, p.email, p.name, c.name"))
    assert rows == [{"id": 1, "email": "a@example.com"}, {"id": 2, "email": "b@example.com"}]


def test_renamed_columns_are_read(database, join):
    rows = read(database, sql=join.format("p.id, p.name, c.name AS company_name"))
    assert rows == [{"id": 1, "name": "Person A"}, {"id": 2, "name": "Person B"}]


@pytest.mark.parametrize("form", ["table", "sql"])
def test_only_the_key_and_the_mapped_columns_are_selected(database, people, form):
    name = people([(1, "x", "a", "b"), (2, "y", "c", "d")], "id INTEGER", "mail TEXT", "name TEXT", "note TEXT")
    given = {"table_name": name} if form == "table" else {"sql": f"SELECT * FROM {name}"}
    assert read(database, columns=["mail"], **given) == [{"id": 1, "mail": "x"}, {"id": 2, "mail": "y"}]
    assert read(database, columns=[], **given) == [{"id": 1}, {"id": 2}]
    assert read(database, **given) == [{"id": 1, "name": "a"}, {"id": 2, "name": "c"}], "the names of PayArc's fields"


def test_values_that_the_driver_cannot_read_do_no_harm_in_other_columns(database, people):
    """Dates after the year 9999, and text that is not valid UTF-8."""
    name = people([(1, "Person A")])
    if database.kind == "postgresql":
        added, value = "joined DATE", "'infinity'"
    elif database.kind == "mariadb":
        added, value = "joined TIME", "'838:59:59'"
    else:
        added, value = "joined TEXT", "CAST(x'ff' AS TEXT)"
    database.execute(f"ALTER TABLE {name} ADD COLUMN {added}")
    database.execute(f"UPDATE {name} SET joined = {value}")
    assert read(database, table_name=name) == [{"id": 1, "name": "Person A"}]


@pytest.mark.parametrize("fields", [None, ["name"]])
def test_a_user_who_may_read_only_some_columns_reads_them(database, people, fields):
    if database.kind in ("sqlite", "duckdb"):
        pytest.skip("this database has no users")
    given = [(2, "B", "x", "y"), (1, "A", "x", "y")]
    name = people(given, "id INT", "name TEXT", "phone TEXT", "salary TEXT")
    if database.kind == "postgresql":
        database.execute("CREATE USER clerk PASSWORD 'clerk'")
        database.at_end("DROP OWNED BY clerk; DROP USER clerk")
        user = "clerk"
    else:
        database.execute("CREATE USER clerk@'%' IDENTIFIED BY 'clerk'")
        database.at_end("DROP USER clerk@'%'")
        user = "clerk@'%'"
    database.execute(f"GRANT SELECT (id, name) ON {name} TO {user}")
    engine = sa.create_engine(database.url.set(username="clerk", password="clerk"), poolclass=sa.pool.NullPool)
    rows = [row for page in DatabaseSource(engine, ["id"], fields, name="s", table_name=name).pages() for row in page]
    assert rows == [{"id": 1, "name": "A"}, {"id": 2, "name": "B"}]
    assert DatabaseSource(engine, ["id"], fields, name="s", table_name=name).total() == 2
    with pytest.raises(PayarcConfigError, match=r'"salary"; its columns are id, name$'):
        list(DatabaseSource(engine, ["id"], ["salary"], name="s", table_name=name).pages())


def test_names_are_matched_by_the_databases_case_rule(database):
    name = database.name("people")
    Table(database, name, ["Id INTEGER", "Email VARCHAR(20)"]).fill([(1, "a@example.com")])
    if database.kind == "postgresql":
        assert ids(read(database, "Id", table_name=name), "Id") == [1]
        with pytest.raises(PayarcConfigError, match=r'^key: the source has no column "id"; its columns are Id, Email$'):
            read(database, table_name=name)
    else:
        assert read(database, table_name=name) == [{"id": 1, "email": "a@example.com"}]
        assert read(database, "ID", ["EMAIL"], table_name=name) == [{"ID": 1, "EMAIL": "a@example.com"}]


def test_a_column_that_resembles_a_field_is_noticed_although_it_is_not_read(database, people):
    name = people([(1, "Person A", "y")], "id INTEGER", "name TEXT", "e_mail TEXT")
    reader = RecordReader("id", None, "secret")
    batches = Batches(source(database, table_name=name), reader, size=10)
    assert [record.fields for record in batches.next_batch()] == [{"name": "Person A"}]
    assert reader.lookalike_columns == {"e_mail": "email"}
