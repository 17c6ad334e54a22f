"""The ledger's database is slow, locked, hung or gone: limits in time, one kind of error, and waits that are logged."""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time

import pytest
import sqlalchemy as sa
from crash.proxy import before_database, url_through
from sqlalchemy.pool import NullPool

from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.ledger import Claimant, Ledger, LedgerUnavailable, Resolution, time_limits
from payarc_provider.sync.ledger import database as ledger_database
from payarc_provider.sync.patience import LedgerWaits, wait_for_ledger
from payarc_provider.sync.records import RecordReader

SENT_AFTER = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DEAD = Claimant("test/1", "a" * 32, "table people", 0.0, 0.0)
ME = Claimant("test/1", "b" * 32, "table people", 60.0, 0.0)
CLAIM, TAKEOVER = "claim.1", "takeover.1"
SERVERS = ("postgresql", "mariadb")
on_servers = pytest.mark.parametrize("database", SERVERS, indirect=True)


def opened(database, table, **options):
    ledger = Ledger(database.engine(**options), table)
    ledger.open()
    return ledger


def claim(ledger, me, *keys):
    reader = RecordReader("id", None, ledger.ledger_id)
    records = [reader.read(0, {"id": key, "name": "John Smith", "email": f"{key}@example.com"}) for key in keys]
    return ledger.claim(me, CLAIM, records, dict.fromkeys(keys), SENT_AFTER)


@contextlib.contextmanager
def locked_row(database, table, key):
    """Another transaction holds the lock of one row."""
    name = database.quoted("key")
    with contextlib.closing(database.engine().raw_connection()) as holder:
        holder.cursor().execute(f"SELECT * FROM {table} WHERE account = 'test/1' AND {name} = '{key}' FOR UPDATE")
        yield holder
        with contextlib.suppress(Exception):  # the database may have ended it
            holder.rollback()


@contextlib.contextmanager
def locked_table(database, table):
    """Another transaction lets nobody read or write a table."""
    with contextlib.closing(database.engine().raw_connection()) as holder:
        cursor = holder.cursor()
        cursor.execute(
            {
                "postgresql": f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
                "mariadb": f"LOCK TABLES {table} WRITE",
                "sqlite": "BEGIN EXCLUSIVE",
            }[database.kind]
        )
        try:
            yield
        finally:
            cursor.execute("UNLOCK TABLES" if database.kind == "mariadb" else "ROLLBACK")


# ---- limits ---------------------------------------------------------------------------------------------------------

SHOW = {
    "postgresql": "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), "
    "current_setting('idle_in_transaction_session_timeout')",
    "mariadb": "SELECT @@max_statement_time, @@innodb_lock_wait_timeout, @@idle_transaction_timeout",
}


@on_servers
def test_every_transaction_is_limited_and_stricter_limits_stay(database):
    stricter = {
        "postgresql": {"connect_args": {"options": "-c lock_timeout=3s -c statement_timeout=5min"}},
        "mariadb": {"connect_args": {"init_command": "SET innodb_lock_wait_timeout = 3, max_statement_time = 300"}},
    }[database.kind]
    expected = {"postgresql": ("30s", "3s", "30s"), "mariadb": (30.0, 3, 30)}[database.kind]
    ledger = opened(database, database.name(), **stricter)
    for transaction in (ledger.database.read, ledger.database.write):
        with transaction() as connection:
            assert tuple(connection.exec_driver_sql(SHOW[database.kind]).one()) == expected


def test_postgresql_sessions_keep_no_limit_for_others_behind_a_pooler(database):
    if database.kind != "postgresql":
        pytest.skip("the limits of a transaction are PostgreSQL's")
    ledger = opened(database, database.name())
    with contextlib.closing(ledger.database.engine.raw_connection()) as raw:
        cursor = raw.cursor()
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


@on_servers
def test_the_driver_gives_up_a_silent_server_unless_the_connection_says_otherwise(database):
    seen = []
    for given in ({}, {"connect_timeout": 77}):
        engine = database.engine(connect_args=given)
        Ledger(engine, database.name())
        sa.event.listen(engine, "do_connect", lambda *arguments: seen.append(dict(arguments[3])))
        with engine.connect():
            pass
    assert [int(one["connect_timeout"]) for one in seen] == [time_limits.CONNECT_SECONDS, 77]
    assert ("tcp_user_timeout" if database.kind == "postgresql" else "read_timeout") in seen[0]


@on_servers
def test_a_host_that_vanished_in_a_transaction_blocks_others_for_seconds_only(database, monkeypatch):
    monkeypatch.setitem(time_limits._POSTGRESQL, "idle_in_transaction_session_timeout", 1)
    monkeypatch.setattr(time_limits, "IDLE_SECONDS", 1)
    table = database.name()
    gone, other = opened(database, table), opened(database, table)
    claim(gone, DEAD, "1")
    with contextlib.suppress(LedgerUnavailable), gone.database.write() as connection:
        connection.execute(sa.select(gone.schema.rows).with_for_update())
        began = time.monotonic()
        assert wait_for_ledger(lambda: other.record(DEAD, [Resolution("1", CLAIM, customer_id="c1")]), 8).keys == {"1"}
        assert time.monotonic() - began < 8


@on_servers
def test_a_hung_connection_is_given_up(database, monkeypatch, caplog):
    monkeypatch.setattr(time_limits, "TRANSACTION_SECONDS", 2.0)
    monkeypatch.setattr(time_limits, "READ_SECONDS", 2)
    monkeypatch.setattr(time_limits, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(ledger_database._watchdog, "slow", 0.5)
    with before_database(database.url.render_as_string(hide_password=False)) as proxy:
        engine = sa.create_engine(url_through(database.url.render_as_string(hide_password=False), proxy))
        ledger = Ledger(engine, database.name())
        ledger.open()
        proxy.freeze()
        for _ in range(2):  # with a pooled connection, then with a new one
            began = time.monotonic()
            with pytest.raises(LedgerUnavailable):
                ledger.now()
            assert time.monotonic() - began < 12
        proxy.restore()
        assert wait_for_ledger(ledger.now, 10)
        engine.dispose()
    assert [record.getMessage() for record in caplog.records if "has not answered" in record.getMessage()][1:] == []
    assert "Waiting up to 2 s for this transaction" in caplog.text


# ---- errors ---------------------------------------------------------------------------------------------------------

MOMENTS = ("connect", "do_begin", "do_execute", "fetch", "do_commit", "do_rollback", "do_close")


class FailingCursor:
    """A cursor whose result cannot be fetched."""

    def __init__(self, cursor, error):
        self._cursor, self._error = cursor, error

    def __getattr__(self, name):
        if name.startswith("fetch"):
            raise self._error
        return getattr(self._cursor, name)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ["OperationalError", "InterfaceError", "InternalError", "os"])
def test_no_driver_error_escapes_whatever_the_moment(database, monkeypatch, moment, name):
    ledger = opened(database, database.name(), poolclass=NullPool)
    claim(ledger, DEAD, "1")
    engine = ledger.database.engine
    kind = ConnectionResetError if name == "os" else getattr(engine.dialect.dbapi, name)
    code = (2013,) if database.kind == "mariadb" and name != "os" else ()
    error = kind(*code, "the connection broke")
    failures = []

    def fail(*_, **__):
        failures.append(moment)
        raise error

    if moment == "fetch":

        @sa.event.listens_for(engine, "after_cursor_execute")
        def unreadable(_connection, cursor, _statement, _parameters, context, _many):
            failures.append(moment)
            context.cursor = FailingCursor(cursor, error)

    else:
        monkeypatch.setattr(engine.dialect, moment, fail)
    calls = [
        ledger.now,
        lambda: claim(ledger, ME, "2"),
        lambda: ledger.known(ME, ["1"]),
        lambda: ledger.renew(ME, {CLAIM}),
        lambda: ledger.release(ME, {}),
        lambda: ledger.give_up(ME, {"1": CLAIM}, {CLAIM}),
        lambda: ledger.take_over(ME, TAKEOVER),
        lambda: ledger.waiting(ME, {TAKEOVER}),
        lambda: ledger.record_absence(ME, {"1": CLAIM}),
        lambda: ledger.facts("account:"),
        lambda: ledger.update_fact("fact", lambda *_: "value"),
        ledger.open,
    ]
    outcomes = []
    for call in calls:
        try:
            call()
        except LedgerUnavailable:
            outcomes.append("unavailable")
        except Exception as other:  # noqa: BLE001 - the test is about which ones there are
            outcomes.append(type(other).__name__)
        else:
            outcomes.append("works")
    assert failures
    lasting = {"PayarcLedgerError"} if name == "InternalError" else set()
    assert set(outcomes) <= {"unavailable", "works"} | lasting
    if moment in ("connect", "do_execute"):
        assert "works" not in outcomes
    monkeypatch.undo()


TIMEOUTS = {
    "postgresql": ["57014", "55P03", "25P03", "08006", "57P05"],
    "mariadb": [1205, 1969, 3024, 2013, 4031, 1317, 0],
    "sqlite": ["database is locked", "database table is locked"],
}


def test_timeouts_of_the_database_are_temporary_errors(database, monkeypatch):
    ledger = opened(database, database.name())
    dialect = ledger.database.engine.dialect
    for one in TIMEOUTS[database.kind]:
        error = dialect.dbapi.OperationalError(one, "it took too long")
        if database.kind == "postgresql":
            error = type("Timeout", (dialect.dbapi.OperationalError,), {"sqlstate": one, "pgcode": one})("too long")
        elif database.kind == "sqlite":
            error = dialect.dbapi.OperationalError(one)

        def fail(*_, __error=error, **__):
            raise __error

        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_execute", fail)
            with pytest.raises(LedgerUnavailable):
                ledger.now()


def test_two_runs_that_replace_one_fact_do_not_fail(database):
    table = database.name()
    ledgers = [opened(database, table) for _ in range(4)]
    errors = []

    def replace(ledger, number):
        try:
            for _ in range(10):
                ledger.replace_fact("fact", f"{number}")
                ledger.replace_fact("fact", None)
        except Exception as error:  # noqa: BLE001 - the thread hands it over
            errors.append(error)

    threads = [threading.Thread(target=replace, args=(one, number)) for number, one in enumerate(ledgers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [error for error in errors if not isinstance(error, LedgerUnavailable)]


# ---- taking over ----------------------------------------------------------------------------------------------------


@on_servers
def test_a_takeover_leaves_locked_rows_for_the_next_time(database):
    table = database.name()
    ledger = opened(database, table)
    claim(ledger, DEAD, "1", "2", "3")
    time.sleep(0.1)
    with locked_row(database, table, "2"):
        began = time.monotonic()
        assert ledger.take_over(ME, TAKEOVER).keys() == {"1", "3"}
        assert time.monotonic() - began < 3
        assert ledger.waiting(ME, {TAKEOVER})[0] == 1
    assert ledger.take_over(ME, TAKEOVER).keys() == {"1", "2", "3"}


# ---- waiting --------------------------------------------------------------------------------------------------------


def test_a_run_that_starts_waits_for_a_locked_ledger(database, monkeypatch, caplog):
    monkeypatch.setattr(ledger_database, "SQLITE_BUSY_SECONDS", 0.2)
    table = database.name()
    opened(database, table)
    strict = {
        "postgresql": {"connect_args": {"options": "-c statement_timeout=200"}},
        "mariadb": {"connect_args": {"init_command": "SET lock_wait_timeout = 1, max_statement_time = 0.2"}},
    }.get(database.kind, {})
    ledger = Ledger(database.engine(**strict), table)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked_table(database, f"{table}_facts"))
        timer = threading.Timer(1.5, stack.close)
        timer.start()
        assert wait_for_ledger(ledger.open, 20)
        timer.join()
    waiting = [record.getMessage() for record in caplog.records if "Trying again until" in record.getMessage()]
    assert len(waiting) == 1
    assert "(ledger_patience)" in waiting[0]
    assert "works again" in caplog.text


def test_a_run_that_starts_and_is_told_to_stop_leaves_a_locked_ledger_at_once(database):
    table = database.name()
    opened(database, table)
    ledger = Ledger(database.engine(), table)
    told = []
    with locked_table(database, f"{table}_facts"):
        threading.Timer(0.5, lambda: told.append(time.monotonic())).start()
        with pytest.raises(PayarcRunStopped, match="was stopped"):
            wait_for_ledger(ledger.open, 60, lambda: bool(told))
        assert time.monotonic() - told[0] < 1


def test_a_long_wait_is_logged_every_half_minute_and_once_when_it_is_over(caplog):
    caplog.set_level(logging.INFO)
    moment = [0.0]
    waits = LedgerWaits(lambda: moment[0])
    error = LedgerUnavailable()
    for second in range(0, 100):
        moment[0] = float(second)
        waits.check("claim", 0.0, 300.0, error)
        if second % 2:
            waits.check("renewal", 1.0, 300.0, error)
    waits.succeed("claim")
    assert len(caplog.records) == 4  # at 0, 30, 60 and 90 s
    waits.succeed("renewal")
    assert "works again, after 98 s" in caplog.records[-1].getMessage()
    moment[0] = 500.0
    waits.check("claim", 400.0, 300.0, error)
    moment[0] = 701.0
    with pytest.raises(LedgerUnavailable):
        waits.check("claim", 400.0, 300.0, error)
