"""Sources in databases that are not run here: the SQL that their dialects compile, and that it reads every row once."""

from __future__ import annotations

import dataclasses

import pytest
from warehouse import Warehouse

from payarc_provider.exceptions import PayarcConfigError, PayarcSourceError
from payarc_provider.sync.columns import find_columns
from payarc_provider.sync.database_source import DatabaseSource

WAREHOUSES = {
    "oracle": Warehouse("oracle+oracledb://u:p@h/x", "oracle", capitals=True),
    "mssql": Warehouse("mssql+pymssql://u:p@h/x", "tsql"),
    "redshift": Warehouse("redshift+redshift_connector://u:p@h/x", "redshift"),
    "trino": Warehouse("trino://u@h/c", "trino"),
    "databricks": Warehouse("databricks://token:t@h?http_path=p&catalog=c&schema=s", "databricks"),
    "bigquery": Warehouse("bigquery://project?user_supplied_client=true", "bigquery"),
    "snowflake": Warehouse("snowflake://u:p@account/db/crm", "snowflake", capitals=True),
}
PEOPLE = [(number, f"Person {number}") for number in (7, 3, 1, 9, 4, 8, 2, 6, 5, 10)]


@pytest.fixture(params=WAREHOUSES)
def warehouse(request):
    """Each dialect in turn, with ten people."""
    warehouse = dataclasses.replace(WAREHOUSES[request.param], statements=[])
    warehouse.name = request.param
    warehouse.shared = warehouse.engine()
    warehouse.create("people", PEOPLE)
    yield warehouse
    warehouse.shared.dispose()


def source(warehouse, key="id", columns=None, **options):
    options.setdefault("page_size", 3)
    return DatabaseSource(warehouse.shared, [key], columns, name="the source", **options)


def read(warehouse, *arguments, **options):
    return [row for page in source(warehouse, *arguments, **options).pages() for row in page]


def ids(rows, column="id"):
    return [row[column] for row in rows]


# ---- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["people", "crm.people", "db.crm.people"])
def test_every_row_of_a_table_is_read_once(warehouse, table):
    assert read(warehouse, table_name=table) == [{"id": one, "name": f"Person {one}"} for one in range(1, 11)]
    assert source(warehouse, table_name=table).total() == 10


@pytest.mark.parametrize("page_size", [1, 4, 10, 100])
def test_every_row_of_a_query_is_read_once(warehouse, page_size):
    assert ids(read(warehouse, sql="SELECT * FROM crm.people;", page_size=page_size)) == list(range(1, 11))


def test_rows_without_a_key_are_read_page_by_page(warehouse):
    warehouse.storage.execute("DELETE FROM db.crm.people")
    warehouse.storage.execute("INSERT INTO db.crm.people SELECT NULL, 'Person ' || n FROM range(10) t(n)")
    assert len(read(warehouse, table_name="crm.people")) == 10
    assert len(read(warehouse, sql="SELECT * FROM crm.people")) == 10


# ---- placeholders --------------------------------------------------------------------------------------------------

LISTED = {"oracle": (":1", ":2"), "trino": ("?", "?"), "databricks": ("?", "?")}
NAMED = {"oracle": ":{}", "databricks": ":{}"}


@pytest.mark.parametrize("kind", [list, tuple])
def test_parameters_may_be_a_sequence(warehouse, kind):
    first, second = LISTED.get(warehouse.name, ("%s", "%s"))
    query = f"SELECT * FROM crm.people WHERE id >= {first} AND id <> {second}"
    assert ids(read(warehouse, sql=query, parameters=kind([4, 6]))) == [4, 5, 7, 8, 9, 10]


@pytest.mark.parametrize("name", ["least", "param_1", "payarc_source_query"])
def test_parameters_may_be_a_mapping_where_the_driver_has_names(warehouse, name):
    placeholder = NAMED.get(warehouse.name, "%({})s").format(name)
    query = f"SELECT * FROM crm.people WHERE id >= {placeholder}"
    if warehouse.name not in ("trino", "redshift"):
        assert ids(read(warehouse, sql=query, parameters={name: 4})) == [4, 5, 6, 7, 8, 9, 10]
        return
    mark = "?" if warehouse.name == "trino" else "%s"
    with pytest.raises(PayarcConfigError) as caught:
        read(warehouse, sql=query, parameters={name: 4})
    assert str(caught.value) == (
        f"parameters: the driver for {warehouse.name} has no named placeholders. Use {mark} in sql, and a list"
    )
    assert warehouse.statements == []


def test_percent_signs_mean_themselves_in_a_query_without_parameters(warehouse):
    assert ids(read(warehouse, sql="SELECT * FROM crm.people WHERE name LIKE '%1%'")) == [1, 10]


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["id", "ID", "Id"])
def test_any_spelling_of_a_name_means_the_stored_one(warehouse, key):
    assert ids(read(warehouse, key, ["Name"], table_name="crm.people"), key) == list(range(1, 11))
    assert ids(read(warehouse, key, ["Name"], sql="SELECT * FROM crm.people"), key) == list(range(1, 11))


def test_names_that_may_mean_the_same_are_not_guessed(warehouse):
    with pytest.raises(PayarcConfigError, match=r"^the source has more than one column named name\. "):
        find_columns(["ID", "NAME", "name"], {"key": ["id"]}, ["name", "email"], warehouse.shared.dialect)


QUOTES = {"mssql": "[]", "databricks": "``", "bigquery": "``"}


def test_the_parts_of_a_tables_name_are_quoted_one_by_one(warehouse):
    first, last = QUOTES.get(warehouse.name, '""')
    parts = [f"{first}{warehouse.stored(part)}{last}" for part in ("db", "crm", "people")]
    read(warehouse, table_name="db.crm.people")
    assert all(f"FROM {'.'.join(parts)}" in statement for statement in warehouse.statements)


def test_quoted_parts_keep_their_case(warehouse):
    first, last = QUOTES.get(warehouse.name, '""')
    parts = [f"{first}{part}{last}" for part in ("my db", "crm", "odd.Name")]
    clause = source(warehouse, table_name='"my db"."crm"."odd.Name"')._relation.clause
    assert clause.select().compile(warehouse.shared).string.endswith(".".join(parts))


# ---- the form of the statements ------------------------------------------------------------------------------------

LIMITS = {
    "oracle": ("FETCH FIRST 3 ROWS ONLY", "OFFSET 3 ROWS\n FETCH FIRST 4 ROWS ONLY"),
    "mssql": ("SELECT TOP 3 ", "OFFSET 3 ROWS\n FETCH FIRST 4 ROWS ONLY"),
    "trino": ("LIMIT 3", "OFFSET 3\nLIMIT 4"),
}


def test_limits_are_numbers_in_the_dialects_own_form(warehouse):
    warehouse.storage.execute("INSERT INTO db.crm.people SELECT NULL, 'x' FROM range(7)")
    read(warehouse, sql="SELECT * FROM crm.people")
    for limit in LIMITS.get(warehouse.name, ("LIMIT 3", "LIMIT 4 OFFSET 3")):
        assert any(limit in statement for statement in warehouse.statements), limit
    written = "\n".join(warehouse.statements)
    assert "OFFSET 0" not in written
    assert " AS payarc" not in written
    assert all(int(word) < 2**31 for word in written.split() if word.isdigit()), "Redshift's largest limit"


def test_only_needed_columns_are_selected_after_the_first_statement(warehouse):
    read(warehouse, columns=[], table_name="crm.people")
    assert "*" in warehouse.statements[0]
    assert not any("*" in statement for statement in warehouse.statements[1:])
    assert not any(warehouse.stored("name") in statement for statement in warehouse.statements)


# ---- SQL Server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warehouse", ["mssql"], indirect=True)
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (156, b"Incorrect syntax near the keyword 'WITH'."),
        (319, b"Incorrect syntax near the keyword 'with'. If this statement is a common table expression, ..."),
        (1033, b"The ORDER BY clause is invalid in views, inline functions, derived tables, subqueries, ..."),
    ],
)
def test_what_sql_server_does_not_have_in_a_subquery_is_an_error_with_the_remedy(warehouse, number, said):
    warehouse.error = warehouse.shared.dialect.dbapi.ProgrammingError(number, said)
    with pytest.raises(PayarcConfigError) as caught:
        read(warehouse, sql="WITH few AS (SELECT 1 AS id) SELECT * FROM few")
    assert str(caught.value) == (
        "sql: SQL Server reads it as a subquery, which has neither WITH nor an ORDER BY without TOP. "
        "Create a view with the query and read it with table"
    )
    with pytest.raises(PayarcSourceError):
        read(warehouse, table_name="crm.people")


@pytest.mark.parametrize("warehouse", ["mssql"], indirect=True)
def test_a_column_that_sql_server_refuses_to_have_twice_is_named(warehouse):
    said = b"The column 'name' was specified multiple times for 'payarc_source_query'."
    warehouse.error = warehouse.shared.dialect.dbapi.ProgrammingError(8156, said)
    with pytest.raises(PayarcConfigError, match=r"^the source has more than one column named name"):
        read(warehouse, sql="SELECT p.*, c.name FROM crm.people p JOIN crm.companies c ON 1 = 1")
