"""``python -m payarc_provider.ledger erase``: a person is deleted, and no run, command or loss brings them back."""

from __future__ import annotations

import contextlib
import io
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_ledger_command import LEASE, SETTLE, Desk, left_open, lose, on_one_database, people, seed

from payarc_provider.api.client import PayarcClient
from payarc_provider.exceptions import PayarcNotFound, PayarcRunStopped, PayarcUnknownOutcome
from payarc_provider.ledger import erase as command
from payarc_provider.ledger.__main__ import main
from payarc_provider.sync.ledger import Evidence, LedgerLost, LedgerUnavailable, Resolution, State, UpdateClaim
from payarc_provider.sync.ledger.erasure import Erasure
from payarc_provider.sync.ledger.repair import LedgerUnchanged
from payarc_provider.sync.ledger.snapshot import take_snapshot
from payarc_provider.sync.reference import with_reference

EMAIL = "jane.roe@example.com"


@pytest.fixture
def desk(database, monkeypatch, capsys):
    return Desk(database, monkeypatch, capsys)


@pytest.fixture
def shop(desk, payarc_sandbox, monkeypatch):
    """A ledger and its merchant, without pauses between the tries of a request."""
    desk.account = f"{payarc_sandbox.url.split('/')[2]}/1"
    monkeypatch.setattr(command, "_pause", lambda state: 0.01)
    return desk


@pytest.fixture
def still(desk):
    """A ledger whose database's clock is stopped at 2030-01-01."""
    desk.database.stop_clock()
    return desk


def created(shop, sandbox, *keys, **changes):
    """Create customers for these keys; returns key → id."""
    return {one["key"]: one["customer_id"] for one in shop.run(sandbox, people(*keys), **changes).customers()}


def incomplete(shop, capsys, *arguments):
    """Run `erase`, which must fail; returns the receipt's keys."""
    capsys.readouterr()
    assert (
        main(["--ledger-conn-id", "ledger", "--ledger-table", shop.table, "erase", "--yes", "--json", *arguments]) == 1
    )
    return json.loads(capsys.readouterr().out)["keys"]


def client_of(sandbox):
    return PayarcClient(sandbox.url, lambda _: sandbox.token)


def facts(shop, prefix=""):
    return shop.reopened().ledger.facts(prefix)


def everything(shop):
    """All text that the ledger has."""
    return f"{shop.database.rows(shop.table)} {facts(shop)}"


# ---- what it does ----------------------------------------------------------------------------------------------------


def test_an_erased_person_is_deleted_and_never_created_again(shop, payarc_sandbox):
    ids = created(shop, payarc_sandbox, "a", "b")
    said = shop("erase", "a", "--yes")
    assert f"customer {ids['a']} was deleted. Verified: PayArc has no customer with this id any more" in " ".join(
        said.split()
    )
    assert [customer["customer_id"] for customer in payarc_sandbox.customers()] == [ids["b"]]

    for _ in range(2):
        results = shop.run(payarc_sandbox, people("a", "b"))
        assert results.customer_ids() == [ids["b"]]
        [rejected] = results.rejected()
        assert rejected["key"] == "a"
        assert "was erased (it was on 20" in rejected["errors"]["id"][0]
        assert "erase --undo" in rejected["errors"]["id"][0]
        assert (results.summary["erased"], results.summary["rejected"], results.summary["rejected_new"]) == (1, 1, 0)
        assert results.summary["reasons"][0].startswith("1 record: id was erased: ")
    assert len(payarc_sandbox.customers()) == 1
    assert len(payarc_sandbox.log()) == 2


def test_an_undone_erasure_gives_the_record_a_new_customer(shop, payarc_sandbox):
    payarc_sandbox.settings(idempotency="replay")
    ids = created(shop, payarc_sandbox, "a")
    shop("erase", "a", "--yes")
    assert "may have a customer again" in shop("erase", "--undo", "a", "--yes")
    assert "is not erased" in shop("erase", "--undo", "a", "--yes", expect=1)
    assert facts(shop, "erased:") == {}
    assert set(created(shop, payarc_sandbox, "a").values()).isdisjoint(ids.values())
    assert len(payarc_sandbox.customers()) == 1


@on_one_database
def test_the_ledger_keeps_neither_the_key_nor_anything_of_the_person(shop, payarc_sandbox):
    row = {"id": EMAIL, "tenant": "acme", "name": "Jane Roe", "email": EMAIL}
    shop.run(payarc_sandbox, [row])
    assert EMAIL in everything(shop)
    said = shop("erase", EMAIL, "--yes")
    assert EMAIL not in everything(shop)
    assert EMAIL not in said
    assert "a key that looks like an email" in said
    assert shop.code(EMAIL) in said
    [(name, value)] = facts(shop, "erased:").items()
    assert name == f"erased:{shop.account}:{shop.code(EMAIL)}"
    assert set(json.loads(value)) == {"since", "customers", "done"}
    assert json.loads(value)["customers"] == []
    assert shop.run(payarc_sandbox, [row]).summary["erased"] == 1


@on_one_database
@pytest.mark.parametrize("written", ['["acme","7"]', '["acme", "7"]'])
def test_a_composite_key_is_a_json_list(shop, payarc_sandbox, written):
    row = {"tenant": "acme", "id": 7, "name": "Jane Roe"}
    shop.run(payarc_sandbox, [row], key=["tenant", "id"])
    shop("erase", written, "--yes")
    assert payarc_sandbox.customers() == []
    [rejected] = shop.run(payarc_sandbox, [row], key=["tenant", "id"]).rejected()
    assert "was erased" in rejected["errors"]["tenant,id"][0]


@on_one_database
def test_the_receipt_says_what_was_deleted_verified_and_kept(shop, payarc_sandbox):
    ids = created(shop, payarc_sandbox, "a")
    receipt = shop.json("erase", "a", "--yes")
    [key] = receipt["keys"]
    assert key["customers"] == {ids["a"]: "PayArc has no customer with this id any more (404)"}
    assert (key["key"], key["reference"], key["problem"]) == ("a", shop.code("a"), None)
    assert key["ledger"] == "its row was deleted"
    assert receipt["time"] >= key["erased_at"]
    host = payarc_sandbox.url.split("/")[2]
    names = ("connection", "environment", "merchant", "account", "searched")
    assert [receipt[name] for name in names] == ["payarc_default", host, "1", shop.account, False]
    assert len(receipt["kept"]) == 2
    text = shop("erase", "a", "--yes")
    assert max(len(line) for line in text.splitlines()) <= 100
    for name in ("time", "connection", "environment", "merchant", "account"):
        assert f"\n{name}" in text
    assert "John Smith" not in text + json.dumps(receipt)


@on_one_database
def test_nothing_is_deleted_without_a_yes(shop, payarc_sandbox, monkeypatch, capsys):
    created(shop, payarc_sandbox, "a")
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    assert "not confirmed" in shop("erase", "a", expect=1)
    assert len(payarc_sandbox.customers()) == 1
    assert facts(shop, "erased:") == {}
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    shop("erase", "a")
    assert payarc_sandbox.customers() == []


@on_one_database
def test_keys_come_from_a_file_to_keep_them_out_of_the_shells_history(shop, payarc_sandbox, tmp_path):
    created(shop, payarc_sandbox, "a", "b", "c")
    (tmp_path / "keys").write_text("a\n\nc\n")
    assert len(shop.json("erase", "--keys-from", tmp_path / "keys", "--yes")["keys"]) == 2
    assert [customer["email"] for customer in payarc_sandbox.customers()] == ["b@example.com"]


@on_one_database
def test_a_key_without_a_row_is_erased_only_on_request(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "a")
    assert "the ledger has no key z" in shop("erase", "z", "--yes", expect=1)
    shop("erase", "z", "--without-row", "--yes")
    assert shop.row("z").state == "erased"
    assert shop.run(payarc_sandbox, people("a", "z")).summary["erased"] == 1
    assert len(payarc_sandbox.customers()) == 1


def test_a_rejected_record_and_an_unsent_one_can_be_erased(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "z")
    shop.rejected("a")
    shop.claim("b")
    shop.absent("b")
    assert shop.json("erase", "a", "b", "--yes")["keys"][1]["customers"] == {}
    assert shop.run(payarc_sandbox, people("a", "b")).summary["erased"] == 2


# ---- what it refuses -------------------------------------------------------------------------------------------------


def test_a_row_is_not_erased_under_a_live_lease_nor_with_an_unknown_outcome(still):
    erasure = Erasure(still.ledger, still.account)
    still.claim("a")
    with pytest.raises(LedgerUnchanged, match="claimed by run run_a"):
        erasure.begin("a", [])
    still.database.move_clock(3600)
    with pytest.raises(LedgerUnchanged, match="could appear after the erasure"):
        erasure.begin("a", [])
    assert still.row("a").state == State.PENDING
    assert still.ledger.facts("erased:") == {}


def test_a_row_is_not_erased_while_a_change_may_reach_payarc(still):
    still.created(a="c1")
    me, row = still.claimant("b"), still.row("a")
    still.ledger.claim_updates(me, [UpdateClaim("u", row, row.fingerprints, None)])
    erasure = Erasure(still.ledger, still.account)
    with pytest.raises(LedgerUnchanged, match="claimed by"):
        erasure.begin("a", [])
    still.database.move_clock(LEASE + SETTLE / 2)
    with pytest.raises(LedgerUnchanged, match="may reach PayArc until"):
        erasure.begin("a", [])
    still.database.move_clock(SETTLE)
    assert erasure.begin("a", []).customers == ("c1",)


@on_one_database
def test_one_key_that_cannot_be_erased_stops_the_command_before_anything_is_deleted(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "a")
    left_open(shop, "b")
    assert "could appear after the erasure" in shop("erase", "a", "b", "--yes", expect=1)
    assert len(payarc_sandbox.customers()) == 1
    assert shop.row("a").state == State.CREATED


@on_one_database
def test_a_token_that_payarc_does_not_accept_erases_nothing(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "a")
    payarc_sandbox.revoke(payarc_sandbox.token)
    assert "does not accept the access token" in shop("erase", "a", "--yes", expect=1)
    assert shop.row("a").state == State.CREATED
    assert facts(shop, "erased:") == {}


@on_one_database
def test_another_merchants_token_erases_nothing(still, payarc_sandbox):
    still.created(a="KPxMADVnxMV4nNjp")
    still.ledger.remember('account:["test", null, "1"]', still.account)
    assert "belongs to the account" in still("erase", "a", "--yes", expect=1)
    assert still.row("a").state == State.CREATED


# ---- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed_before", ["delete", "read back", "finish"])
def test_a_killed_erasure_ends_well_when_it_is_run_again(shop, payarc_sandbox, monkeypatch, killed_before):
    created(shop, payarc_sandbox, "a", "b")
    owner, name = {
        "delete": (PayarcClient, "delete_customer"),
        "read back": (PayarcClient, "get_customer"),
        "finish": (Erasure, "finish"),
    }[killed_before]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        assert main(["--ledger-conn-id", "ledger", "--ledger-table", shop.table, "erase", "a", "--yes"]) == 130

    results = shop.run(payarc_sandbox, people("a", "b"))
    assert "is being erased" in results.rejected()[0]["errors"]["id"][0]
    assert "is not finished" in shop("erase", "--undo", "a", "--yes", expect=1)
    [account] = shop.json("status")["accounts"]
    assert (account["erased"], account["unfinished"]) == (1, 1)
    assert "not finished" in shop("status")
    [key] = shop.json("erase", "a", "--yes")["keys"]
    assert (key["problem"], "when the erasure was begun" in key["ledger"]) == (None, True)
    assert shop.json("status")["accounts"][0]["unfinished"] == 0
    assert len(payarc_sandbox.customers()) == 1
    assert shop.run(payarc_sandbox, people("a", "b")).summary["erased"] == 1


@on_one_database
@pytest.mark.parametrize("kind", ["lost_after", "lost_before", "status_after", "html_before", "rate_limited"])
def test_a_deletion_without_a_usable_response_is_repeated(shop, payarc_sandbox, kind):
    created(shop, payarc_sandbox, "a")
    payarc_sandbox.faults([{"kind": kind, "method": "DELETE", "times": 2}])
    assert shop.json("erase", "a", "--yes")["keys"][0]["problem"] is None
    assert payarc_sandbox.customers() == []


@on_one_database
def test_without_payarc_the_erasure_stays_open_and_the_receipt_says_so(shop, payarc_sandbox, capsys):
    created(shop, payarc_sandbox, "a")
    payarc_sandbox.faults([{"kind": "status_before", "method": "DELETE", "times": 100}])
    [key] = incomplete(shop, capsys, "a")
    assert key["erased_at"] is None
    assert "PayArc" in key["problem"]
    payarc_sandbox.clear_faults()
    assert shop.json("erase", "a", "--yes")["keys"][0]["problem"] is None


@on_one_database
def test_a_second_erasure_changes_nothing(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "a")
    first = shop.json("erase", "a", "--yes")["keys"][0]["erased_at"]
    before = facts(shop)
    [key] = shop.json("erase", "a", "--yes")["keys"]
    assert (key["erased_at"], key["customers"]) == (first, {})
    assert "nothing was left to do" in key["ledger"]
    assert facts(shop) == before


# ---- what PayArc may do ----------------------------------------------------------------------------------------------


@on_one_database
def test_a_soft_deletion_is_done_only_if_it_is_accepted(shop, payarc_sandbox, capsys):
    created(shop, payarc_sandbox, "a", "b")
    payarc_sandbox.settings(deletion="soft")
    assert "still returns it by its id" in incomplete(shop, capsys, "a")[0]["problem"]
    assert shop.json("status")["accounts"][0]["unfinished"] == 1
    [key] = shop.json("erase", "a", "--yes", "--accept-soft-deletion")["keys"]
    assert "ask PayArc to remove what it keeps" in next(iter(key["customers"].values()))
    assert shop.run(payarc_sandbox, people("a", "b")).summary["erased"] == 1


@on_one_database
def test_a_customer_that_payarc_still_lists_is_not_deleted(shop, payarc_sandbox, capsys, monkeypatch):
    created(shop, payarc_sandbox, "a")
    monkeypatch.setattr(PayarcClient, "delete_customer", lambda *_: None)
    assert "still lists customer" in incomplete(shop, capsys, "a", "--accept-soft-deletion")[0]["problem"]


@on_one_database
def test_a_customer_that_was_deleted_at_payarc_before_is_erased(shop, payarc_sandbox):
    ids = created(shop, payarc_sandbox, "a", "b")
    client_of(payarc_sandbox).delete_customer(ids["a"])
    assert shop.json("erase", "a", "--yes")["keys"][0]["problem"] is None


# ---- other customers of the key --------------------------------------------------------------------------------------


@on_one_database
def test_customers_of_forgotten_keys_are_found_in_payarcs_list(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "a", "b")
    shop("forget", "a")
    created(shop, payarc_sandbox, "a", "b")
    assert len(payarc_sandbox.customers()) == 3
    receipt = shop.json("erase", "a", "--yes")
    assert receipt["searched"] is True
    assert len(receipt["keys"][0]["customers"]) == 2
    assert [customer["email"] for customer in payarc_sandbox.customers()] == ["b@example.com"]
    assert shop.json("erase", "b", "--yes")["searched"] is False  # the forgotten customer does not count any more


@on_one_database
def test_a_customer_that_belongs_to_another_key_is_never_deleted(shop, payarc_sandbox, capsys):
    ids = created(shop, payarc_sandbox, "a", "b")
    client_of(payarc_sandbox).update_customer(ids["b"], {"description": with_reference(None, shop.code("a"))})
    [key] = incomplete(shop, capsys, "a", "--search")
    assert "belongs to the key b" in key["problem"]
    assert len(payarc_sandbox.customers()) == 2
    assert shop.row("a").state == State.CREATED


# ---- nothing brings the person back ----------------------------------------------------------------------------------


@on_one_database
def test_a_deleted_customer_that_is_still_listed_is_not_adopted_by_email(shop, payarc_sandbox, monkeypatch):
    """Whoever comes back under another key gets a customer of their own."""
    created(shop, payarc_sandbox, "a")
    erasure = Erasure(shop.ledger, shop.account)
    [old] = erasure.begin("a", []).customers
    erasure.finish("a")
    results = shop.run(payarc_sandbox, people("a") + people("b", email="a@example.com"), match_existing="email")
    assert results.summary["erased"] == 1
    assert results.customer_ids() != [old]


@on_one_database
def test_retry_and_forget_and_resolve_do_not_bring_an_erased_key_back(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "a", "b")
    shop("erase", "a", "--yes")
    for arguments in (["retry", "a"], ["forget", "a"], ["show", "a"], ["resolve", "a", "--absent", "--yes"]):
        assert "a was erased" in shop(*arguments, expect=1)
    shop("retry", "--all", expect=1)
    assert shop.run(payarc_sandbox, people("a", "b"), retry_rejected=True).summary["erased"] == 1
    assert len(payarc_sandbox.customers()) == 1


def test_rebuild_restores_no_erased_key(shop, payarc_sandbox, tmp_path):
    created(shop, payarc_sandbox, "a", "b")
    erasure = Erasure(shop.ledger, shop.account)
    erasure.begin("a", [])  # PayArc still has the customer, which carries the reference
    lose(shop, "")
    (tmp_path / "keys").write_text("a\nb\n")
    done = shop.json("rebuild", "--keys-from", tmp_path / "keys", "--source", "table people of crm")
    assert (done["counts"], done["unexplained"]) == ({"erased": 1, "inserted": 1}, [])
    assert shop.reopened().run(payarc_sandbox, people("a", "b")).summary["erased"] == 1


@on_one_database
def test_a_dry_run_a_plan_and_a_run_with_updates_reject_an_erased_key(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "a", "b")
    shop("erase", "a", "--yes")
    planned = shop.run(payarc_sandbox, people("a", "b"), dry_run=True)
    assert (planned.summary["erased"], planned.summary["would_create"]) == (1, 0)
    assert [(step["key"], step["action"]) for step in planned.plan] == [("a", "reject")]
    assert shop.run(payarc_sandbox, people("a", "b"), approved_plan=planned.summary["plan"]).summary["erased"] == 1
    changed = shop.run(payarc_sandbox, people("a", "b", name="Jane Roe"), on_changed="update").summary
    assert (changed["erased"], changed["updated"]) == (1, 1)


def test_the_erased_record_is_no_new_rejection_and_its_own_faults_are_not_stored(shop, payarc_sandbox):
    created(shop, payarc_sandbox, "a")
    shop("erase", "a", "--yes")
    results = shop.run(payarc_sandbox, [{"id": "a", "name": "x"}])
    assert "was erased" in results.rejected()[0]["errors"]["id"][0]
    assert results.summary["rejected_new"] == 0
    assert shop.database.rows(shop.table) == []


# ---- a run at the same time ------------------------------------------------------------------------------------------


def test_a_claim_that_has_read_the_rows_before_an_erasure_claims_nothing(desk, monkeypatch):
    """On SQLite writers wait for each other, so the erasure comes first there."""
    desk.created(z="c1")
    erasure, read = Erasure(desk.open(), desk.account), desk.ledger._read_all
    is_sqlite = desk.database.engine().dialect.name == "sqlite"
    erasures = []

    def erase():
        erasures.append(erasure.begin("a", [], without_row=True))

    def read_then_erase(*arguments):
        rows = read(*arguments)
        if not erasures:
            erase()
        return rows

    if is_sqlite:
        erase()
    monkeypatch.setattr(desk.ledger, "_read_all", read_then_erase)
    desk.claim("a", "b", owner="b")
    assert [row[1] for row in sorted(desk.database.rows(desk.table))] == ["b", "z"]
    assert desk.row("a").state == "erased"
    assert desk.row("b").state == State.PENDING


def test_an_erasure_waits_for_a_claim_that_is_under_way(desk, monkeypatch):
    """Otherwise the claim would send the record after the erasure."""
    desk.created(z="c1")
    erasure, withdraw = Erasure(desk.open(), desk.account), desk.ledger._withdraw_erased
    refusals = []

    def erase():
        try:
            erasure.begin("a", [], without_row=True)
        except LedgerUnchanged as error:
            refusals.append(str(error))

    eraser = threading.Thread(target=erase)

    def start_erasing(*arguments):
        withdraw(*arguments)
        eraser.start()

    monkeypatch.setattr(desk.ledger, "_withdraw_erased", start_erasing)
    desk.claim("a", owner="b")
    eraser.join()
    assert "claimed by run run_b" in refusals[0]
    assert desk.ledger.facts("erased:") == {}


def test_a_run_that_knows_an_erased_row_does_not_take_it_for_lost(desk):
    desk.created(a="c1", b="c2")
    erasure = Erasure(desk.ledger, desk.account)
    erasure.begin("a", [])
    known = {"a": Evidence(1, "c1")}
    desk.ledger.check_rows(desk.claimant(), known)
    desk.ledger.check_rows(desk.claimant(), {"a": Evidence(1)})
    desk.database.execute(f"DELETE FROM {desk.table}")
    with pytest.raises(LedgerLost):
        desk.ledger.check_rows(desk.claimant(), {"b": Evidence(1, "c2")})


def test_a_recorded_answer_with_the_deleted_customer_is_dropped(desk):
    desk.created(a="c1")
    Erasure(desk.ledger, desk.account).begin("a", [])
    me = desk.claim("b", owner="b")
    assert desk.ledger.record(me, [Resolution("b", me.owner, customer_id="c1")]).conflicts == {"b"}


def test_an_account_counts_its_own_erased_keys_only(desk):
    desk.created(a="c1", b="c2")
    other = f"{desk.account}:b"
    Erasure(desk.ledger, desk.account).begin("a", [])
    Erasure(desk.ledger, other).begin("b", [], without_row=True)
    assert take_snapshot(desk.ledger, desk.account).erased == 1
    assert take_snapshot(desk.ledger, other).erased == 1
    assert desk.row("b").state == State.CREATED


# ---- customers at PayArc after a restored backup ---------------------------------------------------------------------


@on_one_database
def test_an_erasure_that_a_restored_backup_has_undone_is_repeated_by_its_key(shop, payarc_sandbox):
    ids = created(shop, payarc_sandbox, "b")
    seed(payarc_sandbox, [{"name": "Jane Roe", "description": with_reference(None, shop.code("a"))}])
    receipt = shop.json("erase", "a", "--without-row", "--yes")
    assert (receipt["searched"], len(receipt["keys"][0]["customers"])) == (True, 1)
    assert [customer["customer_id"] for customer in payarc_sandbox.customers()] == [ids["b"]]


def test_erasures_during_runs_with_lost_responses_leave_no_erased_person(shop, payarc_sandbox):
    """Whatever the moment: keys are erased while two runs create their customers and look them up."""
    keys = [f"k{number}" for number in range(40)]
    payarc_sandbox.settings(latency=0.005)
    payarc_sandbox.faults([{"kind": "lost_after", "every": 7}, {"kind": "lost_before", "every": 5}])
    created(shop, payarc_sandbox, "first")
    erasure, client = Erasure(shop.open(), shop.account), client_of(payarc_sandbox)
    erased, deleted, over = set(), set(), threading.Event()

    def erase(key):
        with contextlib.suppress(LedgerUnchanged, LedgerUnavailable):
            customers = erasure.begin(key, [], without_row=key.endswith("3")).customers
            erased.add(key)
            deleted.update(customers)
            for customer_id in customers:
                with contextlib.suppress(PayarcNotFound):
                    client.delete_customer(customer_id)
            erasure.finish(key)

    def erase_some():
        chosen = random.Random(1).sample(keys, 20)
        while not over.is_set():
            for key in set(chosen) - erased:
                erase(key)

    eraser = threading.Thread(target=erase_some)
    eraser.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(shop.run, payarc_sandbox, people(*keys)) for _ in range(2)]
            for one in runs:
                with contextlib.suppress(PayarcRunStopped, PayarcUnknownOutcome):
                    one.result()
    finally:
        over.set()
        eraser.join()
    payarc_sandbox.clear_faults()
    results = shop.run(payarc_sandbox, people(*keys))
    assert {one["key"] for one in results.rejected()} == erased
    assert deleted
    left = sorted(customer["email"] for customer in payarc_sandbox.customers())
    assert left == sorted(f"{key}@example.com" for key in {*keys, "first"} - erased)
