"""``write_back``: a column of the table receives the id of each record's customer, and nothing else is changed."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from engine_bench import QUICK, Bench, people
from source_tables import Table, mark

from payarc_provider.exceptions import PayarcConfigError, PayarcSourceError
from payarc_provider.sync import id_column, write_back
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.id_column import SourceLocked

COLUMNS = ("id INTEGER", "name VARCHAR(50)", "email VARCHAR(50)", "payarc_id VARCHAR(64)")
BACK = dataclasses.replace(QUICK, write_back="payarc_id")


@pytest.fixture
def crm(database):
    """Create a table of people whose ids are unknown, and return its name."""

    def make(rows, *columns):
        name = database.name("people")
        Table(database, name, columns or COLUMNS).fill(rows)
        return name

    return make


def rows_of(count, first=0):
    return [(row["id"], row["name"], row["email"], None) for row in people(count, first)]


def source(database, table, settings=BACK, engine=None, **options):
    key = [settings.key] if isinstance(settings.key, str) else settings.key
    options.setdefault("page_size", 10)
    return DatabaseSource(
        engine or database.engine(),
        key,
        None,
        name=f"table {table}",
        table_name=table,
        version=settings.version,
        write_back=settings.write_back,
        **options,
    )


def run(bench, table, settings=BACK, **options):
    given = {name: options.pop(name) for name in ("run_id", "on_start") if name in options}
    return bench.run(source(bench.database, table, settings, **options), settings, **given)


def expect_ids(bench, table):
    """Check that each row has the id of the customer with its email."""
    customers = {customer["email"]: customer["customer_id"] for customer in bench.sandbox.customers()}
    found = dict(bench.database.execute(f"SELECT email, payarc_id FROM {table}"))
    assert found == {email: customers.get(email) for email in found}
    return found


# ---- what is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 130])
def test_each_row_receives_the_id_of_its_customer_and_the_next_run_writes_nothing(bench, crm, count):
    table = crm(rows_of(count))
    first = run(bench, table).ok()
    assert all(expect_ids(bench, table).values())
    assert first.results.summary["written_back"] == count
    again = run(bench, table, run_id="run 2").ok()
    assert (again.results.summary["written_back"], again.requests) == (0, {})


def test_known_customers_and_wrong_ids_are_caught_up_with(bench, crm):
    table = crm(rows_of(40))
    assert run(bench, table, QUICK).ok().results.summary["written_back"] == 0
    assert set(expect_nothing(bench, table)) == {None}
    wrong = ["KPxMADVnxMV4nNjp", "", " "]
    for number, value in enumerate(wrong):
        bench.database.execute(f"UPDATE {table} SET payarc_id = '{value}' WHERE id = {number}")
    outcome = run(bench, table, run_id="run 2").ok()
    assert (outcome.counts["written_back"], outcome.requests) == (40, {})
    expect_ids(bench, table)


def expect_nothing(bench, table):
    return [value for (value,) in bench.database.execute(f"SELECT payarc_id FROM {table}")]


def test_rejected_records_keep_what_they_have(bench, crm):
    rows = [*rows_of(3), (3, "Jo", "j3@example.com", "mine"), (4, "John Smith", "taken@example.com", None)]
    bench.sandbox.settings(taken={"email": ["taken@example.com"]})
    table = crm([*rows, (None, "John Smith", "none@example.com", "too")])
    outcome = run(bench, table).ok()
    assert (outcome.counts["rejected"], outcome.counts["written_back"]) == (3, 3)
    values = dict(bench.database.execute(f"SELECT email, payarc_id FROM {table}"))
    kept = {email: values[email] for email in ("j3@example.com", "taken@example.com", "none@example.com")}
    assert kept == {"j3@example.com": "mine", "taken@example.com": None, "none@example.com": "too"}


def test_a_dry_run_writes_nothing(bench, crm):
    table = crm(rows_of(5))
    run(bench, table, QUICK).ok()
    run(bench, table, dataclasses.replace(BACK, dry_run=True)).ok()
    assert expect_nothing(bench, table) == [None] * 5


def test_a_partition_writes_its_own_rows(bench, crm):
    table = crm(rows_of(40))
    first = run(bench, table, dataclasses.replace(BACK, partition=(0, 2))).ok()
    assert first.counts["written_back"] == len(first.ids) < 40
    assert len([value for value in expect_nothing(bench, table) if value]) == len(first.ids)
    run(bench, table, dataclasses.replace(BACK, partition=(1, 2))).ok()
    assert all(expect_ids(bench, table).values())


def test_all_rows_of_a_key_receive_the_id_even_if_only_some_lack_it(bench, crm):
    table = crm([*rows_of(70), *rows_of(70), *rows_of(70)])
    outcome = run(bench, table).ok()
    assert (outcome.results.summary["repeated"], outcome.counts["written_back"]) == (140, 210)
    assert None not in expect_nothing(bench, table)
    bench.database.execute(f"UPDATE {table} SET payarc_id = NULL WHERE id < 10")
    bench.database.execute(f"INSERT INTO {table} SELECT id, name, email, NULL FROM {table} WHERE id BETWEEN 10 AND 11")
    outcome = run(bench, table, run_id="run 2").ok()
    assert outcome.counts["written_back"] == 30 + 2 * 3
    assert None not in expect_nothing(bench, table)
    expect_ids(bench, table)


def test_rows_whose_keys_differ_only_for_the_database_receive_the_id(bench, crm):
    if bench.database.kind == "mariadb":
        pytest.skip("MariaDB takes them for one key")
    people_rows = [(f"{number}{blank}", "John Smith", f"j{number}@example.com", None)
                   for blank in ("", " ") for number in range(30)]  # fmt: skip
    table = crm(people_rows, "id VARCHAR(9)", *COLUMNS[1:])
    outcome = run(bench, table).ok()
    assert outcome.counts["written_back"] == 60
    assert None not in expect_nothing(bench, table)


# ---- keys and names ------------------------------------------------------------------------------------------------

KEYS = {
    "integer": ("BIGINT", [1, -2, 2**40]),
    "decimal": ("DECIMAL(20, 4)", [decimal.Decimal("4.5000"), decimal.Decimal("42"), decimal.Decimal("-0.0001")]),
    "text": ("VARCHAR(40)", ["A-1", " b", "O'Hara %s :x ?", "Zoë 🦊", "007"]),
    "char": ("CHAR(10)", ["A-1", "b"]),
    "date": ("DATE", [datetime.date(2026, 1, 2), datetime.date(1, 1, 1)]),
    "uuid": ("UUID", [str(uuid.UUID(int=number)) for number in (1, 2**127)]),
    "moment": ("TIMESTAMP", [datetime.datetime(2026, 1, 2, 3, 4, 5), datetime.datetime(2026, 1, 2, 3, 4, 6)]),
    "fraction": ("DATETIME(6)", [datetime.datetime(2026, 1, 2, 3, 4, 5, 123456), datetime.datetime(2026, 1, 2)]),
    "zoned": ("TIMESTAMPTZ", ["2026-01-02 03:04:05.123456+02", "2026-01-02 03:04:05+00"]),
    "enum": ("ENUM('zeta', 'beta')", ["zeta", "beta"]),
}
NOT_IN = {
    "sqlite": {"decimal", "date", "uuid", "moment", "fraction", "zoned", "enum"},
    "postgresql": {"fraction", "enum"},
    "mariadb": {"zoned"},
}


@pytest.mark.parametrize("kind", KEYS)
def test_rows_are_found_by_their_keys_as_the_database_has_them(bench, crm, kind):
    if kind in NOT_IN[bench.database.kind]:
        pytest.skip("a type of other databases")
    declared, values = KEYS[kind]
    rows = [(value, "John Smith", f"j{number}@example.com", None) for number, value in enumerate(values)]
    table = crm(rows, f"id {declared}", *COLUMNS[1:])
    assert run(bench, table).ok().counts["written_back"] == len(values)
    assert all(expect_ids(bench, table).values())


def test_a_key_of_several_columns_of_different_types(bench, crm):
    rows = [(t, n, "John Smith", f"{t}{n}@example.com", None) for t in ("eu", "us") for n in range(60)]
    table = crm(rows, "tenant VARCHAR(5)", *COLUMNS)
    outcome = run(bench, table, dataclasses.replace(BACK, key=("tenant", "id"))).ok()
    assert outcome.counts["written_back"] == 120
    assert all(expect_ids(bench, table).values())


def test_names_with_any_characters_and_a_named_schema(bench):
    database = bench.database
    schema = {"sqlite": "main", "postgresql": "public"}.get(database.kind, database.url.database)
    bare = database.name('Odd "people"')
    names = ("Order", 'cus"t %s :id')
    Table(database, bare, [(names[0], "INTEGER"), *(c.split(" ") for c in COLUMNS[1:3]), (names[1], "VARCHAR(64)")])
    quoted = database.quoted(bare)
    database.execute(f"INSERT INTO {quoted} VALUES (7, 'John Smith', 'j7@example.com', NULL)")
    settings = dataclasses.replace(BACK, key=names[0], write_back=names[1])
    table = f"""{schema}.{'"' + bare.replace('"', '""') + '"'}"""
    outcome = run(bench, table, settings).ok()
    assert [row[3] for row in database.execute(f"SELECT * FROM {quoted}")] == outcome.ids


def test_the_case_of_the_columns_name_follows_the_database(bench, crm):
    if bench.database.kind == "postgresql":
        pytest.skip("PostgreSQL distinguishes names by case")
    table = crm(rows_of(3))
    run(bench, table, dataclasses.replace(BACK, write_back="PayArc_ID")).ok()
    assert all(expect_ids(bench, table).values())


def test_a_fixed_width_column_is_not_written_again_for_its_padding(bench, crm):
    table = crm(rows_of(3), *COLUMNS[:3], "payarc_id CHAR(40)")
    assert run(bench, table).ok().counts["written_back"] == 3
    assert run(bench, table, run_id="run 2").ok().counts["written_back"] == 0


def test_keys_that_the_database_takes_for_equal_fail_the_run(bench, crm):
    column = {
        "sqlite": "id VARCHAR(9) COLLATE NOCASE",
        "postgresql": "id VARCHAR(9) COLLATE insensitive",
        "mariadb": "id VARCHAR(9) COLLATE utf8mb4_general_ci",
    }[bench.database.kind]
    if bench.database.kind == "postgresql":
        try:
            bench.database.execute(
                "CREATE COLLATION insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            )
        except bench.database.shared.dialect.dbapi.Error:
            pytest.skip("this PostgreSQL was built without ICU, which has collations without case")
        bench.database.at_end("DROP COLLATION insensitive")
    table = crm([("a", "John Smith", "j1@example.com", None), ("A", "John Smith", "j2@example.com", None)],
                column, *COLUMNS[1:])  # fmt: skip
    for number in range(2):
        outcome = run(bench, table, run_id=f"run {number}")
        assert isinstance(outcome.error, PayarcSourceError)
        assert "does not keep its id" in str(outcome.error)
    assert expect_nothing(bench, table) == [None, None]


# ---- before anything is sent ---------------------------------------------------------------------------------------


def refused(bench, table, settings=BACK, **options):
    outcome = run(bench, table, settings, **options)
    assert isinstance(outcome.error, PayarcConfigError)
    assert bench.sandbox.log() == []
    assert bench.states() == {}
    assert len(str(outcome.error)) <= 250
    return str(outcome.error)


def test_a_missing_column_is_named(bench, crm):
    message = refused(bench, crm(rows_of(3)), dataclasses.replace(BACK, write_back="customer"))
    assert 'write_back: the source has no column "customer"; its columns are id, name' in message


@pytest.mark.parametrize("name", ["id", "version", "name", "email"])
def test_a_column_that_is_read_for_something_else_cannot_receive_ids(bench, crm, name):
    table = crm([(1, "John Smith", "j1@example.com", "2026-01-01")], *COLUMNS[:3], "version VARCHAR(20)")
    settings = dataclasses.replace(BACK, write_back=name, version="version")
    assert f'write_back: the column "{name}" is the key, the version or a field' in refused(bench, table, settings)


@pytest.mark.parametrize("declared", ["VARCHAR(15)", "INTEGER", "DATE", "BLOB"])
def test_a_column_that_cannot_take_ids_is_refused(bench, crm, declared):
    if declared == "BLOB" and bench.database.kind == "postgresql":
        declared = "BYTEA"
    message = refused(bench, crm(rows_of(3), *COLUMNS[:3], f"payarc_id {declared}"))
    assert "Make it VARCHAR(64)" in message
    assert ("room for 15 characters" if declared == "VARCHAR(15)" else "has the type") in message


def test_enumerations_are_no_text(bench, crm):
    if bench.database.kind != "mariadb":
        pytest.skip("only MariaDB and MySQL declare them in a column")
    for declared in ("ENUM('a', 'b')", "SET('a', 'b')"):
        assert "has the type" in refused(bench, crm(rows_of(3), *COLUMNS[:3], f"payarc_id {declared}"))


@pytest.mark.parametrize("columns", ["(name)", None], ids=["on another column", "on none"])
def test_a_role_without_update_stops_the_run(bench, crm, columns):
    database = bench.database
    if database.kind == "sqlite":
        pytest.skip("SQLite has no roles")
    table = crm(rows_of(3))
    user = "clerk2" if database.kind == "postgresql" else "clerk2@'%'"
    password = "PASSWORD" if database.kind == "postgresql" else "IDENTIFIED BY"
    database.execute(f"CREATE USER {user} {password} 'clerk'")
    database.at_end(f"DROP USER {user}")
    if database.kind == "postgresql":
        database.at_end("DROP OWNED BY clerk2")
    database.execute(f"GRANT SELECT ON {table} TO {user}")
    if columns:
        database.execute(f"GRANT UPDATE {columns} ON {table} TO {user}")
    engine = sa.create_engine(database.url.set(username="clerk2", password="clerk"), hide_parameters=True)
    with contextlib.ExitStack() as stack:
        stack.callback(engine.dispose)
        message = refused(bench, table, engine=engine)
        assert 'does not let its column "payarc_id" be updated' in message
        assert ("42501" if database.kind == "postgresql" else "114") in message
        database.execute(f"GRANT UPDATE (payarc_id) ON {table} TO {user}")
        run(bench, table, engine=engine).ok()
    assert all(expect_ids(bench, table).values())


def test_a_view_that_cannot_be_updated_stops_the_run(bench, crm):
    view = bench.database.name("view")
    bench.database.execute(f"CREATE VIEW {view} AS SELECT DISTINCT * FROM {crm(rows_of(3))}")
    bench.database.at_end(f"DROP VIEW {view}")
    assert "does not let its column" in refused(bench, view)


def test_a_view_that_can_be_updated_is_fine(bench, crm):
    if bench.database.kind == "sqlite":
        pytest.skip("SQLite's views cannot be updated")
    table, view = crm(rows_of(3)), bench.database.name("view")
    bench.database.execute(f"CREATE VIEW {view} AS SELECT * FROM {table}")
    bench.database.at_end(f"DROP VIEW {view}")
    run(bench, view).ok()
    assert all(expect_ids(bench, table).values())


def test_a_file_that_cannot_be_written_stops_the_run(sqlite_bench, tmp_path):
    database = sqlite_bench.database
    table = database.name("people")
    Table(database, table, COLUMNS).fill(rows_of(3))
    engine = sa.create_engine(f"sqlite:///file:{database.url.database}?mode=ro&uri=true")
    message = refused(sqlite_bench, table, engine=engine)
    engine.dispose()
    assert "SQLITE_READONLY" in message


def test_only_a_table_can_receive_ids(sqlite_bench):
    outcome = sqlite_bench.run(people(1), BACK)
    assert str(outcome.error) == "write_back: only a table can receive ids. Read one with table, or remove write_back"


# ---- while the run goes on -----------------------------------------------------------------------------------------


def test_ids_are_written_while_the_run_goes_on(sqlite_bench, monkeypatch, listen):
    monkeypatch.setattr(write_back, "GATHER_SECONDS", 0.01)
    database = sqlite_bench.database
    table = database.name("people")
    Table(database, table, COLUMNS).fill(rows_of(200))
    seen = set()
    listen(lambda name: seen.add(len([value for value in expect_nothing(sqlite_bench, table) if value]))
           if name == "before_record" else None)  # fmt: skip
    run(sqlite_bench, table).ok()
    assert len(seen) > 2


@pytest.mark.parametrize("change", ["deleted", "written by another run"])
def test_a_row_that_changes_while_the_run_goes_on_stops_nothing(bench, crm, listen, change):
    table = crm(rows_of(3))

    def disturb(name):
        if name == "before_write_back":
            statement = f"DELETE FROM {table} WHERE id = 1"
            if change != "deleted":
                ids = {one["email"]: one["customer_id"] for one in bench.sandbox.customers()}
                statement = f"UPDATE {table} SET payarc_id = '{ids['j1@example.com']}' WHERE id = 1"
            bench.database.execute(statement)

    listen(disturb)
    outcome = run(bench, table).ok()
    assert len(outcome.ids) == 3
    assert all(expect_ids(bench, table).values())


def test_a_row_that_is_there_and_cannot_be_found_fails_the_run(sqlite_bench, monkeypatch):
    database = sqlite_bench.database
    table = database.name("people")
    Table(database, table, COLUMNS).fill(rows_of(3))
    original = id_column._Slot.parameters

    def lose(slot, missing):
        if missing.key == "1":  # as a driver does that sends a key back in another form
            missing = dataclasses.replace(missing, rows=dataclasses.replace(missing.rows, key=("one",)))
        return original(slot, missing)

    monkeypatch.setattr(id_column._Slot, "parameters", lose)
    outcome = run(sqlite_bench, table)
    assert str(outcome.error).startswith("write_back: 1 row of the table could not be found by the key that was read")
    monkeypatch.undo()
    assert run(sqlite_bench, table).ok().counts["written_back"] == 1


def test_a_database_that_does_not_keep_the_ids_fails_the_run(bench, crm):
    table = crm(rows_of(3))
    veto = {
        "sqlite": f"CREATE TRIGGER veto AFTER UPDATE ON {table} BEGIN UPDATE {table} SET payarc_id = 'x'; END",
        "mariadb": f"CREATE TRIGGER veto BEFORE UPDATE ON {table} FOR EACH ROW SET NEW.payarc_id = OLD.payarc_id",
        "postgresql": f"CREATE TRIGGER veto BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION veto()",
    }
    if bench.database.kind == "postgresql":
        bench.database.execute("CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        bench.database.at_end("DROP FUNCTION veto() CASCADE")
    bench.database.execute(veto[bench.database.kind])
    outcome = run(bench, table)
    assert isinstance(outcome.error, PayarcSourceError)
    assert 'does not keep its id in the column "payarc_id"' in str(outcome.error)
    assert len(bench.sandbox.customers()) == 3


def test_a_locked_table_is_waited_for(bench, crm, monkeypatch, listen):
    monkeypatch.setitem(id_column._LOCK_LIMITS, "sqlite", ["PRAGMA busy_timeout = 50", "BEGIN IMMEDIATE"])
    monkeypatch.setitem(id_column._LOCK_LIMITS, "postgresql", ["SET LOCAL lock_timeout = '50ms'"])
    table = crm(rows_of(3))
    holder = bench.database.shared.connect()
    tries = []

    def hold(name):
        if name == "before_write_back":
            tries.append(name)
            if len(tries) == 1:
                if bench.database.kind == "sqlite":
                    holder.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    holder.exec_driver_sql(f"UPDATE {table} SET name = 'Locked' WHERE id = 1")
            else:
                holder.rollback()

    if bench.database.kind == "mariadb":
        monkeypatch.setitem(id_column._LOCK_LIMITS, "mariadb", ["SET SESSION innodb_lock_wait_timeout = 1"])
        monkeypatch.setitem(id_column._LOCK_LIMITS, "mysql", ["SET SESSION innodb_lock_wait_timeout = 1"])
    listen(hold)
    run(bench, table).ok()
    holder.close()
    assert len(tries) == 2
    assert all(expect_ids(bench, table).values())


def test_a_table_that_stays_locked_fails_the_run_and_the_next_one_catches_up(sqlite_bench, monkeypatch):
    database = sqlite_bench.database
    table = database.name("people")
    Table(database, table, COLUMNS).fill(rows_of(3))
    with monkeypatch.context() as patch:
        patch.setattr(id_column.IdColumn, "write", lambda *_: (_ for _ in ()).throw(SourceLocked("locked")))
        outcome = run(sqlite_bench, table, dataclasses.replace(BACK, ledger_patience=0.2))
    assert isinstance(outcome.error, SourceLocked)
    assert sqlite_bench.nothing_is_leased()
    again = run(sqlite_bench, table).ok()
    assert (again.counts["written_back"], again.requests) == (3, {})


def test_parallel_runs_write_each_id_once(bench, crm):
    """Both read the table before any id is there, and write in transactions of their own."""
    bench.sandbox.settings(latency=0.01)
    table = crm(rows_of(80))
    settings = dataclasses.replace(BACK, timeout=2, settle=2, lease=3.2, batch_size=10, concurrency=4)
    both = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(run, bench, table, settings, run_id=name, on_start=lambda _: both.wait()) for name in ("a", "b")
        ]
        first, second = [future.result(60).ok() for future in futures]
    assert len(bench.sandbox.customers()) == 80
    assert first.counts["created"] + second.counts["created"] == 80
    assert all(expect_ids(bench, table).values())
    assert run(bench, table, run_id="c").ok().counts["written_back"] == 0


def test_a_deferred_run_writes_what_it_has(sqlite_bench):
    database = sqlite_bench.database
    table = database.name("people")
    Table(database, table, COLUMNS).fill(rows_of(20))
    sqlite_bench.sandbox.settings(rate_limit=10, rate_window=60)
    outcome = run(sqlite_bench, table, dataclasses.replace(BACK, defer_after=1.0))
    assert isinstance(outcome.error, Deferral)
    ids = expect_nothing(sqlite_bench, table)
    assert 0 < len([value for value in ids if value]) == len(sqlite_bench.sandbox.customers()) < 20


# ---- versions and triggers -----------------------------------------------------------------------------------------


def test_a_trigger_that_sets_the_version_causes_no_change_of_the_customer(bench, crm):
    table = crm([(*row, 1) for row in rows_of(30)], *COLUMNS, "v INTEGER")
    trigger = {
        "sqlite": f"CREATE TRIGGER touch AFTER UPDATE OF payarc_id ON {table} "
        f"BEGIN UPDATE {table} SET v = OLD.v + 1 WHERE id = NEW.id; END",
        "mariadb": f"CREATE TRIGGER touch BEFORE UPDATE ON {table} FOR EACH ROW SET NEW.v = OLD.v + 1",
        "postgresql": f"CREATE TRIGGER touch BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION touch()",
    }
    if bench.database.kind == "postgresql":
        bench.database.execute(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := OLD.v + 1; RETURN NEW; END'"
        )
        bench.database.at_end("DROP FUNCTION touch() CASCADE")
    bench.database.execute(trigger[bench.database.kind])
    settings = dataclasses.replace(BACK, version="v", on_changed="update")
    assert run(bench, table, settings).ok().counts["written_back"] == 30
    for number in range(2):
        again = run(bench, table, settings, run_id=f"again {number}").ok()
        assert (again.counts["written_back"], again.requests, again.counts["changed"]) == (0, {}, 0)
    assert {v for (v,) in bench.database.execute(f"SELECT v FROM {table}")} == {2}


# ---- other databases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["duckdb"], indirect=True)
def test_ids_are_written_to_duckdb(database, sqlite_database, payarc_sandbox):
    bench = Bench(sqlite_database, payarc_sandbox)
    table = database.name("people")
    Table(database, table, COLUMNS).fill(rows_of(130))
    outcome = bench.run(source(database, table, engine=database.shared), BACK).ok()
    assert outcome.counts["written_back"] == 130
    ids = [value for (value,) in database.execute(f"SELECT payarc_id FROM {table} ORDER BY id")]
    assert ids == outcome.ids
    assert mark(database) == "?"
