"""The engine over real HTTP and real ledgers: N records, N customers, whatever goes wrong in between.

What must hold is counted at the sandbox: each record has one customer, and no POST that had made its customer was sent
again.
"""

from __future__ import annotations

import dataclasses
import datetime
import socket
import threading
import time
import uuid
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from unittest.mock import patch

import pytest
from watcher import Watcher

from payarc_provider.api.client import PayarcClient
from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConnectionFailed,
    PayarcError,
    PayarcLedgerError,
    PayarcRunStopped,
    PayarcSourceError,
    PayarcUnexpectedAnswer,
)
from payarc_provider.sandbox import SandboxServer, make_token
from payarc_provider.sync import checkpoints, engine, runner
from payarc_provider.sync.ledger import Claimant, Ledger, LedgerUnavailable
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.reference import reference, with_reference
from payarc_provider.sync.results import Progress, Results
from payarc_provider.sync.settings import Settings, TaskIdentity
from payarc_provider.sync.sources import DatabaseSource, ListSource

ACCOUNT = "test/1"
NOT_HANDLED = ("rate_limited", "unauthorized")
RATE_FACT = "rate_limit:"
WATCHDOG = 30  # seconds after which a run counts as hanging
QUICK = Settings(timeout=10, settle=0.1, lease=20, max_tries=10)
"""For a sandbox that does at once what it does at all: a request is committed before its answer is missed."""


@dataclass
class Outcome:
    """What one run came to."""

    results: Results
    end: Progress
    error: PayarcError | None

    @property
    def counts(self):
        return self.end.counts

    @property
    def requests(self):
        return dict(self.end.requests)

    @property
    def ids(self):
        return self.results.customer_ids()

    @property
    def statuses(self):
        return Counter(one["status"] for one in self.results.customers())

    @property
    def recorded(self):
        """What this run itself recorded, for metrics."""
        names = ("recorded_created", "recorded_adopted", "recorded_rejected", "unknown")
        return {name.removeprefix("recorded_"): self.counts[name] for name in names if self.counts[name]}

    def ok(self):
        """Itself, unless it failed."""
        if self.error:
            raise self.error
        return self


class Bench:
    """A ledger and a sandbox, over which runs go."""

    def __init__(self, database, sandbox):
        self.database = database
        self.sandbox = sandbox
        self.table = database.name()
        self.ledger = self.open()

    def open(self, kind=Ledger):
        ledger = kind(self.database.engine(), self.table)
        ledger.open()
        return ledger

    def run(self, rows, settings=QUICK, *, run_id="run 1", source=None, ledger=Ledger, token=None, url=None):
        """One run; never raises, so that what it leaves behind can be looked at.

        :param ledger: a subclass that fails in some way
        """
        client = PayarcClient(
            url or self.sandbox.url, lambda _fresh: token or self.sandbox.token, timeout=settings.timeout
        )
        rows = ListSource(rows, source or "table people") if isinstance(rows, list) else rows
        watcher, results, error, hanging = Watcher(), Results(), None, []
        watchdog = []

        def watch(terminate):
            watchdog.append(threading.Timer(WATCHDOG, lambda: (hanging.append(True), terminate())))
            watchdog[-1].start()

        try:
            results = runner.run(
                rows,
                client,
                self.open(ledger),
                settings,
                account=ACCOUNT,
                task=TaskIdentity("dag", run_id, "task"),
                reporter=watcher,
                on_start=watch,
            )
        except PayarcError as stopped:
            error = stopped
        finally:
            client.close()
            for timer in watchdog:
                timer.cancel()
        assert not hanging, f"the run hangs: {watcher.end}"
        return Outcome(results, watcher.end, error)

    def rows(self):
        """key → ledger row."""
        keys = [str(key) for (key,) in self.database.execute(f"SELECT {self._key_column()} FROM {self.table}")]
        return self.ledger.rows(Claimant(ACCOUNT, "nobody", "no source", 0.0, 0.0), keys)

    def _key_column(self):
        return "`key`" if self.database.kind == "mariadb" else '"key"'

    def states(self):
        return Counter(row.state for row in self.rows().values())

    def nothing_is_held(self):
        return all(row.owner is None for row in self.rows().values())

    def prove(self, rows, outcome):
        """Each record has exactly one customer, the ids are theirs in input order, and nothing was sent needlessly."""
        customers = {customer["email"]: customer["customer_id"] for customer in self.sandbox.customers()}
        assert len(self.sandbox.customers()) == len(customers) == len({row["email"] for row in rows})
        assert outcome.ids == [customers[row["email"]] for row in rows]
        self.prove_nothing_was_sent_again()

    def prove_nothing_was_sent_again(self):
        posts = defaultdict(list)
        for post in self.sandbox.log():
            posts[post["idempotency_key"].rpartition("-")[0]].append(post)
        for of_one_record in posts.values():
            made = [post["sequence"] for post in of_one_record if post["outcome"] == "created"]
            assert len(made) <= 1, "a record has two customers"
            assert not made or made[0] == of_one_record[-1]["sequence"], "a POST that had made its customer went again"
            keys = [post["idempotency_key"] for post in of_one_record if post["outcome"] not in NOT_HANDLED]
            assert len(set(keys)) == len(keys), "each attempt has an idempotency key of its own"


@pytest.fixture
def bench(database, payarc_sandbox):
    return Bench(database, payarc_sandbox)


@pytest.fixture
def on_sqlite(sqlite_database, payarc_sandbox):
    """A bench over SQLite alone, for what has nothing to do with the ledger's database."""
    return Bench(sqlite_database, payarc_sandbox)


@pytest.fixture(autouse=True)
def listen(monkeypatch, payarc_sandbox):
    """Sets a listener for the engine's checkpoints.

    Each look-up finds that two seconds have passed at PayArc: one that comes within the second of the requests reads
    the list several times, since it can move while it is read, and a real ``settle`` is much longer than that.
    """
    listeners = [None]

    def reached(point):
        if point == "in_lookup":
            payarc_sandbox.settings(clock_offset=payarc_sandbox.settings()["clock_offset"] + 2)
        if listeners[-1] is not None:
            listeners[-1](point)

    monkeypatch.setattr(checkpoints, "listener", reached)
    return listeners.append


def people(count, first=0, **fields):
    return [
        {"id": number, "name": "John Smith", "email": f"j{number}@example.com", **fields}
        for number in range(first, first + count)
    ]


# ---- when all goes well --------------------------------------------------------------------------------------------


def test_each_record_becomes_one_customer_and_the_ids_come_in_input_order(bench):
    rows = people(60)[::-1]
    outcome = bench.run(rows).ok()
    bench.prove(rows, outcome)
    assert outcome.requests == {"POST": 60, "GET": 1}
    assert outcome.statuses == {"created": 60}
    assert bench.states() == {"created": 60}
    assert bench.nothing_is_held()


def test_the_same_again_sends_nothing_and_gives_the_same_ids(bench):
    rows = people(30)
    first = bench.run(rows).ok()
    again = bench.run(rows, run_id="run 2").ok()
    assert again.ids == first.ids
    assert again.requests == {}
    assert again.statuses == {"known": 30}
    assert len(bench.sandbox.customers()) == 30


def test_only_what_is_new_is_sent(bench):
    first = bench.run(people(20)).ok()
    rows = people(20, first=10)
    outcome = bench.run(rows, run_id="run 2").ok()
    assert outcome.requests["POST"] == 10
    assert outcome.ids[:10] == first.ids[10:]
    bench.prove(people(30), bench.run(people(30)).ok())


def test_a_retry_of_the_same_dag_run_says_created_and_another_run_says_known(bench):
    rows = people(3)
    bench.run(rows).ok()
    assert bench.run(rows).ok().statuses == {"created": 3}
    assert bench.run(rows, run_id="run 2").ok().statuses == {"known": 3}


def test_over_all_attempts_what_was_done_is_counted_once(on_sqlite):
    """What metrics are made of: a retry tells the same in its summary, and has done nothing."""
    on_sqlite.sandbox.settings(taken={"email": ["j0@example.com"]})
    on_sqlite.sandbox.faults([{"kind": "lost_after", "method": "POST"}, {"kind": "lost_before", "method": "POST"}])
    rows = [*people(8), {"id": "bad", "name": "Jo"}]
    first, retry = on_sqlite.run(rows).ok(), on_sqlite.run(rows).ok()
    assert first.recorded == {"created": 7, "rejected": 2, "unknown": 2}
    assert retry.statuses == {"created": 7}
    assert retry.recorded == {}
    third = on_sqlite.run(rows, run_id="run 2").ok()
    assert third.recorded == {}
    assert (third.counts["known"], third.counts["known_rejected"]) == (7, 2)


def test_what_is_adopted_is_counted_as_adopted(on_sqlite):
    on_sqlite.sandbox.seed(people(2))
    settings = dataclasses.replace(QUICK, match_existing="email")
    assert on_sqlite.run(people(3), settings).ok().recorded == {"adopted": 2, "created": 1}
    assert on_sqlite.run(people(3), settings).ok().recorded == {}


def test_a_table_is_read_and_created_page_by_page_into_a_ledger_in_the_same_database(bench):
    name = bench.database.name("people")
    bench.database.execute(f"CREATE TABLE {name} (id INTEGER, name VARCHAR(50), email VARCHAR(50))")
    for row in people(25):
        bench.database.execute(f"INSERT INTO {name} VALUES ({row['id']}, '{row['name']}', '{row['email']}')")
    source = DatabaseSource(bench.database.engine(), ["id"], None, name="t", table_name=name, page_size=10)
    outcome = bench.run(source, dataclasses.replace(QUICK, batch_size=7)).ok()
    bench.prove(people(25), outcome)


def test_the_keys_of_the_first_run_are_those_of_the_second_whether_they_come_as_numbers_or_texts(bench):
    bench.run(people(5)).ok()
    texts = [{**row, "id": str(row["id"])} for row in people(5)]
    assert bench.run(texts, run_id="run 2").ok().requests == {}


def test_what_is_sent_carries_the_records_reference_in_its_description(on_sqlite):
    long = "A description that leaves no room for more"
    rows = [*people(1), *people(1, first=1, description="Donut shop"), *people(1, first=2, description=long)]
    on_sqlite.run(rows).ok()
    codes = [reference(on_sqlite.ledger.ledger_id, ACCOUNT, str(number)) for number in range(3)]
    stored = {customer["email"]: customer["description"] for customer in on_sqlite.sandbox.customers()}
    assert [stored[row["email"]] for row in rows] == [f"ref #{codes[0]}", f"Donut shop #{codes[1]}", long]
    assert {post["idempotency_key"] for post in on_sqlite.sandbox.log()} == {f"{code}-1" for code in codes}


def test_references_can_be_turned_off(on_sqlite):
    on_sqlite.run(people(3), dataclasses.replace(QUICK, reference=False)).ok()
    assert {customer["description"] for customer in on_sqlite.sandbox.customers()} == {None}


def test_an_empty_input_is_a_success_without_a_request(on_sqlite):
    outcome = on_sqlite.run([]).ok()
    assert (outcome.ids, outcome.requests) == ([], {})


# ---- faults --------------------------------------------------------------------------------------------------------

AT_ONCE = [
    {"kind": "lost_before"},
    {"kind": "lost_after"},
    {"kind": "status_before", "status": 500},
    {"kind": "status_after", "status": 500},
    {"kind": "status_after", "status": 408},
    {"kind": "html_before", "status": 502},
    {"kind": "html_after", "status": 502},
    {"kind": "cut_before"},
    {"kind": "cut_after"},
    {"kind": "garbage_before"},
    {"kind": "garbage_after"},
    {"kind": "garbage_after", "status": 200, "body": "{}"},
    {"kind": "garbage_after", "status": 201, "body": '{"data": {"object": "customer"}}'},
]


@pytest.mark.parametrize("fault", AT_ONCE, ids=lambda fault: "-".join(map(str, fault.values())))
def test_a_request_without_a_usable_answer_is_looked_up_before_anything_is_sent_again(on_sqlite, fault):
    rows = people(16)
    on_sqlite.sandbox.faults([{**fault, "every": 4}])
    outcome = on_sqlite.run(rows).ok()
    on_sqlite.prove(rows, outcome)
    fired = on_sqlite.sandbox.stats()["faults"][fault["kind"]]
    assert outcome.counts["unknown"] == fired >= 4
    assert outcome.counts["found"] == (fired if fault["kind"].endswith("_after") else 0)
    assert outcome.requests["POST"] == 16 + (0 if fault["kind"].endswith("_after") else fired)
    assert outcome.statuses == {"created": 16}
    assert on_sqlite.nothing_is_held()


def test_requests_that_hang_or_are_committed_late_are_looked_up_once_payarc_has_settled(on_sqlite):
    rows = people(12)
    on_sqlite.sandbox.faults(
        [
            {"kind": "hang_before", "seconds": 1.3, "match": {"email": "j1@example.com"}},
            {"kind": "hang_after", "seconds": 1.3, "match": {"email": "j2@example.com"}},
            {"kind": "late_commit", "seconds": 1.3, "match": {"email": "j3@example.com"}},
            {"kind": "late_commit", "seconds": 0.3, "status": 504, "match": {"email": "j4@example.com"}},
        ]
    )
    outcome = on_sqlite.run(rows, Settings(timeout=1, settle=3, lease=30)).ok()
    on_sqlite.prove(rows, outcome)
    assert outcome.counts["found"] >= 4


def test_faults_of_all_kinds_together_leave_one_customer_per_record_on_every_ledger(bench):
    rows = people(60)
    periods = {
        "lost_after": 5,
        "status_before": 7,
        "html_after": 9,
        "cut_after": 11,
        "lost_before": 13,
        "cut_before": 17,
    }
    bench.sandbox.faults([{"kind": kind, "every": every} for kind, every in periods.items()])
    bench.sandbox.faults([{"kind": "rate_limited", "seconds": 0.2, "skip": 30}])
    outcome = bench.run(rows, dataclasses.replace(QUICK, batch_size=25)).ok()
    bench.prove(rows, outcome)
    assert bench.states() == {"created": 60}


@pytest.mark.parametrize("described", ["A description that leaves no room for more", None])
def test_customers_that_bear_no_reference_are_recognised_by_being_equal(on_sqlite, described):
    rows = people(16, description=described)
    on_sqlite.sandbox.faults([{"kind": "lost_after", "every": 3}, {"kind": "lost_before", "every": 5}])
    settings = dataclasses.replace(QUICK, reference=described is not None)
    outcome = on_sqlite.run(rows, settings).ok()
    on_sqlite.prove(rows, outcome)
    assert outcome.counts["found"] >= 5


def test_records_that_are_equal_in_everything_have_a_customer_each(on_sqlite):
    rows = [{"id": number, "name": "John Smith"} for number in range(12)]
    on_sqlite.sandbox.faults([{"kind": "lost_after", "every": 3}, {"kind": "lost_before", "every": 4}])
    for settings in (QUICK, dataclasses.replace(QUICK, reference=False)):
        outcome = on_sqlite.run([{**row, "id": f"{settings.reference} {row['id']}"} for row in rows], settings).ok()
        assert len(set(outcome.ids)) == 12
    assert len(on_sqlite.sandbox.customers()) == 24


def test_the_rate_limit_is_waited_out_and_no_record_is_lost_or_doubled(on_sqlite):
    rows = people(20)
    on_sqlite.sandbox.settings(rate_limit=12, rate_window=1)
    outcome = on_sqlite.run(rows).ok()
    on_sqlite.prove(rows, outcome)
    assert on_sqlite.sandbox.stats()["posts"]["created"] == 20


@pytest.mark.parametrize("concurrency", [8, 16])
def test_one_429_teaches_how_long_windows_are_and_no_other_is_met(on_sqlite, concurrency):
    rows = people(90)
    on_sqlite.sandbox.settings(rate_limit=30, rate_window=2.0, latency=0.02)
    with patch.object(Ledger, "update_fact", autospec=True, side_effect=Ledger.update_fact) as exchange:
        outcome = on_sqlite.run(rows, dataclasses.replace(QUICK, concurrency=concurrency)).ok()
    on_sqlite.prove(rows, outcome)
    assert outcome.counts["rate_limited"] == on_sqlite.sandbox.stats()["posts"]["rate_limited"]
    assert outcome.counts["rate_limited"] <= 2  # a slow machine may make it two
    assert exchange.call_count <= 4, "a worker that is alone uses the ledger once in a window"


def test_workers_on_one_token_share_windows_through_the_ledger(bench):
    """What a 429 costs is a request; more than those of the first window would mean that nothing is shared."""
    bench.sandbox.settings(rate_limit=20, rate_window=3.0, latency=0.02)
    parts = [people(30, first=1 + 30 * number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(bench.run, parts))
    for outcome in outcomes:
        outcome.ok()
    assert len(bench.sandbox.customers()) == 120
    assert bench.ledger.facts(RATE_FACT)
    refused = [post for post in bench.sandbox.log() if post["outcome"] == "rate_limited"]
    first = bench.sandbox.log()[0]["arrived"]
    assert sum(post["arrived"] > first + 5.9 for post in refused) <= 6


def test_a_ledger_that_cannot_share_the_rate_limit_holds_nothing_up(on_sqlite):
    class Unable(Ledger):
        def update_fact(self, name, change):
            raise LedgerUnavailable("not now")

    on_sqlite.sandbox.settings(rate_limit=20, rate_window=1.0)
    parts = [people(20, first=1 + 20 * number) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda rows: on_sqlite.run(rows, ledger=Unable), parts))
    for rows, outcome in zip(parts, outcomes, strict=True):
        assert len(outcome.ok().ids) == len(rows)
    assert len(on_sqlite.sandbox.customers()) == 40


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
def test_a_429_in_any_form_is_waited_out(on_sqlite, form):
    rows = people(6)
    on_sqlite.sandbox.settings(retry_after=form)
    on_sqlite.sandbox.faults([{"kind": "rate_limited", "seconds": 1, "skip": 2}])
    outcome = on_sqlite.run(rows).ok()
    on_sqlite.prove(rows, outcome)
    assert outcome.counts["rate_limited"] == 1
    assert outcome.counts["unknown"] == 0


def test_an_answer_that_never_becomes_usable_stops_the_run_and_a_later_one_finds_what_was_made(on_sqlite):
    rows = people(30)
    on_sqlite.sandbox.faults([{"kind": "lost_after", "times": None}])
    settings = dataclasses.replace(QUICK, max_unknown_in_a_row=4, max_pauses=1, max_tries=3)
    stopped = on_sqlite.run(rows, settings)
    assert isinstance(stopped.error, PayarcRunStopped)
    assert "Run again" in str(stopped.error)
    assert on_sqlite.nothing_is_held()
    on_sqlite.sandbox.clear_faults()
    on_sqlite.prove(rows, on_sqlite.run(rows).ok())


def test_a_record_that_payarc_never_answers_does_not_keep_the_others_from_being_created(on_sqlite):
    rows = people(8)
    on_sqlite.sandbox.faults([{"kind": "lost_before", "times": None, "match": {"email": "j3@example.com"}}])
    outcome = on_sqlite.run(rows, dataclasses.replace(QUICK, max_tries=2))
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "1 record is" in str(outcome.error)
    assert "3: " in str(outcome.error)
    assert outcome.counts["created"] == len(on_sqlite.sandbox.customers()) == 7
    on_sqlite.sandbox.clear_faults()
    on_sqlite.prove(rows, on_sqlite.run(rows).ok())


# ---- when the run is wrong, and not the record ---------------------------------------------------------------------

WRONG = [
    ("unauthorized", PayarcAuthError),
    ("forbidden", PayarcAuthError),
    ("redirect", PayarcUnexpectedAnswer),
    ("not_found", PayarcUnexpectedAnswer),
]


@pytest.mark.parametrize(("kind", "error"), WRONG)
def test_an_answer_that_means_the_run_is_wrong_stops_it_and_a_later_run_completes(on_sqlite, kind, error):
    rows = people(40)
    on_sqlite.sandbox.faults([{"kind": kind, "skip": 10, "times": None}])
    stopped = on_sqlite.run(rows)
    assert isinstance(stopped.error, error)
    assert len(on_sqlite.sandbox.customers()) == stopped.counts["created"] == 10
    refused = on_sqlite.sandbox.stats()["faults"][kind]
    assert refused <= QUICK.concurrency, "what was on its way, and nothing after it"
    assert on_sqlite.nothing_is_held()
    on_sqlite.sandbox.clear_faults()
    on_sqlite.prove(rows, on_sqlite.run(rows).ok())


def test_after_a_401_nothing_is_in_doubt_and_no_row_is_left(on_sqlite):
    on_sqlite.sandbox.faults([{"kind": "unauthorized", "skip": 10, "times": None}])
    on_sqlite.run(people(40))
    assert on_sqlite.states() == {"created": 10}


@pytest.mark.parametrize(("kind", "error"), WRONG)
def test_what_is_wrong_from_the_beginning_claims_nothing(on_sqlite, kind, error):
    on_sqlite.sandbox.faults([{"kind": kind, "method": "*", "times": None}])
    stopped = on_sqlite.run(people(5))
    assert isinstance(stopped.error, error)
    assert on_sqlite.rows() == {}
    assert on_sqlite.sandbox.log() == []


def test_a_server_that_goes_away_and_comes_back_is_waited_for(tmp_path, on_sqlite, listen):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = [SandboxServer(port=port, state=tmp_path / "customers.db")]
    servers[0].start()
    sends = Counter()

    def on(point):
        sends[point] += 1
        if point == "before_send" and sends[point] == 1:
            servers[0].stop()
        if point == "before_send" and sends[point] == 5:
            servers.append(SandboxServer(port=port, state=tmp_path / "customers.db"))
            servers[1].start()

    listen(on)
    rows = people(12)
    try:
        outcome = on_sqlite.run(rows, dataclasses.replace(QUICK, concurrency=4), url=servers[0].url).ok()
        customers = servers[1].customers()
    finally:
        for server in servers:
            server.stop()
    assert {customer["customer_id"] for customer in customers} == set(outcome.ids)
    assert len(customers) == len(outcome.ids) == 12
    assert outcome.requests["POST"] == 12 + outcome.counts["unknown"], "requests that never left do not count"


def test_a_server_that_never_answers_stops_the_run_with_nothing_claimed(on_sqlite, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    settings = dataclasses.replace(QUICK, max_connection_failures_in_a_row=1)
    outcome = on_sqlite.run(people(5), settings, url=url)
    assert isinstance(outcome.error, PayarcConnectionFailed)
    assert on_sqlite.rows() == {}


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_what_payarc_refuses_is_reported_by_field_and_next_time_without_a_request(bench):
    rows = people(6)
    bench.sandbox.settings(taken={"email": ["j2@example.com", "j4@example.com"]})
    outcome = bench.run(rows).ok()
    rejected = [{"key": key, "errors": {"email": ["The email has already been taken."]}} for key in ("2", "4")]
    assert outcome.results.rejected() == rejected
    assert len(outcome.ids) == len(bench.sandbox.customers()) == 4
    again = bench.run(rows, run_id="run 2").ok()
    assert again.results.rejected() == rejected
    assert again.requests == {}
    assert (outcome.counts["rejected_new"], again.counts["rejected_new"]) == (2, 0)


def test_in_a_retry_of_the_same_dag_run_a_refusal_is_still_new(on_sqlite):
    on_sqlite.sandbox.settings(taken={"email": ["j0@example.com"]})
    rows = [*people(1), {"id": "bad", "name": "Jo"}]
    assert on_sqlite.run(rows).ok().counts["rejected_new"] == 2
    assert on_sqlite.run(rows).ok().counts["rejected_new"] == 2
    assert on_sqlite.run(rows, run_id="run 2").ok().counts["rejected_new"] == 0


@pytest.mark.parametrize("envelope", ["422", "409-message", "409-list"])
def test_a_refusal_in_any_of_payarcs_shapes_is_a_refusal(on_sqlite, envelope):
    on_sqlite.sandbox.settings(envelope=envelope, taken={"email": ["j1@example.com"]})
    outcome = on_sqlite.run(people(3)).ok()
    ((refused,),) = [outcome.results.rejected()]
    assert refused["key"] == "1"
    assert "already been taken" in str(refused["errors"])
    assert outcome.counts["unknown"] == 0


def test_changed_data_is_tried_again_and_unchanged_only_on_request(on_sqlite):
    on_sqlite.sandbox.settings(taken={"email": ["j0@example.com"]})
    on_sqlite.run(people(1)).ok()
    changed = on_sqlite.run([{"id": 0, "name": "John Smith", "email": "other@example.com"}]).ok()
    assert len(changed.ids) == 1

    on_sqlite.run([{"id": 9, "name": "John Smith", "email": "j0@example.com"}]).ok()
    on_sqlite.sandbox.settings(taken={})
    same = [{"id": 9, "name": "John Smith", "email": "j0@example.com"}]
    assert on_sqlite.run(same).ok().requests == {}
    assert len(on_sqlite.run(same, dataclasses.replace(QUICK, retry_rejected=True)).ok().ids) == 1


def test_records_that_the_rules_refuse_cost_no_request_and_hold_nobody_up(on_sqlite):
    rows = people(5)
    rows[2] = {"id": 2, "name": "Jo", "phone": "12345678901234"}
    rows.append({"name": "No Key"})
    rows.append({"id": 7.5, "name": "Float Key"})
    outcome = on_sqlite.run(rows).ok()
    assert [(one["key"], list(one["errors"])) for one in outcome.results.rejected()] == [
        ("2", ["name", "phone"]),
        (None, ["id"]),
        (None, ["id"]),
    ]
    assert outcome.requests["POST"] == len(outcome.ids) == 4
    assert on_sqlite.states() == {"created": 4, "rejected": 1}, "a missing key is reported and never stored"


def test_a_key_from_another_source_with_other_data_is_refused_and_never_given_the_first_ones_id(bench):
    bench.run([{"id": 42, "name": "John Smith"}], source="table a").ok()
    same = bench.run([{"id": 42, "name": "John Smith"}], source="table b", run_id="run 2").ok()
    assert same.statuses == {"known": 1}
    other = bench.run([{"id": 42, "name": "Mary Jones"}], source="table b", run_id="run 2").ok()
    (refused,) = other.results.rejected()
    assert (refused["key"], other.ids) == ("42", [])
    assert "table a" in str(refused["errors"])
    assert "ledger_table" in str(refused["errors"])
    assert len(bench.sandbox.customers()) == 1


def test_changed_data_of_the_same_source_keep_the_id_and_are_marked(on_sqlite):
    first = on_sqlite.run(people(3)).ok()
    rows = people(3)
    rows[1]["name"] = "Mary Jones"
    outcome = on_sqlite.run(rows, run_id="run 2").ok()
    assert outcome.ids == first.ids
    assert [one["changed"] for one in outcome.results.customers()] == [False, True, False]
    assert outcome.counts["changed"] == 1


# ---- keys that come twice ------------------------------------------------------------------------------------------


def test_the_same_record_twice_in_a_batch_is_one_record(on_sqlite):
    outcome = on_sqlite.run([*people(3), *people(3)]).ok()
    assert len(outcome.ids) == len(on_sqlite.sandbox.customers()) == 3
    assert outcome.end.repeated == 3


def test_the_same_key_with_other_data_in_a_batch_is_refused_for_the_later_one(on_sqlite):
    rows = [*people(2), {"id": 0, "name": "Mary Jones"}]
    outcome = on_sqlite.run(rows).ok()
    (refused,) = outcome.results.rejected()
    assert refused["key"] == "0"
    assert "same key" in refused["errors"]["id"][0]
    on_sqlite.prove(people(2), outcome)
    assert on_sqlite.states() == {"created": 2}, "the first one's row is untouched"


@pytest.mark.parametrize(("name", "changed"), [("John Smith", False), ("Mary Jones", True)])
def test_the_same_key_in_another_batch_gets_the_same_id(bench, name, changed):
    rows = [*people(4), *people(4, name=name)]
    outcome = bench.run(rows, dataclasses.replace(QUICK, batch_size=2)).ok()
    assert outcome.ids[:4] == outcome.ids[4:]
    assert [one["changed"] for one in outcome.results.customers()] == [False] * 4 + [changed] * 4
    assert len(bench.sandbox.customers()) == 4


def test_the_same_key_in_another_batch_whose_first_was_refused_is_tried_with_its_own_data(on_sqlite):
    on_sqlite.sandbox.settings(taken={"email": ["j0@example.com"]})
    rows = [*people(1), {"id": "bad", "name": "Jo"}, {"id": 0, "name": "Mary Jones"}, {"id": "bad", "name": "Joe"}]
    outcome = on_sqlite.run(rows, dataclasses.replace(QUICK, batch_size=2)).ok()
    assert {customer["name"] for customer in on_sqlite.sandbox.customers()} == {"Mary Jones", "Joe"}
    assert len(outcome.ids) == 2
    assert [one["key"] for one in outcome.results.rejected()] == ["0", "bad"]


# ---- the guard and the dry run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [3, 500])
def test_more_new_records_than_max_new_stop_the_run_before_its_first_request(on_sqlite, batch_size):
    rows = people(20)
    guarded = dataclasses.replace(QUICK, max_new=7, batch_size=batch_size)
    stopped = on_sqlite.run(rows, guarded)
    assert isinstance(stopped.error, PayarcRunStopped)
    assert "max_new=7" in str(stopped.error)
    assert "20 customers" in str(stopped.error)
    assert on_sqlite.sandbox.customers() == []
    assert on_sqlite.states() == {}
    assert on_sqlite.run(rows, dataclasses.replace(guarded, max_new=20)).ok().statuses == {"created": 20}


def test_max_new_counts_neither_known_nor_rejected_records(on_sqlite):
    on_sqlite.run(people(5)).ok()
    rows = [*people(8), {"id": "bad", "name": "Jo"}]
    outcome = on_sqlite.run(rows, dataclasses.replace(QUICK, max_new=3), run_id="run 2").ok()
    assert outcome.statuses == {"known": 5, "created": 3}
    assert len(outcome.results.rejected()) == 1


def test_a_dry_run_sends_nothing_and_writes_nothing_and_tells_what_would_happen(bench):
    bench.sandbox.settings(taken={"email": ["j1@example.com"]})
    bench.run(people(3)).ok()
    rows_before, posts_before = bench.database.rows(bench.table), len(bench.sandbox.log())
    rows = [*people(6), {"id": "bad", "name": "Jo"}]
    outcome = bench.run(rows, dataclasses.replace(QUICK, dry_run=True), run_id="run 2").ok()
    assert (outcome.counts["would_create"], outcome.counts["known"], outcome.counts["rejected"]) == (3, 2, 2)
    assert outcome.requests == {}
    assert bench.database.rows(bench.table) == rows_before
    assert len(bench.sandbox.log()) == posts_before


# ---- dead and parallel runs ----------------------------------------------------------------------------------------


def leave_behind(bench, rows, *, lease=0.3, settle=0.3):
    """What a run that was killed after its claim leaves in the ledger."""
    ledger = bench.open()
    reader = RecordReader("id", None, ledger.ledger_id)
    records = [reader.read(index, row) for index, row in enumerate(rows)]
    me = Claimant(ACCOUNT, uuid.uuid4().hex, "table people", lease, settle, "dag", "run 0", "task")
    codes = {
        record.key: code
        for record in records
        if with_reference(record.fields.get("description"), code := reference(ledger.ledger_id, ACCOUNT, record.key))
    }
    ledger.claim(me, records, codes, datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=300))
    return codes


def commit(bench, rows, codes):
    """What PayArc made of the dead run's requests."""
    return [
        customer["customer_id"]
        for customer in bench.sandbox.seed(
            {**row, "description": with_reference(row.get("description"), codes[str(row["id"])])}
            if str(row["id"]) in codes
            else row
            for row in rows
        )
    ]


LONG = "A description that leaves no room for more"


@pytest.mark.parametrize("description", ["Donut shop", LONG], ids=["by reference", "by equality"])
def test_what_a_killed_run_left_is_adopted_where_payarc_has_it_and_sent_where_it_has_not(bench, description):
    rows = people(10, description=description)
    codes = leave_behind(bench, rows)
    now = int(time.time())
    bench.sandbox.seed(people(130, first=1000, created_at=now - 90))  # more than a page of others, before and after
    made = commit(bench, [{**row, "created_at": now - 60} for row in rows[:6]], codes)
    bench.sandbox.seed(people(130, first=2000, created_at=now - 30))
    outcome = bench.run(rows, run_id="run 1").ok()
    assert outcome.ids[:6] == made
    assert outcome.requests["POST"] == 4
    assert len(bench.sandbox.customers()) == 270
    assert outcome.statuses == {"known": 6, "created": 4}
    assert bench.states() == {"created": 10}
    assert outcome.recorded == {"created": 10}, "each customer is counted once, whatever the run says of it"
    assert bench.run(rows).ok().requests == {}


def test_what_a_killed_run_left_is_settled_even_if_the_record_has_changed_or_is_unfit_by_now(on_sqlite):
    rows = people(4)
    codes = leave_behind(on_sqlite, rows)
    made = commit(on_sqlite, rows[:2], codes)
    now = [
        {**rows[0], "name": "Mary Jones"},
        {**rows[1], "name": "Jo"},
        {**rows[2], "name": "Mary Jones"},
        {**rows[3], "name": "Jo"},
    ]
    outcome = on_sqlite.run(now).ok()
    assert outcome.ids[0] == made[0]
    assert {customer["name"] for customer in on_sqlite.sandbox.customers()} == {"John Smith", "Mary Jones"}
    assert len(on_sqlite.sandbox.customers()) == 3
    assert [one["key"] for one in outcome.results.rejected()] == ["1", "3"]
    settled = on_sqlite.rows()
    assert settled["1"].customer_id == made[1], "our refusal of today's data altered nothing"


def test_what_a_killed_run_left_is_settled_by_any_later_run_of_the_account(on_sqlite):
    codes = leave_behind(on_sqlite, people(3))
    made = commit(on_sqlite, people(1), codes)
    on_sqlite.run(people(5, first=50)).ok()  # may come too early to settle them
    waited = on_sqlite.run([*people(1), *people(5, first=50)]).ok()
    assert waited.ids[0] == made[0]
    rows = on_sqlite.rows()
    assert rows["0"].customer_id == made[0]
    assert len(on_sqlite.sandbox.customers()) == 6
    assert [rows[key].unsent for key in ("1", "2")] == [True, True]


def test_a_run_that_was_suspended_looks_up_what_others_sent_for_its_lapsed_claims(on_sqlite, listen):
    rows, suspended = people(2), []

    def suspend(point):
        """While the run is about to look up its first record, its second not sent yet, another takes both over."""
        if point != "before_takeover" or suspended:
            return
        suspended.append(point)
        time.sleep(1.3)
        ledger = on_sqlite.open()
        other = Claimant(ACCOUNT, uuid.uuid4().hex, "table people", 0.3, 0.3)
        assert set(ledger.take_over(other)) == {"0", "1"}
        ledger.record_absence(other, {"0", "1"})
        commit(on_sqlite, rows[1:], leave_behind(on_sqlite, rows))
        time.sleep(0.8)

    listen(suspend)
    on_sqlite.sandbox.faults([{"kind": "lost_before", "method": "POST"}])
    settings = dataclasses.replace(QUICK, timeout=0.5, settle=0.5, lease=0.75, concurrency=1, max_unknown_in_a_row=1)
    outcome = on_sqlite.run(rows, settings).ok()
    assert suspended
    assert len(on_sqlite.sandbox.customers()) == 2
    on_sqlite.prove(rows, outcome)


def test_two_customers_where_one_is_expected_are_left_for_a_person_and_everything_else_is_done(on_sqlite):
    rows = people(4, description=LONG)
    codes = leave_behind(on_sqlite, rows[:1])
    assert codes == {}
    on_sqlite.sandbox.seed([rows[0], rows[0]])
    outcome = on_sqlite.run(rows)
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "1 record is left pending" in str(outcome.error)
    assert outcome.counts["created"] == 3
    assert on_sqlite.rows()["0"].state == "pending"
    again = on_sqlite.run(rows, run_id="run 2")
    assert isinstance(again.error, PayarcRunStopped)
    assert len(on_sqlite.sandbox.customers()) == 5, "and it is never sent"


def test_equal_records_of_several_killed_runs_are_settled_together(bench):
    rows = [{**row, "email": "same@example.com"} for row in people(6, description=LONG)]
    for share in (rows[:1], rows[1:3], rows[3:]):
        assert leave_behind(bench, share) == {}
        time.sleep(0.15)
    made = commit(bench, rows[:4], {})
    outcome = bench.run(rows).ok()
    assert len(bench.sandbox.customers()) == 6
    assert len(set(outcome.ids)) == 6
    assert set(made) < set(outcome.ids)


def test_that_payarc_alters_values_is_kept_in_mind_when_a_look_up_notices_it(on_sqlite):
    on_sqlite.sandbox.settings(alter={"name": "upper"})
    rows = [*people(1, description="Donut shop"), *people(1, first=1, description=LONG)]
    codes = leave_behind(on_sqlite, rows)
    assert set(codes) == {"0"}
    made = commit(on_sqlite, rows, codes)
    first = on_sqlite.run(rows)
    assert isinstance(first.error, PayarcRunStopped)
    assert on_sqlite.rows()["0"].customer_id == made[0], "recognized by its reference, and seen to be altered"
    second = on_sqlite.run(rows, run_id="run 2")
    assert isinstance(second.error, PayarcRunStopped), "the other one may be there, altered: a person must look"
    assert len(on_sqlite.sandbox.customers()) == 2


def test_runs_side_by_side_share_the_work_and_both_get_every_id(bench):
    bench.sandbox.settings(latency=0.01)
    rows = people(80)
    settings = Settings(timeout=2, settle=2, lease=3.2, batch_size=10, concurrency=4)
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(bench.run, given, settings, run_id=name) for given, name in ((rows, "a"), (rows[::-1], "b"))
        ]
        first, second = [future.result(WATCHDOG).ok() for future in futures]
    bench.prove(rows, first)
    assert second.ids == first.ids[::-1]
    assert first.counts["created"] + second.counts["created"] == 80


def test_a_token_of_another_merchant_does_not_see_the_first_ones_customers_in_its_list(on_sqlite):
    codes = leave_behind(on_sqlite, people(1))
    on_sqlite.sandbox.seed([{**people(1)[0], "description": with_reference(None, codes["0"]), "merchant": "2"}])
    outcome = on_sqlite.run(people(1), token=make_token("1")).ok()
    assert outcome.requests["POST"] == 1
    assert len(on_sqlite.sandbox.customers("1")) == 1


# ---- failures of the source and of the ledger ----------------------------------------------------------------------


class BrokenSource(ListSource):
    """Fails after its first page."""

    patience = 0.0

    def pages(self):
        yield from super().pages()
        time.sleep(self.patience)
        raise PayarcSourceError("the source broke")


def test_a_source_that_fails_half_way_stops_the_run_and_a_later_one_completes(on_sqlite):
    rows = people(30)
    on_sqlite.sandbox.settings(latency=0.05)
    outcome = on_sqlite.run(BrokenSource(rows[:20], "table people"), dataclasses.replace(QUICK, batch_size=5))
    assert isinstance(outcome.error, PayarcSourceError)
    assert on_sqlite.nothing_is_held()
    assert outcome.counts["created"] == len(on_sqlite.sandbox.customers()), "what was in flight is recorded"
    assert "pending" not in on_sqlite.states()
    on_sqlite.prove(rows, on_sqlite.run(rows).ok())


def test_what_stops_a_run_ends_its_waits_for_the_rate_limit_too(on_sqlite):
    rows = people(6)
    on_sqlite.sandbox.settings(rate_limit=2, rate_window=2 * WATCHDOG)
    source = BrokenSource(rows, "table people")
    source.patience = 2.0  # until a 429 has told how long the window lasts
    outcome = on_sqlite.run(source, dataclasses.replace(QUICK, batch_size=3))
    assert isinstance(outcome.error, PayarcSourceError)
    assert outcome.counts["rate_limited"] == 1
    assert on_sqlite.nothing_is_held()
    on_sqlite.sandbox.settings(rate_limit=None)
    on_sqlite.prove(rows, on_sqlite.run(rows).ok())


def failing(which, times, state):
    """A ledger whose database is away for so many calls of the named methods."""

    def fails(name):
        def method(self, *args, **options):
            if state.is_set() and state.left > 0:
                state.left -= 1
                raise LedgerUnavailable
            return getattr(Ledger, name)(self, *args, **options)

        return method

    state.left = times
    return type("Failing", (Ledger,), {name: fails(name) for name in which})


class Away(threading.Event):
    """Whether the database is away, and for how many calls more."""

    left: float = 0


def test_a_ledger_that_is_away_for_a_moment_is_waited_for(on_sqlite):
    away = Away()
    away.set()
    rows = people(12)
    every = ("rows", "claim", "record", "take_over", "record_absence", "renew", "waiting")
    on_sqlite.sandbox.faults([{"kind": "lost_before", "every": 4}])
    outcome = on_sqlite.run(rows, ledger=failing(every, 3, away)).ok()
    on_sqlite.prove(rows, outcome)
    assert away.left == 0


def test_a_ledger_that_stays_away_ends_the_run_and_what_was_made_is_found_later(on_sqlite, listen, monkeypatch):
    monkeypatch.setattr(engine, "RELEASE_SECONDS", 0.2)
    away = Away()
    listen(lambda point: away.set() if point == "before_record" else None)
    rows = people(12)
    settings = dataclasses.replace(QUICK, ledger_patience=0.5, lease=16)
    ledger = failing(("rows", "record", "renew", "release", "take_over", "waiting"), float("inf"), away)
    outcome = on_sqlite.run(rows, settings, ledger=ledger)
    assert isinstance(outcome.error, PayarcLedgerError)
    assert on_sqlite.states()["pending"] > 0
    for row in on_sqlite.rows().values():
        assert row.lease_until is not None
    on_sqlite.database.execute(f"UPDATE {on_sqlite.table} SET lease_until = '2020-01-01 00:00:00.000000'")
    listen(None)
    on_sqlite.prove(rows, on_sqlite.run(rows, run_id="run 2").ok())


def test_a_ledger_that_stays_away_while_nothing_is_answered_ends_the_run_too(on_sqlite, listen, monkeypatch):
    """All that is left to do is to send, and no lease allows it any more."""
    monkeypatch.setattr(engine, "RELEASE_SECONDS", 0.2)
    away = Away()
    listen(lambda point: away.set() if point == "after_claim" else None)
    on_sqlite.sandbox.faults([{"kind": "rate_limited", "seconds": 1}])
    settings = Settings(timeout=0.4, settle=0.5, lease=0.8, concurrency=1, ledger_patience=1.5)
    ledger = failing(("record", "renew", "release", "take_over", "waiting"), float("inf"), away)
    outcome = on_sqlite.run(people(2), settings, ledger=ledger)
    assert isinstance(outcome.error, PayarcLedgerError)
    assert on_sqlite.sandbox.customers() == [], "the second try would have made one"
