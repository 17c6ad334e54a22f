"""The ledger's rules, tested on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import multiprocessing
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcConfigError, PayarcLedgerError, PayarcNotFound
from payarc_provider.sync.account import find_account
from payarc_provider.sync.fingerprints import from_column
from payarc_provider.sync.ledger import (
    Alterations,
    Carrier,
    Claimant,
    Ledger,
    LedgerLost,
    LedgerUnavailable,
    Recorded,
    Resolution,
    State,
)
from payarc_provider.sync.ledger import database as ledger_database
from payarc_provider.sync.ledger.repair import Repair
from payarc_provider.sync.records import RecordReader

LEASE, SETTLE = 120.0, 60.0
SENT_AFTER = datetime.datetime(2029, 12, 31, 23, 55, tzinfo=datetime.UTC)
PENDING, CREATED, REJECTED = State.PENDING, State.CREATED, State.REJECTED


@pytest.fixture
def table(database):
    return database.name()


@pytest.fixture
def ledger(database, table):
    """An open ledger, in a database whose clock stands still."""
    database.stop_clock()
    opened = Ledger(database.engine(), table)
    opened.open()
    return opened


def another(ledger, database):
    """The same ledger as another process sees it: over connections of its own."""
    other = Ledger(database.engine(), ledger.schema.rows.name)
    other.open()
    return other


def claimant(owner="a", **changes):
    made = Claimant("test/1", owner * 32, "table people", LEASE, SETTLE, "dag", f"run {owner}", "task")
    return dataclasses.replace(made, **changes)


A, B, C = claimant("a"), claimant("b"), claimant("c")
READER = RecordReader("id", None, "secret")


def record(key, **fields):
    return READER.read(0, {"id": key, "name": "John Smith", **fields})


def unfit(key, name="Jo"):
    made = record(key, name=name)
    assert made.errors
    return made


def name(me, number=1):
    """The name of this attempt's n-th claim."""
    return f"{me.owner}.{number}"


def claim(ledger, me, *keys, number=1, records=None, references=None, **options):
    wanted = records or [record(key) for key in keys]
    return ledger.claim(me, name(me, number), wanted, references or {}, SENT_AFTER, **options)


def take_over(ledger, me, number=2):
    return ledger.take_over(me, name(me, number))


def under(me, *keys, number=1):
    """key → claim, as if this attempt's n-th claim had these rows."""
    return dict.fromkeys(keys, name(me, number))


def resolution(me, key, number=1, **result):
    return Resolution(key, name(me, number), **result)


def owned(rows, me):
    return {key for key, row in rows.items() if row.state == PENDING and row.owner == me.owner}


def row(ledger, key, account="test/1"):
    return ledger.rows(claimant(account=account), [key]).get(key)


def create(ledger, key, customer_id, me=A):
    claim(ledger, me, key)
    assert ledger.record(me, [resolution(me, key, customer_id=customer_id)]) == Recorded({key}, set())


def reject(ledger, key, me=A, **fields):
    claim(ledger, me, records=[record(key, **fields)])
    assert ledger.record(me, [resolution(me, key, errors={"email": ["is taken"]})]).keys == {key}


def together(*calls):
    """Run the calls at the same moment, each in a thread of its own."""
    gate = threading.Barrier(len(calls))

    def held(call):
        gate.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(held, call) for call in calls]]


def patiently(call):
    """Repeat the call, as the engine does, while the database is temporarily unavailable."""
    for _ in range(50):
        try:
            return call()
        except LedgerUnavailable:
            time.sleep(0.02)
    raise AssertionError("the database never became available")


# ---- opening --------------------------------------------------------------------------------------------------------


def test_the_tables_are_created_at_first_use_and_found_again(database, table):
    ledger = Ledger(database.engine(), table)
    assert ledger.open() is True
    assert len(ledger.ledger_id) == 32
    assert another(ledger, database).ledger_id == ledger.ledger_id
    assert database.rows(table) == []


def test_opening_for_a_dry_run_creates_nothing(database, table):
    ledger = Ledger(database.engine(), table)
    assert ledger.open(create=False) is False
    assert table not in sa.inspect(database.engine()).get_table_names()


def test_threads_that_open_a_new_ledger_at_once_get_the_same_one(database, table):
    ledgers = [Ledger(database.engine(), table) for _ in range(6)]
    together(*(ledger.open for ledger in ledgers))
    assert len({ledger.ledger_id for ledger in ledgers}) == 1


def _open_in_a_process(url, table, gate, results):
    ledger = Ledger(sa.create_engine(url), table)
    gate.wait(30)
    ledger.open()
    results.put(ledger.ledger_id)


def test_two_processes_that_open_a_new_ledger_at_once_get_the_same_one(database, table):
    if database.kind != "sqlite":
        pytest.skip("to a server, two processes and two threads with connections of their own are the same")
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    arguments = (str(database.url), table, gate, results)
    processes = [context.Process(target=_open_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    ids = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(ids) == 1


def test_tables_created_by_hand_from_the_ddl_are_used_as_they_are(database, table):
    like = Ledger(database.engine(), database.name("like"))
    like.open()
    with like.database.read() as connection:
        statements = like.schema.ddl(connection.dialect)
    for statement in statements:
        database.execute(statement.replace(like.schema.rows.name, table))
    ledger = Ledger(database.engine(), table)
    assert ledger.open() is True
    create(ledger, "42", "c1")
    assert row(ledger, "42").customer_id == "c1"


@pytest.mark.parametrize("which", ["rows", "facts"])
def test_a_table_that_lacks_columns_is_rejected_and_never_altered(database, table, which):
    wrong = table if which == "rows" else f"{table}_facts"
    database.execute(f"CREATE TABLE {wrong} (account VARCHAR(190), value VARCHAR(10))")
    with pytest.raises(PayarcConfigError, match=f"ledger_table: the table {wrong} exists but lacks ") as caught:
        Ledger(database.engine(), table).open()
    assert ("customer_id" if which == "rows" else "name") in str(caught.value)
    assert database.rows(wrong) == []


@pytest.mark.parametrize("name", ["", "x" * 51, "schema."])
def test_an_unusable_table_name_is_rejected(database, name):
    with pytest.raises(PayarcConfigError, match=r"^ledger_table: "):
        Ledger(database.engine(), name)


@pytest.mark.parametrize("stem", ["Ledger", "order", "my ledger", "l" * 47])
def test_a_table_may_have_any_name_of_up_to_50_characters(database, stem):
    name = database.name(stem)[:50]
    ledger = Ledger(database.engine(), name)
    ledger.open()
    create(ledger, "42", "c1")
    assert row(another(ledger, database), "42").customer_id == "c1"


def test_a_table_may_be_in_a_schema_of_its_own(database):
    name = database.name()
    home = {"sqlite": "main", "postgresql": "elsewhere", "mariadb": database.url.database}[database.kind]
    if database.kind == "postgresql":
        database.execute("CREATE SCHEMA elsewhere")
        database.at_end("DROP SCHEMA elsewhere CASCADE")
    for _ in range(2):
        ledger = Ledger(database.engine(), f"{home}.{name}")
        ledger.open()
    create(ledger, "42", "c1")
    assert len(database.rows(f"{home}.{name}")) == 1
    assert claim(ledger, B, "42")["42"].customer_id == "c1"


def test_another_kind_of_database_is_rejected_and_the_supported_ones_are_named():
    engine = sa.create_engine("sqlite://")
    engine.dialect.name = "oracle"
    with pytest.raises(
        PayarcConfigError, match=r"cannot be stored in oracle\. Give a connection to SQLite, PostgreSQL, MySQL"
    ):
        Ledger(engine)


# ---- claiming -------------------------------------------------------------------------------------------------------


def test_a_claim_inserts_pending_rows_with_an_owner_and_a_lease(ledger, database):
    rows = claim(ledger, A, "1", "2", references={"1": "r" * 12})
    assert owned(rows, A) == {"1", "2"}
    one = row(ledger, "1")
    assert (one.state, one.attempt, one.customer_id, one.reference) == (PENDING, 1, None, "r" * 12)
    assert (one.owner, one.claim) == (A.owner, name(A))
    assert one.lease_until == database.now() + datetime.timedelta(seconds=LEASE)
    assert (one.settle, one.sent_after) == (SETTLE, SENT_AFTER)
    assert (one.source, one.dag_id, one.run_id) == ("table people", "dag", "run a")
    assert row(ledger, "2").reference is None


def test_the_second_claimant_sees_the_owner_and_gets_only_free_rows(ledger, database):
    claim(ledger, A, "1", "2")
    rows = claim(another(ledger, database), B, "2", "3")
    assert owned(rows, B) == {"3"}
    assert rows["2"].owner == A.owner


def test_an_expired_claim_stays_the_owners_until_it_is_taken_over(ledger, database):
    claim(ledger, A, "1")
    database.move_clock(LEASE + SETTLE + 1000)
    assert owned(claim(ledger, B, "1"), B) == set()


def test_accounts_do_not_see_each_others_rows(ledger):
    create(ledger, "1", "c1")
    elsewhere = dataclasses.replace(B, account="test/2")
    assert owned(claim(ledger, elsewhere, "1"), elsewhere) == {"1"}
    assert ledger.record(elsewhere, [resolution(elsewhere, "1", customer_id="c1")]).keys == {"1"}, (
        "ids are unique per account"
    )


DISTINCT = [
    "key",
    "KEY",
    "Key",
    "kéy",
    "ke\u0301y",
    "k ey",
    " key",
    "key\u00a0",
    "ｋｅｙ",
    "ss",
    "ß",
    "ı",
    "i",
    "İ",
    "42",
    "042",
    "%",
    "_",
]


def test_keys_that_differ_in_case_accent_or_blanks_are_different_rows(ledger):
    assert owned(claim(ledger, A, *DISTINCT), A) == set(DISTINCT)
    assert ledger.record(A, [resolution(A, key, customer_id=f"c{n}") for n, key in enumerate(DISTINCT)]).keys == set(
        DISTINCT
    )
    for number, key in enumerate(DISTINCT):
        assert ledger.rows(A, [key])[key].customer_id == f"c{number}"


def test_ids_and_accounts_that_differ_in_case_are_different(ledger):
    assert owned(claim(ledger, A, "1", "2"), A) == {"1", "2"}
    assert ledger.record(A, [resolution(A, "1", customer_id="AbC"), resolution(A, "2", customer_id="aBc")]).keys == {
        "1",
        "2",
    }
    assert ledger.ids_with_rows(A, ["ABC", "AbC", "aBc", "abc"]) == {"AbC", "aBc"}
    shouting = dataclasses.replace(B, account="TEST/1")
    assert owned(claim(ledger, shouting, "1"), shouting) == {"1"}


@pytest.mark.parametrize("letter", ["k", "ж", "𝒳"])
def test_a_key_of_255_characters_is_kept_whole(ledger, letter):
    keys = [letter * 254 + end for end in "ab"]
    assert owned(claim(ledger, A, *keys), A) == set(keys)


def test_a_thousand_records_are_claimed_and_recorded_at_once(ledger):
    keys = [str(number) for number in range(1001)]
    assert owned(claim(ledger, A, *keys), A) == set(keys)
    assert ledger.record(A, [resolution(A, key, customer_id=f"c{key}") for key in keys]).keys == set(keys)
    assert len(ledger.ids_with_rows(A, [f"c{key}" for key in keys])) == len(keys)


def test_more_keys_can_be_read_than_a_statement_can_have_parameters(ledger):
    claim(ledger, A, "0", "69999")
    assert ledger.rows(A, [str(number) for number in range(70_000)]).keys() == {"0", "69999"}


def test_each_key_of_overlapping_concurrent_claims_has_exactly_one_owner(database, table):
    Ledger(database.engine(), table).open()
    claimants = [claimant(owner) for owner in "abcd"]
    # Overlapping and in opposite orders: locking in the given order would deadlock.
    batches = [[str(number) for number in range(start, start + 60)] for start in (0, 20, 40, 10)]
    batches = [batch[::-1] if number % 2 else batch for number, batch in enumerate(batches)]
    ledgers = [Ledger(database.engine(), table) for _ in claimants]
    for ledger in ledgers:
        ledger.open()
    got = together(
        *(
            lambda ledger=ledger, me=me, batch=batch: patiently(lambda: claim(ledger, me, *batch))
            for ledger, me, batch in zip(ledgers, claimants, batches, strict=True)
        )
    )
    every = sorted({key for batch in batches for key in batch})
    owners = {key: row.owner for key, row in ledgers[0].rows(A, every).items()}
    assert owners.keys() == set(every)
    for me, rows, batch in zip(claimants, got, batches, strict=True):
        assert rows.keys() == set(batch), "a claim reads all of its rows back, whoever owns them"
        assert {key: row.owner for key, row in rows.items()} == {key: owners[key] for key in batch}
        assert owned(rows, me) == {key for key in batch if owners[key] == me.owner}


def test_each_rejected_row_of_concurrent_claims_has_exactly_one_owner(database, table):
    first = Ledger(database.engine(), table)
    first.open()
    keys = [str(number) for number in range(40)]
    for key in keys:
        reject(first, key)
    ledgers = [another(first, database) for _ in range(3)]
    changed = [record(key, city="Boston") for key in keys]
    got = together(
        *(
            lambda ledger=ledger, me=me: patiently(lambda: claim(ledger, me, records=changed))
            for ledger, me in zip(ledgers, (A, B, C), strict=True)
        )
    )
    owners = [owned(rows, me) for rows, me in zip(got, (A, B, C), strict=True)]
    assert sorted(key for keys_of_one in owners for key in keys_of_one) == sorted(keys)
    assert {row.attempt for row in first.rows(A, keys).values()} == {2}


# ---- recording ------------------------------------------------------------------------------------------------------


def test_recording_resolves_the_row_and_releases_it(ledger):
    claim(ledger, A, "1", "2")
    answers = [resolution(A, "1", customer_id="c1"), resolution(A, "2", errors={"email": ["is taken"]})]
    assert ledger.record(A, answers) == Recorded({"1", "2"}, set())
    created, rejected = row(ledger, "1"), row(ledger, "2")
    assert (created.state, created.customer_id, created.error) == (CREATED, "c1", None)
    assert (rejected.state, rejected.customer_id, rejected.errors) == (REJECTED, None, {"email": ["is taken"]})
    for resolved in (created, rejected):
        assert (resolved.owner, resolved.claim) == (None, None)
        assert (resolved.lease_until, resolved.settle, resolved.sent_after) == (None, None, None)


def test_only_the_claim_that_has_a_row_can_record_it(ledger):
    claim(ledger, A, "1")
    before = row(ledger, "1")
    for wrong in (resolution(B, "1", customer_id="c1"), resolution(A, "1", 2, errors={"email": ["is taken"]})):
        answers = [wrong, resolution(A, "9", customer_id="c9")]
        assert ledger.record(A, answers) == Recorded(set(), set())
    assert row(ledger, "1") == before
    assert row(ledger, "9") is None


def test_the_resolution_of_a_lost_row_is_dropped_and_the_others_are_recorded(ledger, database):
    claim(ledger, A, "1", "2")
    database.move_clock(LEASE + SETTLE + 1)
    claim(ledger, A, "3")
    assert set(take_over(ledger, B)) == {"1", "2"}
    answers = [resolution(A, key, customer_id=f"c{key}") for key in "123"]
    assert ledger.record(A, answers) == Recorded({"3"}, set())
    assert row(ledger, "1").state == PENDING


def test_a_resolved_row_is_never_recorded_again(ledger):
    create(ledger, "1", "c1")
    assert ledger.record(A, [resolution(A, "1", customer_id="c2")]) == Recorded(set(), set())
    assert ledger.record(A, [resolution(A, "1", errors={"email": ["is taken"]})]) == Recorded(set(), set())
    assert (row(ledger, "1").state, row(ledger, "1").customer_id) == (CREATED, "c1")


def test_an_id_that_another_row_has_is_reported_and_the_others_are_recorded(ledger):
    create(ledger, "1", "c1")
    claim(ledger, A, "2", "3", "4")
    answers = [
        resolution(A, "2", customer_id="c2"),
        resolution(A, "3", customer_id="c1"),
        resolution(A, "4", errors={"name": ["no"]}),
    ]
    assert ledger.record(A, answers) == Recorded({"2", "4"}, {"3"})
    assert (row(ledger, "3").state, row(ledger, "3").owner) == (PENDING, A.owner)
    assert (row(ledger, "2").customer_id, row(ledger, "1").customer_id) == ("c2", "c1")


def test_one_of_two_resolutions_with_the_same_id_is_recorded(ledger):
    claim(ledger, A, "1", "2")
    recorded = ledger.record(A, [resolution(A, "1", customer_id="c1"), resolution(A, "2", customer_id="c1")])
    assert len(recorded.keys) == len(recorded.conflicts) == 1
    assert recorded.keys | recorded.conflicts == {"1", "2"}


def test_reasons_for_rejections_are_stored_in_any_language(ledger):
    claim(ledger, A, "1")
    errors = {"name": ['тоже "занято" 🙂', "x" * 300], "record": ["%s %(x)s :y \\"]}
    ledger.record(A, [resolution(A, "1", errors=errors)])
    assert row(ledger, "1").errors == errors


# ---- leases, takeover -----------------------------------------------------------------------------------------------


def test_renewing_extends_the_leases_of_the_named_claims_only(ledger, database):
    claim(ledger, A, "1", "2")
    claim(ledger, A, "3", number=2)
    claim(ledger, A, "4", number=3)
    claim(ledger, B, "5")
    ledger.record(A, [resolution(A, "2", customer_id="c2")])
    before = {key: row(ledger, key).lease_until for key in "245"}
    database.move_clock(50)
    assert ledger.renew(A, {name(A), name(A, 2), name(A, 9)}) == under(A, "1") | under(A, "3", number=2)
    for key in "13":
        assert row(ledger, key).lease_until == database.now() + datetime.timedelta(seconds=LEASE)
    assert {key: row(ledger, key).lease_until for key in "245"} == before


def test_a_lease_is_renewed_until_it_ends_and_never_after(ledger, database):
    claim(ledger, A, "1")
    database.move_clock(LEASE)
    assert ledger.renew(A, {name(A)}) == under(A, "1")
    claim(ledger, A, "2", number=2)
    database.move_clock(LEASE + 0.001)
    lapsed = [row(ledger, key) for key in "12"]
    assert ledger.renew(A, {name(A), name(A, 2)}) == {}
    assert [row(ledger, key) for key in "12"] == lapsed
    database.move_clock(SETTLE)
    assert set(take_over(ledger, B)) == {"1", "2"}
    assert ledger.renew(A, {name(A), name(A, 2)}) == {}


def test_an_attempt_may_take_over_its_own_lapsed_rows(ledger, database):
    claim(ledger, A, "1")
    database.move_clock(LEASE + SETTLE)
    assert take_over(ledger, A) == {}
    database.move_clock(0.001)
    assert {key: row.claim for key, row in take_over(ledger, A).items()} == under(A, "1", number=2)
    assert row(ledger, "1").lease_until == database.now() + datetime.timedelta(seconds=LEASE)


def _renews_no_more(ledger):
    assert ledger.renew(A, {name(A)}) == {}


def _records_no_more(ledger):
    answers = [resolution(A, "1", customer_id="c1"), resolution(A, "2", errors={"email": ["is taken"]})]
    assert ledger.record(A, answers) == Recorded(set(), set())


def _records_absence_no_more(ledger):
    assert ledger.record_absence(A, under(A, "1", "2")) == set()


def _gives_up_no_more(ledger):
    ledger.give_up(A, under(A, "1", "2"), {name(A)})


@pytest.mark.parametrize("by", [A, B], ids=["by itself", "by another attempt and then by itself"])
@pytest.mark.parametrize(
    "call",
    [_renews_no_more, _records_no_more, _records_absence_no_more, _gives_up_no_more],
    ids=lambda one: one.__name__[1:],
)
def test_a_claim_is_void_once_its_rows_were_taken_over_even_if_their_owner_is_the_same(ledger, database, by, call):
    _take_over_again(ledger, database, by)
    before = ledger.rows(A, ["1", "2"])
    assert {row.owner for row in before.values()} == {A.owner}
    call(ledger)
    assert ledger.rows(A, ["1", "2"]) == before


@pytest.mark.parametrize("by", [A, B], ids=["by itself", "by another attempt and then by itself"])
def test_a_row_that_was_taken_over_is_never_released_as_unsent_under_its_old_claim(ledger, database, by):
    _take_over_again(ledger, database, by)
    ledger.release(A, under(A, "1", "2"))
    for row in ledger.rows(A, ["1", "2"]).values():
        assert not row.unsent, "another attempt may have sent a request for it"
        assert (row.owner, row.claim, row.lease_until) == (None, None, database.now())


def _take_over_again(ledger, database, by):
    """A claims two rows, its lease lapses, and after a takeover by another attempt (or by A) A takes them over."""
    claim(ledger, A, "1", "2")
    for number, me in enumerate([A] if by is A else [by, A], 2):
        database.move_clock(LEASE + SETTLE + 1)
        assert set(take_over(ledger, me, number)) == {"1", "2"}


def test_a_claim_repeated_under_its_name_returns_the_same_rows(ledger, database):
    claim(ledger, B, "theirs")
    first = claim(ledger, A, "1", "2", "theirs")
    database.move_clock(1)
    assert claim(ledger, A, "1", "2", "theirs") == first
    assert {key for key, row in first.items() if row.claim == name(A)} == {"1", "2"}
    again = claim(ledger, A, "1", "2", number=2)
    assert {row.claim for row in again.values()} == {name(A)}, "a claim under another name does not get them"


def test_a_takeover_repeated_under_its_name_returns_the_same_rows(ledger, database):
    claim(ledger, A, "1", "2")
    database.move_clock(LEASE + SETTLE + 1)
    first = take_over(ledger, B)
    assert {key: row.claim for key, row in first.items()} == under(B, "1", "2", number=2)
    database.move_clock(1)
    assert take_over(ledger, B) == first
    assert take_over(ledger, B, 3) == {}


def test_rows_that_lapse_before_a_takeover_is_repeated_are_not_extended(ledger, database):
    claim(ledger, A, "1")
    database.move_clock(LEASE + SETTLE + 1)
    first = take_over(ledger, B)
    database.move_clock(LEASE + SETTLE + 1)
    assert take_over(ledger, B) == first
    assert set(take_over(ledger, C)) == {"1"}
    assert take_over(ledger, B) == {}


@pytest.mark.parametrize(
    ("seconds", "taken"), [(LEASE - 1, False), (LEASE + SETTLE - 1, False), (LEASE + SETTLE + 1, True)]
)
def test_a_row_is_taken_over_only_when_lease_and_settle_have_passed(ledger, database, seconds, taken):
    claim(ledger, A, "1", references={"1": "r" * 12})
    before = row(ledger, "1")
    database.move_clock(seconds)
    assert set(take_over(ledger, B)) == ({"1"} if taken else set())
    after = row(ledger, "1")
    if not taken:
        assert after == before
        return
    assert (after.owner, after.claim) == (B.owner, name(B, 2))
    assert after.lease_until == database.now() + datetime.timedelta(seconds=LEASE)
    assert (after.attempt, after.reference, after.sent_after) == (1, "r" * 12, SENT_AFTER)
    assert (after.digest, after.fingerprints, after.run_id) == (before.digest, before.fingerprints, before.run_id)


@pytest.mark.parametrize(("settle", "taken"), [(10, True), (SETTLE, True), (1000, False)])
def test_a_takeover_waits_for_the_settle_stored_in_the_row(ledger, database, settle, taken):
    claim(ledger, dataclasses.replace(A, settle=settle), "1")
    database.move_clock(LEASE + SETTLE + 1)
    eager = dataclasses.replace(B, settle=1)
    assert bool(take_over(ledger, eager)) is taken


def test_a_takeover_spares_live_and_resolved_rows_and_other_accounts(ledger, database):
    claim(ledger, A, "1")
    create(ledger, "2", "c2")
    reject(ledger, "3")
    claim(ledger, dataclasses.replace(A, account="test/2"), "4")
    database.move_clock(LEASE + SETTLE + 1)
    claim(ledger, B, "5")
    claim(ledger, C, "6")
    spared = {key: row(ledger, key) for key in "2356"}
    assert set(take_over(ledger, B)) == {"1"}
    assert {key: row(ledger, key) for key in "2356"} == spared
    assert row(ledger, "4", "test/2").owner == A.owner


def test_each_row_of_concurrent_takeovers_goes_to_exactly_one(ledger, database):
    keys = {str(number) for number in range(50)}
    claim(ledger, claimant("z"), *keys)
    database.move_clock(LEASE + SETTLE + 1)
    ledgers = [another(ledger, database) for _ in range(4)]
    claimants = [claimant(owner) for owner in "abcd"]
    got = together(
        *(
            lambda one=one, me=me: patiently(lambda: take_over(one, me))
            for one, me in zip(ledgers, claimants, strict=True)
        )
    )
    assert sorted(key for rows in got for key in rows) == sorted(keys)


def test_waiting_counts_the_open_rows_under_other_claims_and_the_seconds_until_the_first_takeover(ledger, database):
    assert ledger.waiting(B, set()) == (0, None)
    claim(ledger, A, "1")
    database.move_clock(20)
    claim(ledger, A, "2")
    claim(ledger, B, "3")
    create(ledger, "4", "c4", me=C)
    assert ledger.waiting(B, {name(B)}) == (2, LEASE + SETTLE - 20)
    assert ledger.waiting(B, {name(B, 2)}) == (3, LEASE + SETTLE - 20), "a row that B owns under a lost claim counts"
    ledger.give_up(A, under(A, "1"), {name(A)})
    assert ledger.waiting(B, {name(B)})[0] == 2, "a row without an owner counts"
    database.move_clock(1000)
    assert ledger.waiting(B, {name(B)}) == (2, 0.0)


def test_a_row_recorded_as_absent_is_free_and_counts_one_attempt_more(ledger):
    claim(ledger, A, "1", "2")
    claim(ledger, B, "3")
    assert ledger.record_absence(A, under(A, "1", "3", "9")) == {"1"}
    one = row(ledger, "1")
    assert one.unsent
    assert (one.attempt, one.claim, one.lease_until, one.settle, one.sent_after) == (2, None, None, None, None)
    assert (row(ledger, "2").owner, row(ledger, "3").owner) == (A.owner, B.owner)
    rows = claim(ledger, C, "1")
    assert owned(rows, C) == {"1"}
    assert rows["1"].attempt == 2


def test_releasing_deletes_first_attempts_frees_later_ones_and_ends_open_leases(ledger, database):
    claim(ledger, A, "again")
    ledger.record_absence(A, under(A, "again"))
    claim(ledger, A, "again", number=2)
    claim(ledger, A, "never sent", "maybe open", number=3)
    claim(ledger, B, "another's")
    ledger.release(A, unsent=under(A, "again", number=2) | under(A, "never sent", "another's", number=3))
    assert row(ledger, "never sent") is None
    assert row(ledger, "again").unsent
    assert row(ledger, "again").attempt == 2
    still = row(ledger, "maybe open")
    assert (still.owner, still.claim, still.lease_until, still.settle) == (None, None, database.now(), SETTLE)
    assert not still.unsent
    assert row(ledger, "another's").owner == B.owner
    assert owned(claim(ledger, C, "maybe open"), C) == set(), "it cannot be claimed, only taken over and looked up"
    database.move_clock(SETTLE - 1)
    assert take_over(ledger, C) == {}
    database.move_clock(2)
    assert set(take_over(ledger, C)) == {"maybe open"}


def test_giving_up_some_rows_keeps_the_others_and_their_settle(ledger, database):
    claim(ledger, A, "1", "2")
    claim(ledger, B, "3", references={"3": "code3"})
    ledger.give_up(A, under(A, "1", "3", "9"), {name(A)})
    one = row(ledger, "1")
    assert (one.owner, one.claim, one.lease_until) == (None, None, database.now())
    assert (row(ledger, "2").owner, row(ledger, "3").owner) == (A.owner, B.owner)
    assert owned(claim(ledger, C, "1"), C) == set()
    assert ledger.waiting(A, {name(A)}) == (2, SETTLE)
    database.move_clock(SETTLE + 1)
    assert set(take_over(ledger, C)) == {"1"}


def test_a_row_given_up_can_be_taken_over_with_the_last_open_row_without_a_reference(ledger, database):
    claim(ledger, A, "1")
    database.move_clock(50)
    claim(ledger, B, "2")
    claim(ledger, A, "held", number=2)
    ledger.give_up(A, under(A, "1"), {name(A), name(A, 2)})
    ledger.record(A, [resolution(A, "held", 2, errors={"email": ["is taken"]})])
    database.move_clock(LEASE + SETTLE - 1)
    assert take_over(ledger, C) == {}
    database.move_clock(2)
    assert set(take_over(ledger, C)) == {"1", "2"}


def test_a_thousand_rows_can_be_released_or_recorded_as_absent(ledger):
    keys = [str(number) for number in range(1001)]
    claim(ledger, A, *keys)
    assert len(ledger.record_absence(A, under(A, *keys))) == len(keys)
    claim(ledger, A, *keys, number=2)
    ledger.release(A, unsent=under(A, *keys, number=2))
    assert all(row.unsent for row in ledger.rows(A, keys).values())


# ---- rejections -----------------------------------------------------------------------------------------------------


def test_a_new_record_that_the_rules_reject_is_stored_without_an_owner(ledger):
    rows = claim(ledger, A, records=[unfit("1")])
    assert rows["1"].state == REJECTED
    assert rows["1"].errors == unfit("1").errors
    assert (rows["1"].owner, rows["1"].claim, rows["1"].lease_until) == (None,) * 3
    assert (rows["1"].sent_after, rows["1"].reference) == (None,) * 2


def test_a_rejection_by_the_rules_never_changes_a_created_or_open_row(ledger, database):
    create(ledger, "created", "c1")
    claim(ledger, A, "mine")
    claim(ledger, B, "another's")
    keys = ["created", "mine", "another's"]
    before = database.rows(ledger.schema.rows.name)
    claim(ledger, A, records=[unfit(key) for key in keys])
    claim(ledger, A, records=[unfit(key) for key in keys], retry_rejected=True)
    assert database.rows(ledger.schema.rows.name) == before


def test_a_rejection_by_the_rules_replaces_an_older_rejection_or_an_unsent_row(ledger):
    claim(ledger, A, records=[unfit("1", "Jo")])
    claim(ledger, A, records=[unfit("1", "Ed")])
    assert row(ledger, "1").digest == unfit("1", "Ed").digest
    claim(ledger, A, "2")
    ledger.record_absence(A, under(A, "2"))
    claim(ledger, A, records=[unfit("2")])
    assert row(ledger, "2").state == REJECTED


def test_a_rejected_row_is_claimed_again_only_when_its_data_has_changed(ledger):
    reject(ledger, "1")
    assert claim(ledger, B, "1")["1"].state == REJECTED
    rows = claim(ledger, B, records=[record("1", city="Boston")])
    assert owned(rows, B) == {"1"}
    assert (rows["1"].attempt, rows["1"].error, rows["1"].digest) == (2, None, record("1", city="Boston").digest)


def test_retry_rejected_claims_rejected_rows_but_none_that_the_rules_reject(ledger):
    reject(ledger, "1")
    claim(ledger, A, records=[unfit("2")])
    assert owned(claim(ledger, B, "1", retry_rejected=True), B) == {"1"}
    claim(ledger, B, records=[unfit("2")], retry_rejected=True)
    assert row(ledger, "2").state == REJECTED
    assert row(ledger, "2").attempt == 1


def test_a_created_row_is_never_claimed_again(ledger):
    create(ledger, "1", "c1")
    before = row(ledger, "1")
    claim(ledger, B, records=[record("1", city="Boston")], retry_rejected=True)
    assert row(ledger, "1") == before


# ---- ids and references ---------------------------------------------------------------------------------------------


def test_ids_and_references_are_found_only_in_their_own_account(ledger):
    claim(ledger, A, "1", "2", references={"1": "q" * 12})
    ledger.record(A, [resolution(A, "2", customer_id="c2")])
    elsewhere = claimant(account="test/2")
    assert ledger.ids_with_rows(A, ["c2", "c3"]) == {"c2"}
    assert ledger.ids_with_rows(elsewhere, ["c2"]) == set()
    assert ledger.references_with_rows(A, ["q" * 12, "r" * 12]) == {"q" * 12}
    assert ledger.references_with_rows(elsewhere, ["q" * 12]) == set()
    assert ledger.ids_with_rows(A, []) == set()


def test_known_ids_are_the_latest_of_the_account(ledger, database):
    for number in range(5):
        create(ledger, str(number), f"c{number}")
        database.move_clock(1)
    assert ledger.known_ids("test/1") == ["c4", "c3", "c2"]
    assert ledger.known_ids("test/2") == []
    assert (ledger.has_rows("test/1"), ledger.has_rows("test/2")) == (True, False)


def test_open_rows_without_a_reference_under_other_claims_are_noticed(ledger):
    assert ledger.may_be_open_unrecognized(B, {name(B)}) is False
    claim(ledger, A, "1", references={"1": "r" * 12})
    claim(ledger, B, "2")
    assert ledger.may_be_open_unrecognized(B, {name(B)}) is False
    assert ledger.may_be_open_unrecognized(B, {name(B, 2)}) is True
    claim(ledger, A, "3")
    assert ledger.may_be_open_unrecognized(B, {name(B)}) is True
    ledger.record(A, [resolution(A, "3", customer_id="c3")])
    assert ledger.may_be_open_unrecognized(B, {name(B)}) is False
    ledger.give_up(B, under(B, "2"), {name(B)})
    assert ledger.may_be_open_unrecognized(B, {name(B)}) is True


def test_where_payarc_alters_descriptions_no_open_row_is_recognized_by_its_reference(ledger):
    claim(ledger, A, "1", references={"1": "r" * 16})
    assert ledger.may_be_open_unrecognized(B, {name(B)}) is False
    assert ledger.alterations(A.account) == Alterations(values=False, descriptions=False)
    ledger.note_alterations(A.account, Alterations(values=False, descriptions=True))
    ledger.note_alterations("test/2", Alterations(values=True, descriptions=False))
    assert ledger.alterations(A.account) == Alterations(values=False, descriptions=True)
    assert ledger.may_be_open_unrecognized(B, {name(B)}) is True
    ledger.note_alterations(A.account, Alterations(values=True, descriptions=False))
    assert ledger.alterations(A.account) == Alterations(values=True, descriptions=True)


def carriers(**codes):
    return {customer_id: Carrier(code, {}) for customer_id, code in codes.items()}


def test_rows_account_for_customers_that_they_have_will_have_or_had(ledger):
    claim(ledger, A, "1", "2", "3", "4", references={str(number): str(number) * 16 for number in (1, 2, 3, 4)})
    ledger.record(A, [resolution(A, "1", customer_id="c1"), resolution(A, "4", customer_id="c4")])
    assert ledger.lost_customers(A.account, carriers(c1="1" * 16, c2="2" * 16, twin="1" * 16)) == set()
    Repair(ledger, A.account).forget("4")
    assert ledger.lost_customers(A.account, carriers(c4="4" * 16)) == set(), "its key was forgotten"
    ledger.record_absence(A, under(A, "3"))
    assert ledger.lost_customers(A.account, carriers(c3="3" * 16, c5="5" * 16)) == {"c3", "c5"}
    assert ledger.lost_customers("test/2", carriers(c1="1" * 16)) == {"c1"}
    with pytest.raises(LedgerLost, match="2 customers of this ledger without a row"):
        ledger.check_customers(A.account, carriers(c3="3" * 16, c5="5" * 16))


def test_a_description_that_ends_in_another_records_reference_is_no_loss(ledger):
    claim(ledger, A, "1")
    prints = from_column(row(ledger, "1").fingerprints)
    assert ledger.lost_customers(A.account, {"c1": Carrier("5" * 16, prints)}) == set()
    assert ledger.lost_customers(A.account, {"c1": Carrier("5" * 16, prints | {"city": "0" * 16})}) == {"c1"}


# ---- facts ----------------------------------------------------------------------------------------------------------


def test_remember_keeps_the_first_value(ledger, database):
    assert ledger.fact("who") is None
    assert ledger.remember("who", "first") == "first"
    assert another(ledger, database).remember("who", "second") == "first"
    assert ledger.facts("wh") == {"who": "first"}


def test_concurrent_remember_calls_agree(ledger, database):
    ledgers = [another(ledger, database) for _ in range(4)]
    said = together(
        *(lambda one=one, n=n: patiently(lambda: one.remember("who", str(n))) for n, one in enumerate(ledgers))
    )
    assert len(set(said)) == 1


def test_concurrent_updates_of_a_fact_are_all_applied(ledger, database):
    ledgers = [another(ledger, database) for _ in range(4)]

    def count(value, _now):
        return str(int(value or 0) + 1)

    together(*(lambda one=one: [patiently(lambda: one.update_fact("n", count)) for _ in range(10)] for one in ledgers))
    assert ledger.fact("n") == "40"


def test_update_fact_passes_the_value_and_the_databases_time(ledger, database):
    seen = []

    def change(value, now):
        seen.append((value, now))
        return f"value {len(seen)}"

    assert ledger.update_fact("who", change) == "value 1"
    database.move_clock(2.5)
    assert ledger.update_fact("who", change) == "value 2"
    assert ledger.fact("who") == "value 2"
    start = database.now().timestamp()
    assert seen == [(None, start - 2.5), ("value 1", start)]


def test_a_failed_update_leaves_no_fact_behind(ledger):
    with pytest.raises(ZeroDivisionError):
        ledger.update_fact("who", lambda _value, now: str(now / 0))
    assert ledger.fact("who") is None


def test_an_account_name_of_150_characters_in_any_script_is_stored(ledger):
    def nobody(_customer_id):
        raise PayarcNotFound(status=404)

    account = "ж" * 150
    assert find_account(ledger, Identity("test", account, "17"), nobody) == f"test/{account}"
    assert find_account(ledger, Identity("test", account, "17"), nobody) == f"test/{account}"


# ---- repeating, clocks, failures ------------------------------------------------------------------------------------


def _claims(ledger, _database):
    reject(ledger, "old")
    return lambda: claim(ledger, A, records=[record("1"), record("old", city="Boston"), unfit("bad")])


def _records(ledger, _database):
    create(ledger, "0", "c0")
    claim(ledger, A, "1", "2", "3")
    answers = [
        resolution(A, "1", customer_id="c1"),
        resolution(A, "2", errors={"name": ["no"]}),
        resolution(A, "3", customer_id="c0"),
    ]
    return lambda: ledger.record(A, answers)


def _renews(ledger, database):
    claim(ledger, A, "1")
    database.move_clock(5)
    return lambda: ledger.renew(A, {name(A)})


def _releases(ledger, _database):
    claim(ledger, A, "1")
    ledger.record_absence(A, under(A, "1"))
    claim(ledger, A, "1", "2", "3", number=2)
    return lambda: ledger.release(A, under(A, "1", "2", number=2))


def _gives_up(ledger, database):
    claim(ledger, A, "1", "2")
    claim(ledger, B, "3")
    database.move_clock(5)
    return lambda: ledger.give_up(A, under(A, "1"), {name(A)})


def _takes_over(ledger, database):
    claim(ledger, A, "1", "2")
    database.move_clock(LEASE + SETTLE + 1)
    return lambda: take_over(ledger, B)


def _records_absence(ledger, _database):
    claim(ledger, A, "1", "2")
    return lambda: ledger.record_absence(A, under(A, "1"))


@pytest.mark.parametrize(
    "prepare",
    [_claims, _records, _renews, _releases, _gives_up, _takes_over, _records_absence],
    ids=lambda one: one.__name__[1:],
)
def test_repeating_a_transaction_changes_nothing_more(ledger, database, prepare):
    repeat = prepare(ledger, database)
    before = database.rows(ledger.schema.rows.name)
    repeat()
    once = database.rows(ledger.schema.rows.name)
    assert once != before
    repeat()
    assert database.rows(ledger.schema.rows.name) == once


def test_a_repeated_claim_is_still_owned_and_a_repeated_record_changes_nothing(ledger):
    assert owned(claim(ledger, A, "1"), A) == owned(claim(ledger, A, "1"), A) == {"1"}
    ledger.record(A, [resolution(A, "1", customer_id="c1")])
    assert ledger.record(A, [resolution(A, "1", customer_id="c1")]) == Recorded(set(), set())
    assert row(ledger, "1").customer_id == "c1"


def test_all_times_come_from_the_databases_clock_in_utc(ledger, database):
    far = datetime.datetime(2031, 7, 1, 12, 0, 0, 250_000, tzinfo=datetime.UTC)
    database.stop_clock(far)
    claim(ledger, A, "1")
    assert row(ledger, "1").lease_until == far + datetime.timedelta(seconds=LEASE)
    database.move_clock(10)
    ledger.renew(A, {name(A)})
    assert row(ledger, "1").lease_until == far + datetime.timedelta(seconds=LEASE + 10)
    ledger.record(A, [resolution(A, "1", customer_id="c1")])
    ((claimed, settled),) = database.execute(f"SELECT claimed_at, resolved_at FROM {ledger.schema.rows.name}")
    shown = [str(moment)[:23].replace("T", " ") for moment in (claimed, settled)]
    assert shown == ["2031-07-01 12:00:00.250", "2031-07-01 12:00:10.250"]


def test_a_session_in_another_time_zone_changes_no_time(database, table):
    if database.kind == "sqlite":
        pytest.skip("SQLite has no session time zone")
    database.stop_clock()
    zone = "SET TIME ZONE 'Asia/Tokyo'" if database.kind == "postgresql" else "SET time_zone = '+09:00'"
    engine = database.engine()

    @sa.event.listens_for(engine, "connect")
    def in_tokyo(connection, _record):
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(zone)
        connection.commit()

    tokyo = Ledger(engine, table)
    tokyo.open()
    claim(tokyo, A, "1")
    utc = another(tokyo, database)
    expected = database.now() + datetime.timedelta(seconds=LEASE)
    assert row(tokyo, "1").lease_until == row(utc, "1").lease_until == expected
    assert row(utc, "1").sent_after == SENT_AFTER
    database.move_clock(LEASE + SETTLE - 1)
    assert take_over(utc, B) == take_over(tokyo, B) == {}


def test_a_lost_connection_is_replaced(database, table):
    if database.kind == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    engine = database.engine()  # no pre-ping: the ledger itself must cope
    ledger = Ledger(engine, table)
    ledger.open()
    with ledger.database.read() as connection:
        ask = "pg_backend_pid()" if database.kind == "postgresql" else "connection_id()"
        number = connection.execute(sa.text(f"SELECT {ask}")).scalar_one()
    database.execute(f"SELECT pg_terminate_backend({number})" if database.kind == "postgresql" else f"KILL {number}")
    assert owned(claim(ledger, A, "1"), A) == {"1"}


def test_an_unreachable_server_is_a_temporary_error(database, table):
    if database.kind == "sqlite":
        pytest.skip("SQLite has no server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gone = sa.create_engine(database.url.set(host="127.0.0.1", port=port, query={}), poolclass=NullPool)
    with pytest.raises(LedgerUnavailable) as caught:
        Ledger(gone, table).open()
    assert "reachable" in str(caught.value)


def test_a_locked_database_is_a_temporary_error(database, table, monkeypatch):
    monkeypatch.setattr(ledger_database, "SQLITE_BUSY_SECONDS", 0)
    ledger = Ledger(database.engine(), table)
    ledger.open()
    claim(ledger, A, "1")
    if database.kind != "sqlite":  # the same sorting, by the lock that these have
        wait = "SET lock_timeout = '50ms'" if database.kind == "postgresql" else "SET innodb_lock_wait_timeout = 1"

        @sa.event.listens_for(ledger.database.engine, "begin")
        def impatient(connection):
            connection.exec_driver_sql(wait)

    with contextlib.closing(database.engine().raw_connection()) as holder:
        begin = "BEGIN IMMEDIATE" if database.kind == "sqlite" else f"SELECT * FROM {table} FOR UPDATE"
        holder.cursor().execute(begin)
        with pytest.raises(LedgerUnavailable):
            ledger.record(A, [resolution(A, "1", customer_id="c1")])
        holder.rollback()
    assert ledger.record(A, [resolution(A, "1", customer_id="c1")]).keys == {"1"}


def test_a_missing_table_is_a_permanent_error(database, ledger):
    database.execute(f"DROP TABLE {ledger.schema.rows.name}")
    with pytest.raises(LedgerLost, match="has lost a table") as caught:
        claim(ledger, A, "1")
    assert str(caught.value).endswith("python -m payarc_provider.ledger rebuild")


def test_a_read_only_login_is_a_permanent_error(database, ledger, table):
    if database.kind == "sqlite":
        engine = sa.create_engine(f"sqlite:///file:{database.url.database}?mode=ro&uri=true", hide_parameters=True)
    else:
        engine = database.engine()
        alone = "SET default_transaction_read_only = on"
        statement = alone if database.kind == "postgresql" else "SET SESSION TRANSACTION READ ONLY"

        @sa.event.listens_for(engine, "connect")
        def read_only(connection, _record):
            with contextlib.closing(connection.cursor()) as cursor:
                cursor.execute(statement)
            connection.commit()

    reading = Ledger(engine, table)
    reading.open()
    with pytest.raises(PayarcLedgerError) as caught:
        claim(reading, A, "1")
    engine.dispose()
    assert not isinstance(caught.value, LedgerUnavailable)


SECRETS = ("SECRET-KEY", "SECRET-OWNER", "SECRET-ID", "SECRET-TEXT")


def test_no_error_contains_a_value_sent_to_the_database(database, ledger):
    secretive = dataclasses.replace(A, owner="SECRET-OWNER")
    claim(ledger, secretive, "SECRET-KEY")
    too_long = resolution(secretive, "SECRET-KEY", customer_id="SECRET-ID" * 20, errors={"name": ["SECRET-TEXT"]})
    texts: list[Exception] = []
    if database.kind != "sqlite":  # SQLite has no lengths
        with pytest.raises(PayarcLedgerError) as caught:
            ledger.record(secretive, [too_long])
        texts.append(caught.value)
    database.execute(f"DROP TABLE {ledger.schema.rows.name}")
    for call in (
        lambda: ledger.record(secretive, [too_long]),
        lambda: claim(ledger, secretive, "SECRET-KEY"),
        lambda: ledger.rows(A, ["SECRET-KEY"]),
    ):
        with pytest.raises(LedgerLost) as lost:
            call()
        texts.append(lost.value)
    for error in texts:
        assert error.__cause__ is None
        assert error.__suppress_context__
        assert not [secret for secret in SECRETS if secret in str(error)]
        assert "INSERT" not in str(error)
        assert "SELECT" not in str(error)
