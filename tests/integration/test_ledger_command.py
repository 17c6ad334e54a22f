"""``python -m payarc_provider.ledger``, command by command, on every kind of database, with the sandbox as PayArc."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
import uuid

import pages
import pytest
import sqlalchemy as sa
from watcher import Watcher

from payarc_provider.api.client import PayarcClient
from payarc_provider.exceptions import PayarcConfigError, PayarcRunStopped
from payarc_provider.ledger import commands, rebuild
from payarc_provider.ledger.__main__ import main
from payarc_provider.sync.ledger import (
    EPOCH,
    Claimant,
    Ledger,
    LedgerLost,
    Resolution,
    State,
    UpdateClaim,
    UpdateResult,
    repair,
)
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.reference import reference, with_reference
from payarc_provider.sync.runner import run
from payarc_provider.sync.settings import Settings, TaskIdentity
from payarc_provider.sync.sources import ListSource

LEASE, SETTLE = 120.0, 60.0
SENT_AFTER = datetime.datetime(2029, 12, 31, 23, 55, tzinfo=datetime.UTC)
FAST = Settings(settle=0.3, lease=1.0, timeout=0.3, batch_size=50)


class Desk:
    """A ledger on which a person runs commands and DAGs run."""

    def __init__(self, database, monkeypatch, capsys):
        self.database = database
        self.table = database.name()
        self.account = "test/1"
        self._capsys = capsys
        self.ledger = self.open()
        for module in (commands, rebuild):
            monkeypatch.setattr(module, "sql_engine", self._engine)

    def _engine(self, conn_id, argument, **_options):
        if conn_id not in ("ledger", "crm"):
            raise PayarcConfigError(f"{argument}: there is no connection {conn_id}")
        return self.database.engine()

    def open(self):
        ledger = Ledger(self.database.engine(), self.table)
        ledger.open()
        return ledger

    def reopened(self):
        """The same desk, with the ledger opened anew."""
        self.ledger = self.open()
        return self

    def __call__(self, *arguments, expect=0):
        """Run a command and return its stdout, or its stderr if it is expected to fail."""
        self._capsys.readouterr()
        status = main(["--ledger-conn-id", "ledger", "--ledger-table", self.table, *map(str, arguments)])
        said = self._capsys.readouterr()
        assert status == expect, said
        if status == 1:
            assert said.out == ""
            assert len(said.err.strip().splitlines()) == 1
        return said.out if status == 0 else said.err

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json"))

    def claimant(self, owner="a", **changes):
        made = Claimant(
            self.account, owner * 32, "table people of crm", LEASE, SETTLE, "sync", f"run_{owner}", "create"
        )
        return dataclasses.replace(made, **changes)

    def claim(self, *keys, owner="a", sent_after=SENT_AFTER, **changes):
        """Claim rows as a run that may have sent them."""
        me = self.claimant(owner, **changes)
        reader = RecordReader("id", None, self.ledger.ledger_id)
        records = [reader.read(0, {"id": key, "name": "John Smith"}) for key in keys]
        self.ledger.claim(me, me.owner, records, {key: self.code(key) for key in keys}, sent_after)
        return me

    def created(self, **ids):
        me = self.claim(*ids)
        self.ledger.record(me, [Resolution(key, me.owner, customer_id=its_id) for key, its_id in ids.items()])

    def rejected(self, *keys, errors=None):
        me = self.claim(*keys)
        self.ledger.record(me, [Resolution(key, me.owner, errors=errors or {"email": ["is taken"]}) for key in keys])

    def absent(self, *keys, owner="a"):
        """Record what a look-up has found out about claimed rows: PayArc has no customer for them."""
        me = self.claimant(owner)
        self.ledger.record_absence(me, dict.fromkeys(keys, me.owner))

    def row(self, key):
        return self.ledger.rows(self.claimant(), [key]).get(key)

    def code(self, key):
        return reference(self.ledger.ledger_id, self.account, key)

    # ---- runs --------------------------------------------------------------------------------------------------------

    def run(self, sandbox, rows, settings=FAST, **changes):
        """Run the engine over these records, as the operator does, and return its results."""
        settings = dataclasses.replace(settings, **changes)
        client = PayarcClient(sandbox.url, lambda _: sandbox.token, timeout=settings.timeout)
        ledger = self.open()
        ledger.remember(identity(sandbox), self.account)
        source = ListSource(rows, self.claimant().source)
        watcher = Watcher()
        try:
            return run(
                source, client, ledger, settings, account=self.account, task=TaskIdentity("d", "r"), reporter=watcher
            )
        finally:
            self.counts = watcher.counts
            client.close()
            # A reading of the list waits out the second in which customers may still come: let it have passed.
            sandbox.settings(clock_offset=sandbox.settings()["clock_offset"] + 3)


@pytest.fixture
def desk(database, monkeypatch, capsys):
    return Desk(database, monkeypatch, capsys)


@pytest.fixture
def still(desk):
    """The desk, in a database whose clock is stopped at 2030-01-01."""
    desk.database.stop_clock()
    return desk


@pytest.fixture
def shop(desk, payarc_sandbox):
    """The desk, with the sandbox's merchant as its account."""
    desk.account = f"{payarc_sandbox.url.split('/')[2]}/1"
    return desk


on_one_database = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For behavior that does not depend on the kind of database."""


def people(*keys, **fields):
    return [{"id": key, "name": "John Smith", "email": f"{key}@example.com"} | fields for key in keys]


def seed(sandbox, customers):
    """Create customers at PayArc that are an hour old."""
    return sandbox.seed([{"created_at": int(time.time()) - 3600} | customer for customer in customers])


def identity(sandbox):
    return f'account:["{sandbox.url.split("/")[2]}", null, "1"]'


# ---- status ---------------------------------------------------------------------------------------------------------


def test_status_counts_the_rows_of_each_account_by_state(still):
    still.created(a="c1", b="c2")
    still.rejected("c")
    still.claim("held")
    still.claim("open", "open2", owner="b")
    still.ledger.release(still.claimant("b"), {})
    still.claim("gone", owner="c")
    still.absent("gone", owner="c")
    still.claim("other", account="test/2")
    still.database.move_clock(60)
    answer = still.json("status")
    assert answer["ledger_id"] == still.ledger.ledger_id
    assert answer["tables"] == [still.table, f"{still.table}_facts"]
    one, two = answer["accounts"]
    assert one == {
        "account": "test/1",
        "states": {"pending": 4, "created": 2, "updating": 0, "rejected": 1},
        "holds": {"held": 1, "open": 2, "unsent": 1},
        "sources": {"table people of crm": 7},
        "oldest_pending": "2030-01-01T00:00:00Z",
        "rejected_changes": 0,
        "last_update": None,
        "forgotten": 0,
        "erased": 0,
        "unfinished": 0,
    }
    assert two["states"] == {"pending": 1, "created": 0, "updating": 0, "rejected": 0}
    assert len(still.json("status", "--account", "test/2")["accounts"]) == 1


@on_one_database
def test_status_in_words(still):
    still.created(a="c1")
    still.claim("b")
    still.database.move_clock(7300)
    said = still("status")
    assert still.ledger.ledger_id in said
    assert re.search(
        r"account test/1\n  created +1\n  rejected +0\n  pending +1  oldest since 2030-01-01T00:00:00Z", said
    )
    assert "(2 h 1 min)" in said
    assert re.search(r"    open +1  their run has ended", said)
    assert "           2  from: table people of crm\n" in said


@on_one_database
def test_a_missing_ledger_is_reported_and_not_created(still):
    still.table = still.database.name()
    for command in ("status", "pending", "rejected", "retry --all", "forget a", "resolve a --absent --yes"):
        assert f"has no ledger {still.table}" in still(*command.split(), expect=1)
    assert not sa.inspect(still.database.engine()).has_table(still.table)


@on_one_database
def test_an_unknown_or_ambiguous_account_is_rejected(still):
    still.rejected("a")
    still.claim("a", account="test/2")
    assert "it has test/1, test/2" in still("status", "--account", "test/3", expect=1)
    assert "give --account; the ledger has test/1, test/2" in still("retry", "a", expect=1)
    still("retry", "a", "--account", "test/1")


# ---- pending, rejected ----------------------------------------------------------------------------------------------


def test_pending_prints_since_when_which_run_and_until_when(still):
    still.claim("a")
    still.database.move_clock(10)
    still.claim("b", owner="b")
    still.ledger.release(still.claimant("b"), {})
    still.claim("c", owner="c")
    still.absent("c", owner="c")
    a, b, c = still.json("pending")["pending"]
    assert a == {
        "account": "test/1",
        "key": "a",
        "state": "pending",
        "since": "2030-01-01T00:00:00Z",
        "hold": "held",
        "takeover_at": "2030-01-01T00:03:00Z",
        "reference": still.code("a"),
        "source": "table people of crm",
        "attempt": 1,
        "dag_id": "sync",
        "run_id": "run_a",
        "task_id": "create",
    }
    still.database.move_clock(1)
    assert (b["key"], b["since"], b["takeover_at"]) == ("b", "2030-01-01T00:00:10Z", "2030-01-01T00:01:10Z")
    assert still.json("pending")["pending"][1]["hold"] == "open"
    assert (c["key"], c["hold"], c["takeover_at"], c["attempt"]) == ("c", "unsent", None, 2)
    lines = still("pending").splitlines()
    assert lines[1] == f"2030-01-01T00:00:00Z  held    2030-01-01T00:03:00Z  {still.code('a')}  a"
    assert lines[2] == "    sync.create, run run_a; table people of crm; account test/1"


def test_rejected_prints_since_when_and_why(still):
    still.rejected("a", errors={"email": ["is taken."], "name": ["too short.", "no digits."]})
    assert still.json("rejected")["rejected"] == [
        {
            "account": "test/1",
            "key": "a",
            "customer_id": None,
            "since": "2030-01-01T00:00:00Z",
            "source": "table people of crm",
            "errors": {"email": ["is taken."], "name": ["too short.", "no digits."]},
            "sent": True,
            "retried": False,
            "dag_id": "sync",
            "run_id": "run_a",
            "task_id": "create",
        }
    ]
    still("retry", "a")
    assert still.json("rejected")["rejected"][0]["retried"] is True


@on_one_database
def test_rejected_counts_records_by_reason(still):
    short = "must have at least 3 characters (it has {}): fix it at the source"
    for number in range(1, 13):
        still.rejected(f"c-{number}", errors={"name": [short.format(number % 2 + 1)]})
    still.rejected("d", errors={"name": [short.format(1)], "email": ["has already been taken"]})
    assert still("rejected").splitlines() == [
        "13 records: name must have at least 3 characters (keys c-1, c-2, c-3, c-4, c-5, …)",
        "1 record: email has already been taken (key d)",
    ]


@on_one_database
def test_rejected_counts_each_account_for_itself(still):
    still.rejected("a", "b")
    me = still.claim("a", account="test/2")
    still.ledger.record(me, [Resolution("a", me.owner, errors={"zip": ["is wrong"]})])
    assert still("rejected").splitlines() == [
        "account test/1",
        "  2 records: email is taken (keys a, b)",
        "",
        "account test/2",
        "  1 record: zip is wrong (key a)",
    ]
    assert still("rejected", "--account", "test/2") == "1 record: zip is wrong (key a)\n"


@on_one_database
def test_rejected_names_how_many_records_have_other_reasons(still, monkeypatch):
    monkeypatch.setattr("payarc_provider.sync.rejections.MAX_GROUPS", 1)
    still.rejected("a", errors={"zip": ["is wrong"]})
    still.rejected("b", errors={"zip": ["is long"]})
    assert still("rejected").splitlines()[1] == "1 with other reasons: --csv lists them"


def test_rejected_as_csv_has_a_line_for_each_reason_of_each_record(still):
    still.rejected("c-10", "c-2", errors={"email": ["is taken"], "name": ["too short", 'no "digits", please']})
    still.rejected("-1", errors={"@x": ["=1+1"]})
    text = still("rejected", "--csv")
    assert text.splitlines()[:2] == [
        "account,key,field,reason,customer_id,rejected_since,source,dag_id,run_id,task_id",
        "test/1,'-1,'@x,'=1+1,,2030-01-01T00:00:00Z,table people of crm,sync,run_a,create",
    ]
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["key"], line["field"], line["reason"]) for line in lines[1:4]] == [
        ("c-2", "email", "is taken"),
        ("c-2", "name", "too short"),
        ("c-2", "name", 'no "digits", please'),
    ]
    assert [line["key"] for line in lines[4:]] == ["c-10"] * 3
    assert "not allowed with" in still("rejected", "--csv", "--json", expect=2)


@on_one_database
def test_rejected_as_csv_of_nothing_has_only_its_head(still):
    assert still("rejected", "--csv").startswith("account,key,")
    assert len(still("rejected", "--csv").splitlines()) == 1


def test_changes_of_customers_are_shown(still):
    """Of a, b and c, a is being changed, a change of b is rejected, and c was changed."""
    still.created(a="c1", b="c2", c="c3")
    still.database.move_clock(60)
    me = still.claimant("u")
    for key, name in zip("abc", ("u.1", "u.2", "u.3"), strict=True):
        still.ledger.claim_updates(me, [UpdateClaim(name, still.row(key), "", "n:2")])
    rejected = UpdateResult("b", "u.2", "d", "", None, None, None, errors={"email": ["is taken."]}, sent=False)
    still.ledger.record_updates(me, [rejected, UpdateResult("c", "u.3", "d", "", "n:2", None, None)])
    [one] = still.json("status")["accounts"]
    assert one["states"] == {"pending": 0, "created": 2, "updating": 1, "rejected": 0}
    assert (one["rejected_changes"], one["last_update"]) == (1, "2030-01-01T00:01:00Z")
    assert one["holds"] == {"held": 1, "open": 0, "unsent": 0}
    said = still("status")
    assert re.search(r"  updating +1\n", said)
    assert "last update of a customer 2030-01-01T00:01:00Z" in said
    [updating] = still.json("pending")["pending"]
    assert (updating["key"], updating["state"], updating["hold"], updating["since"]) == ("a", "updating", "held", None)
    assert "its customer is being updated" in still("pending")
    [change] = still.json("rejected")["rejected"]
    assert (change["key"], change["customer_id"], change["sent"]) == ("b", "c2", None)
    assert ",b,email,is taken.,c2," in still("rejected", "--csv")
    shown = still("show", "c")
    assert re.search(r"^customer +c3$", shown, flags=re.MULTILINE)
    assert re.search(r"^updated +2030-01-01T00:01:00Z$", shown, flags=re.MULTILINE)
    assert re.search(r"^version +n:2$", shown, flags=re.MULTILINE)
    assert re.search(r"^rejected +email: is taken\.$", still("show", "b"), flags=re.MULTILINE)
    assert "no key" in still("show", "z", expect=1)
    assert "may reach PayArc until" in still("forget", "a", expect=1)
    assert "is updating, not pending" in still("resolve", "a", "--absent", "--yes", expect=1)
    assert "not rejected" in still("retry", "c", expect=1)
    still("retry", "b")
    assert still.row("b").digest == ""
    assert still.row("b").state == "created"
    still.database.move_clock(600)
    assert still.json("status")["accounts"][0]["holds"] == {"held": 0, "open": 1, "unsent": 0}
    assert "Customer c1 stays at PayArc" in still("forget", "a")


@on_one_database
def test_an_empty_list_is_said_in_words(still):
    assert still("pending") == "nothing is pending\n"
    assert still("rejected") == "nothing is rejected\n"
    assert still.json("pending") == {"total": 0, "pending": []}


@on_one_database
def test_limit_and_offset_give_consecutive_pages(still):
    for key in "abcde":
        still.claim(key)
        still.database.move_clock(1)
    first = still("pending", "--limit", 2)
    assert first.splitlines()[-1] == "3 more: --offset 2"
    pages = [still.json("pending", "--limit", 2, "--offset", offset)["pending"] for offset in (0, 2, 4)]
    assert [row["key"] for page in pages for row in page] == list("abcde")
    assert "more" not in still("pending", "--limit", 2, "--offset", 3)


@on_one_database
def test_a_key_that_looks_like_an_email_is_never_printed(still):
    secret = "john@example.com"
    still.rejected(secret)
    still.claim(f"x{secret}")
    said = still("rejected") + still("pending") + json.dumps([still.json("rejected"), still.json("pending")])
    said += still("rejected", "--csv")
    said += still("forget", f"x{secret}", expect=1) + still("resolve", f"x{secret}", "--absent", "--yes", expect=1)
    said += still("retry", f"x{secret}", expect=1) + still("retry", secret) + still("forget", secret)
    assert "example.com" not in said
    assert said.count("(a key that looks like an email)") == 9


@on_one_database
def test_tables_fit_into_100_columns(still):
    long = {
        "dag_id": "a_dag_with_a_long_name" * 4,
        "run_id": "scheduled__2030-01-01T00:00:00+00:00",
        "task_id": "t" * 40,
    }
    still.claim("a" * 30, **long)
    still.rejected("b" * 30, errors={"email": ["must be something else entirely. " * 8]})
    said = still("pending") + still("rejected") + still("status")
    assert max(len(line) for line in said.splitlines()) <= 100


# ---- resolve --------------------------------------------------------------------------------------------------------


def test_a_claimed_row_is_not_resolved_before_its_takeover_time(still):
    still.claim("a")
    said = still("resolve", "a", "--absent", "--yes", expect=1)
    assert "is claimed by run run_a of sync until 2030-01-01T00:02:00Z" in said
    still.database.move_clock(LEASE + 1)
    late = "a request for a may reach PayArc until 2030-01-01T00:03:00Z"
    assert late in still("resolve", "a", "--absent", "--yes", expect=1)
    still.database.move_clock(SETTLE)
    still("resolve", "a", "--absent", "--yes")
    assert still.row("a").unsent
    assert still.row("a").attempt == 2


@on_one_database
def test_only_a_pending_row_can_be_resolved(still):
    still.created(a="c1")
    still.rejected("b")
    assert "a is created, not pending" in still("resolve", "a", "--absent", "--yes", expect=1)
    assert "b is rejected, not pending" in still("resolve", "b", "--absent", "--yes", expect=1)
    assert "has no key z" in still("resolve", "z", "--absent", "--yes", expect=1)
    still.claim("c")
    still.absent("c")
    assert "never sent, or PayArc is known to have no" in still("resolve", "c", "--absent", "--yes", expect=1)


@on_one_database
def test_absence_must_be_confirmed(still, monkeypatch):
    still.claim("a")
    still.ledger.release(still.claimant(), {})
    still.database.move_clock(SETTLE + 1)
    for answer in ("", "no\n", "y\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        said = still("resolve", "a", "--absent", expect=1)
        assert f"its description would end with #{still.code('a')}" in said
        assert "not confirmed" in said
        assert not still.row("a").unsent
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    still("resolve", "a", "--absent")
    assert still.row("a").unsent


def left_open(shop, *keys, owner="a"):
    """Leave rows open, as a run that was killed long ago."""
    me = shop.claim(*keys, owner=owner, settle=0.0, sent_after=EPOCH)
    shop.ledger.release(me, {})


def test_a_row_is_resolved_with_a_customer_that_payarc_has(shop, payarc_sandbox):
    left_open(shop, "a")
    [customer] = seed(payarc_sandbox, [{"name": "John Smith", "email": "secret@example.com"}])
    said = shop("resolve", "a", "--customer-id", f"cus_{customer['customer_id']}")
    assert said == f"a: created, customer {customer['customer_id']}\n"
    row = shop.row("a")
    assert (row.state, row.customer_id, row.owner, row.sent_after) == (
        State.CREATED,
        customer["customer_id"],
        None,
        None,
    )
    assert row.matched_by == "person"
    results = shop.run(payarc_sandbox, people("a"))
    assert results.customer_ids() == [customer["customer_id"]]
    assert len(payarc_sandbox.customers()) == 1


@on_one_database
def test_a_customer_that_payarc_does_not_have_resolves_nothing(shop, payarc_sandbox):
    left_open(shop, "a")
    [foreign] = seed(payarc_sandbox, [{"name": "John Smith", "merchant": "2"}])
    for its_id in ("nobody", foreign["customer_id"]):
        said = shop("resolve", "a", "--customer-id", its_id, expect=1)
        assert f"has no customer {its_id} for the connection payarc_default" in said
    assert "not a PayArc customer id" in shop("resolve", "a", "--customer-id", "a/b", expect=1)
    assert shop.row("a").state == State.PENDING


@on_one_database
def test_a_claimed_row_gets_no_customer(shop, payarc_sandbox):
    shop.claim("a")
    [customer] = seed(payarc_sandbox, [{"name": "John Smith"}])
    assert "is claimed by" in shop("resolve", "a", "--customer-id", customer["customer_id"], expect=1)
    assert shop.row("a").customer_id is None


def test_a_customer_of_another_row_resolves_nothing(shop, payarc_sandbox):
    left_open(shop, "a", "c")
    [taken, other, own] = seed(
        payarc_sandbox,
        [
            {"name": "John Smith", "description": text}
            for text in ("", f"ref {shop.code('c')}", f"ref {shop.code('a')}")
        ],
    )
    shop.created(b=taken["customer_id"])
    assert "belongs to the key b" in shop("resolve", "a", "--customer-id", taken["customer_id"], expect=1)
    assert "carries another key's reference" in shop("resolve", "a", "--customer-id", other["customer_id"], expect=1)
    shop("resolve", "a", "--customer-id", own["customer_id"])


@on_one_database
def test_another_merchants_token_resolves_nothing(still, payarc_sandbox):
    still.claim("a", settle=0.0)
    still.ledger.release(still.claimant(), {})
    still.database.move_clock(1)
    [customer] = seed(payarc_sandbox, [{"name": "John Smith"}])
    said = still("resolve", "a", "--customer-id", customer["customer_id"], expect=1)
    assert "belongs to the account 127.0.0.1" in said
    assert "not test/1" in said


@on_one_database
def test_a_row_resolved_as_absent_is_sent_by_the_next_run(shop, payarc_sandbox):
    left_open(shop, "a")
    shop("resolve", "a", "--absent", "--yes")
    assert len(shop.run(payarc_sandbox, people("a")).customer_ids()) == 1
    [post] = payarc_sandbox.log()
    assert post["idempotency_key"] == f"{shop.code('a')}-2"


# ---- retry ----------------------------------------------------------------------------------------------------------


def test_a_rejected_record_is_tried_again(shop, payarc_sandbox):
    payarc_sandbox.settings(taken={"email": ["a@example.com", "b@example.com"]})
    rows = people("a", "b", "c")
    assert len(shop.run(payarc_sandbox, rows).rejected()) == 2
    payarc_sandbox.settings(taken={})
    assert len(shop.run(payarc_sandbox, rows).rejected()) == 2
    assert shop("retry", "a") == "the next run tries 1 rejected record again\n"
    assert [one["key"] for one in shop.run(payarc_sandbox, rows).rejected()] == ["b"]
    assert shop("retry", "--all").startswith("the next run tries 1 rejected record")
    assert shop.run(payarc_sandbox, rows).rejected() == []
    assert "nothing is rejected" in shop("retry", "--all", expect=1)
    assert len(payarc_sandbox.customers()) == 3
    assert [post["idempotency_key"][-2:] for post in payarc_sandbox.log()].count("-2") == 2


@on_one_database
def test_retry_changes_all_of_the_given_keys_or_none(still):
    still.rejected("a")
    still.created(b="c1")
    assert "b is created, not rejected" in still("retry", "a", "b", expect=1)
    assert "has no key z" in still("retry", "a", "z", expect=1)
    assert not still.json("rejected")["rejected"][0]["retried"]


# ---- forget ---------------------------------------------------------------------------------------------------------


@on_one_database
def test_a_pending_key_is_not_forgotten(still):
    still.claim("a")
    assert "a is pending" in still("forget", "a", expect=1)
    still.absent("a")
    assert "a is pending" in still("forget", "a", expect=1)
    assert "has no key z" in still("forget", "z", expect=1)
    assert still.row("a") is not None


def forgotten(shop, sandbox, rows, **changes):
    """Create and forget the only record; returns its customer."""
    [old] = shop.run(sandbox, rows, **changes).customer_ids()
    said = shop("forget", rows[0]["id"])
    assert f"Customer {old} stays at PayArc" in said
    assert shop.row(str(rows[0]["id"])) is None
    assert shop.json("status")["accounts"][0]["forgotten"] == 1
    return old


def test_a_forgotten_key_gets_a_new_customer(shop, payarc_sandbox):
    payarc_sandbox.settings(idempotency="replay")
    old = forgotten(shop, payarc_sandbox, people("a"))
    [new] = shop.run(payarc_sandbox, people("a")).customer_ids()
    assert new != old
    assert len(payarc_sandbox.customers()) == 2
    assert shop.run(payarc_sandbox, people("a")).customer_ids() == [new]


@on_one_database
@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("fault", ["lost_after", "lost_before"])
def test_a_look_up_never_finds_the_forgotten_customer(shop, payarc_sandbox, fault, with_reference):
    old = forgotten(shop, payarc_sandbox, people("a"), reference=with_reference)
    payarc_sandbox.faults([{"kind": fault, "times": 1}])
    [new] = shop.run(payarc_sandbox, people("a"), reference=with_reference).customer_ids()
    assert shop.counts["unknown"] == 1
    assert new != old
    assert len(payarc_sandbox.customers()) == 2


@on_one_database
def test_the_forgotten_customer_is_not_adopted_by_email(shop, payarc_sandbox):
    old = forgotten(shop, payarc_sandbox, people("a"))
    ids = shop.run(
        payarc_sandbox, people("a") + people("b", email="a@example.com"), match_existing="email"
    ).customer_ids()
    assert len({old, *ids}) == 3


def test_an_answer_with_the_forgotten_customer_is_not_recorded(shop, payarc_sandbox):
    old = forgotten(shop, payarc_sandbox, people("a"))
    me = shop.claim("a", "b")
    answers = [Resolution(key, me.owner, customer_id=its_id) for key, its_id in (("a", old), ("b", "new"))]
    recorded = shop.ledger.record(me, answers)
    assert (recorded.keys, recorded.conflicts) == ({"b"}, {"a"})
    assert shop.row("a").state == State.PENDING


@on_one_database
def test_the_forgotten_customer_resolves_nothing(shop, payarc_sandbox):
    old = forgotten(shop, payarc_sandbox, people("a"))
    left_open(shop, "a")
    assert "forgotten key" in shop("resolve", "a", "--customer-id", old, expect=1)


@on_one_database
def test_a_rejected_record_can_be_forgotten(shop, payarc_sandbox):
    payarc_sandbox.settings(taken={"email": ["a@example.com"]}, idempotency="replay")
    shop.run(payarc_sandbox, people("a"))
    assert shop("forget", "a") == "a: forgotten\n"
    payarc_sandbox.settings(taken={})
    assert len(shop.run(payarc_sandbox, people("a")).customer_ids()) == 1
    assert [post["idempotency_key"][-2:] for post in payarc_sandbox.log()] == ["-1", "-2"]


def test_a_first_claim_released_unsent_leaves_no_row_after_attempts_were_raised(still):
    still.created(a="c1")
    still("forget", "a")
    me = still.claim("a", "b")
    assert still.row("b").attempt == 2
    still.ledger.release(me, dict.fromkeys("ab", me.owner))
    assert still.row("a") is still.row("b") is None


# ---- rebuild --------------------------------------------------------------------------------------------------------


def lose(desk, *suffixes):
    ledger_id = desk.ledger.ledger_id
    for suffix in suffixes:
        desk.database.execute(f"DROP TABLE {desk.table}{suffix}")
    return ledger_id


def crm(desk, *keys):
    """A table of people, whose keys are integers."""
    name = desk.database.name("people")
    desk.database.execute(f"CREATE TABLE {name} (id integer, name varchar(50))")
    for key in keys:
        desk.database.execute(f"INSERT INTO {name} VALUES ({key}, 'John Smith')")
    return name


def test_a_lost_ledger_is_rebuilt_from_the_references(shop, payarc_sandbox):
    rows = people(*range(1, 8))
    rows[1]["description"], rows[2]["description"] = (
        "Donut shop customer",
        "A description without any room left for more",
    )
    before = shop.run(payarc_sandbox, rows).customers()
    table = crm(shop, *range(1, 8), 99)
    shop.database.execute(f"INSERT INTO {table} VALUES (NULL, 'Nobody')")
    ledger_id = lose(shop, "", "_facts")
    assert "give --ledger-id" in shop("rebuild", "--table", table, expect=1)
    said = shop.json("rebuild", "--table", table, "--ledger-id", ledger_id)
    assert said["counts"] == {"inserted": 6, "absent": 2}
    assert (said["keys"], said["customers"], said["unusable"], said["doubts"]) == (8, 7, 1, [])
    shop.ledger = shop.open()
    assert shop.ledger.ledger_id == ledger_id
    assert shop.row("1").source == f"table {table} of ledger"
    after = shop.run(payarc_sandbox, [row for row in rows if row["id"] != 3]).customers()
    assert after == [one | {"status": "known"} for one in before if one["key"] != "3"]
    assert shop.ledger.fact(identity(payarc_sandbox)) == shop.account


@on_one_database
def test_the_order_of_a_composite_key_is_rebuilt_and_may_not_change(shop, payarc_sandbox):
    rows = [row | {"tenant": 5} for row in people(1, 2)]
    shop.run(payarc_sandbox, rows, key=["tenant", "id"])
    table = shop.database.name("people")
    shop.database.execute(f"CREATE TABLE {table} (tenant integer, id integer)")
    shop.database.execute(f"INSERT INTO {table} VALUES (5, 1), (5, 2)")
    lose(shop, "")
    assert 'key=["tenant", "id"]' in shop("rebuild", "--table", table, "--key", "id", "tenant", expect=1)
    ledger_id = lose(shop, "_facts")
    rebuild = ("rebuild", "--table", table, "--ledger-id", ledger_id, "--key")
    assert "no customer at PayArc carries" in shop(*rebuild, "id", "tenant", expect=1)
    assert shop.json(*rebuild, "tenant", "id")["counts"] == {"inserted": 2}
    with pytest.raises(PayarcConfigError, match="in another order"):
        shop.run(payarc_sandbox, rows, key=["id", "tenant"])
    assert shop.run(payarc_sandbox, rows, key=["tenant", "id"]).summary["known"] == 2


@pytest.mark.parametrize("whole_table", [True, False])
def test_lost_rows_stop_runs_until_the_ledger_is_rebuilt(shop, payarc_sandbox, whole_table):
    rows = people(1, 2, 3)
    shop.run(payarc_sandbox, rows)
    if whole_table:
        lose(shop, "")
    else:
        shop.database.execute(f"DELETE FROM {shop.table}")
    for _ in range(2):
        with pytest.raises(PayarcConfigError, match="rebuild"):
            shop.reopened().run(payarc_sandbox, rows)
    said = shop.json("rebuild", "--table", crm(shop, 1, 2, 3))
    assert said["counts"] == {"inserted": 3}
    shop.ledger = shop.open()
    assert {one["status"] for one in shop.run(payarc_sandbox, rows).customers()} == {"known"}
    assert len(payarc_sandbox.customers()) == 3


def test_a_loss_that_leaves_nothing_to_restore_is_accepted_by_hand(shop, payarc_sandbox):
    shop.run(payarc_sandbox, people(1))
    shop.ledger.note_loss(shop.account)
    shop.database.execute(f"DELETE FROM {shop.table}")
    with pytest.raises(PayarcConfigError, match="rebuild"):
        shop.run(payarc_sandbox, people(1))
    table = crm(shop, 77)
    assert "--accept-loss" in shop("rebuild", "--table", table, expect=1)
    shop("rebuild", "--table", table, "--accept-loss")
    assert [one["status"] for one in shop.run(payarc_sandbox, people(2)).customers()] == ["created"]


def test_a_lease_in_the_future_is_released_after_a_question(still, monkeypatch):
    still.claim("1", lease=LEASE)
    still.database.move_clock(-3600)
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    assert "not confirmed" in still("release", "1", expect=1)
    assert "1 row is released" in still("release", "--all", "--yes")
    assert "no lease lies too far in the future" in still("release", "--all", "--yes", expect=1)
    still.database.move_clock(LEASE + SETTLE + 1)
    assert set(still.ledger.take_over(still.claimant("b"), "b.1")) == {"1"}


@on_one_database
def test_customers_without_a_reference_are_adopted_by_email_after_a_rebuild(shop, payarc_sandbox):
    rows = people(1, 2)
    rows[1]["description"] = "A description without any room left for more"
    before = shop.run(payarc_sandbox, rows).customer_ids()
    ledger_id = lose(shop, "", "_facts")
    shop("rebuild", "--table", crm(shop, 1, 2), "--ledger-id", ledger_id)
    assert shop.run(payarc_sandbox, rows, match_existing="email").customer_ids() == before


@on_one_database
def test_keys_come_from_a_file_or_from_stdin(shop, payarc_sandbox, tmp_path, monkeypatch):
    shop.run(payarc_sandbox, people("a", 'é"x', " c", email="j@example.com"))
    file = tmp_path / "keys.txt"
    file.write_text('a\r\né"x\n\n c\na\n', encoding="utf-8-sig")
    source = ("--source", "task sync.create")
    ledger_id = lose(shop, "", "_facts")
    said = shop("rebuild", "--keys-from", file, *source, "--ledger-id", ledger_id)
    assert re.search(r"keys given: 3, customers at PayArc: 3\n  inserted +3  rows that were missing\n$", said)
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nz\n"))
    assert shop.json("rebuild", "--keys-from", "-", *source)["counts"] == {"agreed": 1, "absent": 1}
    shop.ledger = shop.open()
    assert shop.row(" c").source == "task sync.create"
    file.write_text("a\nb\x01\n")
    assert "the key in line 2 contains control characters" in shop("rebuild", "--keys-from", file, *source, expect=1)
    file.write_text("\n")
    assert "no keys" in shop("rebuild", "--keys-from", file, *source, expect=1)
    assert "cannot be read (FileNotFoundError)" in shop("rebuild", "--keys-from", tmp_path / "x", *source, expect=1)
    assert '--source: is ""' in shop("rebuild", "--keys-from", file, "--source", " ", expect=1)


@on_one_database
def test_the_facts_alone_can_be_rebuilt(shop, payarc_sandbox):
    before = shop.run(payarc_sandbox, people(1, 2)).customer_ids()
    ledger_id = lose(shop, "_facts")
    table = crm(shop, 1, 2)
    assert shop.json("rebuild", "--table", table, "--ledger-id", ledger_id)["counts"] == {"agreed": 2}
    assert shop.run(payarc_sandbox, people(1, 2)).customer_ids() == before


def test_a_restored_backup_gets_the_customers_created_since(shop, payarc_sandbox):
    """In the backup, 1 is created, 2 rejected, 3 unsent, 4 open and 5 missing; all have got customers since."""
    [first] = shop.run(payarc_sandbox, people(1)).customer_ids()
    shop.rejected("2")
    shop.claim("3", owner="c")
    shop.absent("3", owner="c")
    left_open(shop, "4")
    later = seed(
        payarc_sandbox, [row | {"description": f"ref {shop.code(str(row['id']))}"} for row in people(2, 3, 4, 5)]
    )
    said = shop.json("rebuild", "--table", crm(shop, 1, 2, 3, 4, 5))
    assert said["counts"] == {"agreed": 1, "resolved": 2, "pending": 1, "inserted": 1}
    ids = shop.run(payarc_sandbox, people(1, 2, 3, 4, 5)).customer_ids()
    assert ids == [first, *(customer["customer_id"] for customer in later)]
    assert payarc_sandbox.stats()["posts"]["received"] == 1


def restore_backup(shop, *lost):
    """Remove the rows of these keys, as if a backup from before their creation had been restored."""
    rows = shop.ledger.schema.rows
    with shop.database.engine().begin() as connection:
        connection.execute(sa.delete(rows).where(rows.c.key.in_(lost)))


def test_runs_stop_after_a_restored_backup_until_all_keys_are_rebuilt(shop, payarc_sandbox):
    before = shop.run(payarc_sandbox, people(1, 2, 3, 4)).customer_ids()
    restore_backup(shop, "2", "3", "4")
    more = people(1, 2, 3, 4, 5)
    with pytest.raises(LedgerLost, match="PayArc has 3 customers of this ledger without a row"):
        shop.run(payarc_sandbox, more)
    said = shop("rebuild", "--table", crm(shop, 1, 2, 3))
    assert "1 customer belongs to other keys of this ledger, so runs still stop: rebuild with those keys too" in said
    with pytest.raises(LedgerLost, match="has lost rows"):
        shop.run(payarc_sandbox, more)
    assert "other keys" not in shop("rebuild", "--table", crm(shop, 1, 2, 3, 4))
    ids = shop.run(payarc_sandbox, more).customer_ids()
    assert ids[:4] == before
    assert len(payarc_sandbox.customers()) == 5


def test_customers_that_nobody_needs_can_be_given_up_after_a_loss(shop, payarc_sandbox):
    before = shop.run(payarc_sandbox, people(1, 2)).customer_ids()
    restore_backup(shop, "2")
    with pytest.raises(LedgerLost):
        shop.run(payarc_sandbox, people(1, 3))
    said = shop("rebuild", "--table", crm(shop, 1), "--accept-loss")
    assert "1 customer belongs to other keys of this ledger, and will never be used again" in said
    ids = shop.run(payarc_sandbox, people(1, 2, 3)).customer_ids()
    assert ids[0] == before[0]
    assert before[1] not in ids, "it was given up"
    assert len(payarc_sandbox.customers()) == 4


def test_a_ledger_that_was_not_lost_never_stops_a_run(shop, payarc_sandbox):
    """Forgotten keys, records rejected since, and another account's customers in the same list."""
    shop.run(payarc_sandbox, people(1, 2, 3))
    shop("forget", "2")
    twin = next(one for one in payarc_sandbox.customers() if one["description"] == f"ref {shop.code('1')}")
    seed(payarc_sandbox, [{"name": "John Smith", "description": twin["description"]}])
    seed(payarc_sandbox, [{"name": "John Smith", "description": f"ref {reference('9' * 32, shop.account, '7')}"}])
    shop.run(payarc_sandbox, people(1, 2, 3, 4))
    assert len(payarc_sandbox.customers()) == 7


@on_one_database
def test_no_idempotency_key_is_used_twice_after_a_rebuild(shop, payarc_sandbox):
    """PayArc would answer a repeated key as before the loss, even with a rejection or a deleted customer."""
    payarc_sandbox.settings(idempotency="replay", taken={"email": ["2@example.com"]})
    shop.run(payarc_sandbox, people(1, 2, 3))
    ledger_id = lose(shop, "", "_facts")
    payarc_sandbox.settings(taken={})
    shop("rebuild", "--table", crm(shop, 1, 2, 3), "--ledger-id", ledger_id)
    assert len(shop.run(payarc_sandbox, people(1, 2, 3)).customer_ids()) == 3
    shop("forget", "3")
    [new] = shop.run(payarc_sandbox, people(3)).customer_ids()
    assert len(payarc_sandbox.customers()) == 4
    assert new == payarc_sandbox.customers()[-1]["customer_id"]
    keys = [post["idempotency_key"] for post in payarc_sandbox.log()]
    assert len(keys) == len(set(keys)) == 5


def test_two_customers_with_one_reference_leave_the_row_undecided(shop, payarc_sandbox):
    shop.run(payarc_sandbox, people(1, 2))
    ledger_id = lose(shop, "", "_facts")
    own = payarc_sandbox.customers()[0]
    [twin] = seed(payarc_sandbox, [{"name": "John Smith", "description": own["description"]}])
    table = crm(shop, 1, 2)
    said = shop.json("rebuild", "--table", table, "--ledger-id", ledger_id, "--source", shop.claimant().source)
    assert said["counts"] == {"undecided": 1, "inserted": 1}
    [doubt] = said["doubts"]
    assert (doubt["verdict"], doubt["customer_id"]) == ("undecided", None)
    assert sorted(doubt["candidates"]) == sorted([own["customer_id"], twin["customer_id"]])
    with pytest.raises(PayarcRunStopped, match="left pending"):
        shop.run(payarc_sandbox, people(1, 2))
    assert payarc_sandbox.stats()["posts"]["received"] == 2
    shop.ledger = shop.open()
    key = doubt["key"]
    assert shop.json("rebuild", "--table", table)["counts"] == {"pending": 1, "agreed": 1}
    assert _eventually(lambda: shop("resolve", key, "--customer-id", own["customer_id"]))
    assert own["customer_id"] in shop.run(payarc_sandbox, people(1, 2)).customer_ids()


def _eventually(call):
    """Repeat the call until the row can be resolved, a moment after the run released it."""
    for _ in range(20):
        try:
            return call()
        except AssertionError:
            time.sleep(0.1)
    return call()


@on_one_database
def test_disagreements_are_reported_and_change_nothing(shop, payarc_sandbox):
    [mine, *_] = seed(
        payarc_sandbox, [{"name": "John Smith", "description": f"ref {shop.code(key)}"} for key in ("1", "2", "3")]
    )
    shop.created(**{"1": "another"})
    shop.created(**{"9": payarc_sandbox.customers()[1]["customer_id"]})
    said = shop.json("rebuild", "--table", crm(shop, 1, 2, 3))
    assert said["counts"] == {"disagreed": 2, "inserted": 1}
    one, two = said["doubts"]
    assert (one["key"], one["customer_id"], one["candidates"]) == ("1", "another", [mine["customer_id"]])
    assert (two["key"], two["customer_id"]) == ("2", None)
    assert shop.row("1").customer_id == "another"
    assert shop.row("2") is None
    assert "disagreed: 1: " + mine["customer_id"] + ", its row has another" in shop(
        "rebuild", "--table", crm(shop, 1, 2)
    )


@on_one_database
def test_a_forgotten_customer_is_not_rebuilt(shop, payarc_sandbox):
    forgotten(shop, payarc_sandbox, people(1))
    [new] = shop.run(payarc_sandbox, people(1)).customer_ids()
    assert shop.json("rebuild", "--table", crm(shop, 1))["counts"] == {"agreed": 1}
    assert shop.row("1").customer_id == new


@on_one_database
def test_nothing_is_rebuilt_while_a_run_owns_rows(shop, payarc_sandbox):
    shop.claim("1")
    assert "a run has claimed rows until" in shop("rebuild", "--table", crm(shop, 1), expect=1)


@on_one_database
def test_a_wrong_ledger_id_account_or_key_rebuilds_nothing(shop, payarc_sandbox):
    shop.run(payarc_sandbox, people(1))
    table = crm(shop, 1)
    assert "another id" in shop("rebuild", "--table", table, "--ledger-id", "0" * 32, expect=1)
    assert "32 hexadecimal digits" in shop("rebuild", "--table", table, "--ledger-id", "x", expect=1)
    ledger_id = lose(shop, "", "_facts")
    for wrong in (("--ledger-id", "0" * 32), ("--ledger-id", ledger_id, "--account", "test/9")):
        said = shop("rebuild", "--table", table, *wrong, expect=1)
        assert "no customer at PayArc carries the reference of one of these keys" in said
    assert 'no column "nr"' in shop("rebuild", "--table", table, "--key", "nr", "--ledger-id", ledger_id, expect=1)
    assert not sa.inspect(shop.database.engine()).has_table(shop.table)


@on_one_database
def test_the_account_must_be_the_one_that_the_ledger_has_for_the_merchant(shop, payarc_sandbox):
    shop.ledger.remember(identity(payarc_sandbox), "test/7")
    shop.run(payarc_sandbox, people(1))
    said = shop("rebuild", "--table", crm(shop, 1), "--account", shop.account, expect=1)
    assert f"belongs to the account test/7, not {shop.account}" in said


@on_one_database
def test_the_list_is_read_within_the_rate_limit_and_failures_are_retried(shop, payarc_sandbox):
    seed(payarc_sandbox, [{"name": "John Smith"}] * 350)
    shop.run(payarc_sandbox, people(1))
    payarc_sandbox.settings(rate_limit=3, rate_window=1.0)
    payarc_sandbox.faults([{"kind": "status_before", "method": "GET", "times": 2}])
    assert shop.json("rebuild", "--table", crm(shop, 1)) == {
        "account": shop.account,
        "keys": 1,
        "customers": 351,
        "unusable": 0,
        "counts": {"agreed": 1},
        "doubts": [],
        "unexplained": [],
    }


# ---- ddl, usage, process --------------------------------------------------------------------------------------------


def test_the_ddl_makes_a_ledger_that_a_run_can_use(desk, payarc_sandbox):
    desk.table = desk.database.name()
    for statement in filter(str.strip, desk("ddl").split(";\n")):
        desk.database.execute(statement)
    desk.ledger = desk.open()
    assert len(desk.run(payarc_sandbox, people("a")).customer_ids()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "nothing",
        "resolve a",
        "resolve a --absent --customer-id b",
        "retry",
        "retry a --all",
        "forget",
        "erase",
        "erase a --keys-from f",
        "erase --keys-from -",
        "pending --limit -1",
        "rebuild",
        "rebuild --keys-from f",
        "rebuild --keys-from f --table t --source s",
    ],
)
def test_wrong_usage(arguments, capsys):
    assert main(["--ledger-conn-id", "ledger", *arguments.split()]) == 2
    assert "error:" in capsys.readouterr().err


def test_the_ledgers_connection_is_required(capsys):
    assert main(["status"]) == 2
    assert "--ledger-conn-id" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["", "status", "pending", "rejected", "ddl", "resolve", "retry", "forget", "erase", "rebuild"]
)
def test_every_command_has_its_help(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert "exit status: 0 done" in said
    assert max(len(line) for line in said.splitlines()) <= 100


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_it_works_on_an_airflow_connection(kind, request, tmp_path, monkeypatch, capsys):
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")}
    url = sa.make_url(f"sqlite:///{tmp_path}/ledger.db")
    if kind == "postgresql":
        url = request.getfixturevalue("postgresql_url")
        host = url.query.get("host") or url.host
        connection = {"conn_type": "postgres", "host": host, "login": url.username, "schema": url.database}
        connection |= {"password": url.password} if url.password else {}
        connection |= {"port": url.port} if url.port else {}
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", json.dumps(connection))
    table = f"ledger_{uuid.uuid4().hex[:8]}"
    arguments = ["--ledger-conn-id", "ledger", "--ledger-table", table]
    assert main([*arguments, "status"]) == 1
    ledger = Ledger(sa.create_engine(url), table)
    ledger.open()
    assert main([*arguments, "status"]) == 0
    assert ledger.ledger_id in capsys.readouterr().out
    ledger.schema.rows.metadata.drop_all(ledger.database.engine)
    ledger.database.engine.dispose()


@pytest.mark.parametrize(
    ("connection", "reason"),
    [
        (None, "isn't defined"),
        ({"conn_type": "payarc"}, "is not a SQL database"),
        ({"conn_type": "sqlite", "host": "/nonexistent/folder/secret.db"}, "absolute path"),
    ],
)
def test_an_unusable_connection_is_reported_without_its_password(connection, reason, monkeypatch, capsys):
    if connection:
        monkeypatch.setenv("AIRFLOW_CONN_LEDGER", json.dumps(connection | {"password": "pa55word"}))
    assert main(["--ledger-conn-id", "ledger", "status"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in said.err
    assert "pa55word" not in said.err


def test_as_a_process_it_prints_its_result_and_nothing_else(tmp_path):
    ledger = Ledger(sa.create_engine(f"sqlite:///{tmp_path}/ledger.db"))
    ledger.open()
    connection = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")})
    command = [sys.executable, "-m", "payarc_provider.ledger", "--ledger-conn-id", "ledger", "status", "--json"]
    environment = {**os.environ, "AIRFLOW_CONN_LEDGER": connection}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["ledger_id"] == ledger.ledger_id
    assert done.returncode == 0
    ledger.database.engine.dispose()


@on_one_database
def test_the_reference_in_a_description_is_the_one_in_the_row(shop, payarc_sandbox):
    """What `pending` prints can be found in PayArc's dashboard."""
    shop.run(payarc_sandbox, people("a"))
    assert payarc_sandbox.customers()[0]["description"] == with_reference(None, shop.row("a").reference)


# ---- the documentation ----------------------------------------------------------------------------------------------

COMMAND = "python -m payarc_provider.ledger --ledger-conn-id crm "
SHOWN = [
    line.removeprefix(COMMAND) for block in pages.to_run("docs/ledger.md", "bash") for line in block.text.splitlines()
]


@on_one_database
@pytest.mark.parametrize("shown", SHOWN)
def test_the_commands_in_the_documentation_work(shop, payarc_sandbox, tmp_path, monkeypatch, shown):
    its_customer = {"description": f"ref {shop.code('1042')}", "customer_id": "KPxMADVnxMV4nNjp"}
    seed(payarc_sandbox, [{"name": "John Smith"} | its_customer])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.txt").write_text("1042\n")
    table = crm(shop, 1042)
    if shown.startswith("erase"):
        shop.created(**{"1042": "KPxMADVnxMV4nNjp"})
    elif not shown.startswith("rebuild"):
        left_open(shop, "1042")
    if shown.startswith("release"):
        shop.database.execute(f"UPDATE {shop.table} SET lease_until = '2100-01-01 00:00:00.000000'")
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))

    assert shop(*[table if word == "people" else word for word in shlex.split(shown.partition(" > ")[0])])


# ---- rename-source ---------------------------------------------------------------------------------------------------

OLD, NEW = "table people of crm", "crm people"


def sources(desk, account="test/1"):
    counts = desk.json("status", "--account", account)["accounts"]
    return counts[0]["sources"]


def test_rename_source_changes_the_source_of_rows_in_every_state_and_nothing_else(still, monkeypatch):
    monkeypatch.setattr(repair, "_BATCH", 2)
    still.created(a="c1", b="c2")
    still.rejected("c")
    still.claim("held")
    still.claim("open", owner="b")
    still.ledger.release(still.claimant("b"), {})
    still.claim("gone", owner="c")
    still.absent("gone", owner="c")
    still.claim("other", source="table shops of crm")
    still.claim("a", account="test/2")
    still.database.move_clock(1)
    keys = ["a", "b", "c", "held", "open", "gone", "other"]
    before = still.ledger.rows(still.claimant(), keys)

    assert still.json("rename-source", OLD, NEW) == {"old": OLD, "new": NEW, "rows": 7, "held": 2}
    after = still.ledger.rows(still.claimant(), keys)
    assert after == {
        key: dataclasses.replace(row, source=NEW if row.source == OLD else row.source) for key, row in before.items()
    }
    assert sources(still) == {NEW: 6, "table shops of crm": 1}
    assert sources(still, "test/2") == {NEW: 1}
    assert f'the ledger has no source "{OLD}"; it has "{NEW}", "table shops of crm"' in still(
        "rename-source", OLD, NEW, expect=1
    )


def test_rename_source_may_be_limited_to_an_account(still):
    still.created(a="c1")
    still.created(b="c2")
    still.claim("a", account="test/2")
    said = still("rename-source", OLD, NEW, "--account", "test/2")
    assert said.startswith(f'1 row was renamed from "{OLD}" to "{NEW}"; runs under way hold 1 of them')
    assert (sources(still), sources(still, "test/2")) == ({OLD: 2}, {NEW: 1})
    assert still("rename-source", OLD, NEW, "--account", "test/1") == f'2 rows were renamed from "{OLD}" to "{NEW}"\n'


@on_one_database
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (OLD, "", 'NEW: is ""'),
        (OLD, "  ", 'NEW: is ""'),
        (OLD, "None", 'NEW: is "None"'),
        (OLD, " crm", "NEW: has spaces around it"),
        (OLD, "crm\npeople", "NEW: has spaces around it or control characters"),
        (OLD, "x" * 501, "NEW: has 501 characters, but at most 500 are allowed"),
        (OLD, OLD, "OLD and NEW are the same name"),
        ("table people", NEW, f'the ledger has no source "table people"; it has "{OLD}"'),
        (OLD.upper(), NEW, "the ledger has no source"),
        (f"{OLD} ", NEW, "the ledger has no source"),
        ("", NEW, "the ledger has no source"),
    ],
)
def test_rename_source_rejects_names_that_cannot_be_meant(still, old, new, reason):
    still.created(a="c1")
    assert reason in still("rename-source", old, new, expect=1)
    assert sources(still) == {OLD: 1}


@on_one_database
def test_rename_source_asks_before_it_joins_two_sources(still, monkeypatch):
    still.created(a="c1")
    still.claim("b", source=NEW)
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    assert f'already has rows of the source "{NEW}"' in still("rename-source", OLD, NEW, expect=1)
    assert sources(still) == {OLD: 1, NEW: 1}
    still("rename-source", OLD, NEW, "--yes")
    assert sources(still) == {NEW: 2}


@pytest.mark.parametrize("checkpoint", ["before_claim", "after_claim", "sending", "before_record"])
def test_a_run_under_way_keeps_its_claims_when_its_source_is_renamed(
    shop, payarc_sandbox, monkeypatch, listen, checkpoint
):
    """Renamed in the middle: the run ends as it would have; run again, the command renames what the run added."""
    rows = people(*range(10))
    shop.run(payarc_sandbox, rows[:2])
    times = []

    def rename(reached):
        if reached == checkpoint and not times:
            times.append(reached)
            assert shop.json("rename-source", OLD, NEW)["rows"] >= 2

    listen(rename)
    results = shop.run(payarc_sandbox, rows, batch_size=4)
    listen(None)
    assert times
    assert len(set(results.customer_ids())) == len(payarc_sandbox.customers()) == 10
    if OLD in sources(shop, shop.account):
        shop("rename-source", OLD, NEW, "--yes")
    assert sources(shop, shop.account) == {NEW: 10}

    rows[0]["name"] = rows[9]["name"] = "Mary Jones"
    again = shop.run(payarc_sandbox, rows, source=NEW)
    assert again.customer_ids() == results.customer_ids()
    assert [one["changed"] for one in again.customers()] == [True, *[False] * 8, True]
    assert len(payarc_sandbox.customers()) == 10


def test_rows_of_a_dead_run_are_looked_up_by_the_run_with_the_new_name(shop, payarc_sandbox):
    shop.claim("a", "b", sent_after=EPOCH, lease=0.1, settle=0.3)
    seed(payarc_sandbox, [{"name": "John Smith", "description": f"#{shop.code('a')}"}, {"name": "someone else later"}])
    shop("rename-source", OLD, NEW)
    results = shop.run(payarc_sandbox, people("a", "b", email=None), source=NEW)
    assert len(set(results.customer_ids())) == len(payarc_sandbox.customers()) - 1 == 2
    assert sources(shop, shop.account) == {NEW: 2}
