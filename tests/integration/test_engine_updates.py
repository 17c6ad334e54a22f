"""Changed records reach PayArc: one PATCH per customer, and never an older one after a newer one."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from engine_bench import ACCOUNT, LONG, QUICK, people

from payarc_provider.api.client import PayarcClient
from payarc_provider.exceptions import PayarcConfigError, PayarcRunStopped
from payarc_provider.sync.changes import is_certain
from payarc_provider.sync.ledger import Claimant
from payarc_provider.sync.ledger.repair import Repair
from payarc_provider.sync.reference import find_reference, without_reference
from payarc_provider.sync.settings import Settings

UPDATE = dataclasses.replace(QUICK, on_changed="update")
VERSIONED = dataclasses.replace(UPDATE, version="v")
LOST = [{"kind": "lost_after", "method": "PATCH", "times": 1}]


def at_payarc(bench):
    """Email → the customer's fields, as PayArc has them; the description without the reference."""
    found = {}
    for customer in bench.sandbox.customers():
        fields = {name: value for name, value in customer.items() if value is not None}
        fields["description"] = without_reference(fields.get("description", ""))
        found[customer["email"]] = fields
    return found


def only(bench):
    [customer] = at_payarc(bench).values()
    return customer


def edit(bench, customer_id, **fields):
    """Change a customer as a person at PayArc's dashboard does."""
    client = PayarcClient(bench.sandbox.url, lambda _fresh: bench.sandbox.token)
    client.update_customer(customer_id, fields)
    client.close()


def settled(bench):
    """Whether nothing is open and the ledger's fingerprints are certain."""
    rows = bench.rows().values()
    return all(row.state in ("created", "rejected") and row.owner is None for row in rows) and all(
        is_certain(row.fingerprints) for row in rows
    )


# ---- what is sent ---------------------------------------------------------------------------------------------------


def test_changed_records_are_sent_once_and_only_what_changed(bench):
    rows = people(20, city="Springfield")
    ids = bench.run(rows, UPDATE).ok().ids
    for row in rows[:7]:
        row |= {"name": "New Name", "city": "Shelbyville"}
    outcome = bench.run(rows, UPDATE, run_id="run 2").ok()
    assert outcome.ids == ids
    assert (outcome.counts["updated"], outcome.counts["known"], outcome.counts["changed"]) == (7, 13, 0)
    assert outcome.requests == {"GET": 1, "PATCH": 7}
    assert {row["email"]: row["name"] for row in rows} == {
        email: customer["name"] for email, customer in at_payarc(bench).items()
    }
    assert settled(bench)
    again = bench.run(rows, UPDATE, run_id="run 3").ok()
    assert (again.requests, again.counts["known"]) == ({}, 20)


def test_a_changed_record_is_only_counted_by_default(bench):
    rows = people(2)
    bench.run(rows).ok()
    rows[0]["name"] = "New Name"
    outcome = bench.run(rows, run_id="run 2").ok()
    assert (outcome.counts["changed"], outcome.counts["known"], outcome.requests) == (1, 2, {})
    assert [one["changed"] for one in outcome.results.customers()] == [True, False]


def test_fields_that_were_edited_at_payarc_survive_a_change_of_others(sqlite_bench):
    rows = people(1, city="Springfield")
    [customer_id] = sqlite_bench.run(rows, UPDATE).ok().ids
    edit(sqlite_bench, customer_id, city="Edited City")
    rows[0]["name"] = "New Name"
    sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    assert (only(sqlite_bench)["city"], only(sqlite_bench)["name"]) == ("Edited City", "New Name")


def test_a_retry_of_the_same_dag_run_reports_what_the_first_try_did(sqlite_bench):
    rows = people(3)
    sqlite_bench.run(rows, UPDATE).ok()
    rows[0]["name"] = "New Name"
    first = sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    retry = sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    assert first.statuses == retry.statuses == {"updated": 1, "known": 2}
    assert (first.recorded, retry.recorded) == ({"updated": 1}, {})


def test_the_reference_stays_in_a_changed_description(sqlite_bench):
    rows = people(3, description="Donut shop")
    sqlite_bench.run(rows, UPDATE).ok()
    codes = {one["customer_id"]: find_reference(one["description"]) for one in sqlite_bench.sandbox.customers()}
    rows[0]["description"], rows[1]["description"] = "Bakery", LONG
    rows[2]["description"] = None
    sqlite_bench.run(rows, dataclasses.replace(UPDATE, on_empty="clear"), run_id="run 2").ok()
    shown = {one["email"]: one["description"] for one in sqlite_bench.sandbox.customers()}
    assert shown["j0@example.com"].startswith("Bakery ")
    assert shown["j1@example.com"] == LONG, "the reference does not fit"
    now = {one["customer_id"]: find_reference(one["description"]) for one in sqlite_bench.sandbox.customers()}
    rows_now = sqlite_bench.rows()
    assert now[rows_now["0"].customer_id] == rows_now["0"].reference == codes[rows_now["0"].customer_id]
    assert rows_now["1"].reference is None
    assert now[rows_now["2"].customer_id] == codes[rows_now["2"].customer_id], "all that is left of the description"
    assert without_reference(shown["j2@example.com"] or "") == ""
    assert sqlite_bench.run(rows, UPDATE, run_id="run 3").ok().requests == {}


def test_a_dry_run_counts_changes_and_sends_nothing(bench):
    rows = people(4)
    bench.run(rows, UPDATE).ok()
    rows[0]["name"] = "New Name"
    rows += people(1, first=9)
    outcome = bench.run(rows, dataclasses.replace(UPDATE, dry_run=True), run_id="run 2").ok()
    assert (outcome.results.summary["would_update"], outcome.results.summary["would_create"]) == (1, 1)
    assert outcome.requests == {}
    assert at_payarc(bench)["j0@example.com"]["name"] == "John Smith"


def test_a_changed_record_of_another_source_is_rejected(sqlite_bench):
    rows = people(2)
    sqlite_bench.run(rows, UPDATE).ok()
    rows[0]["name"] = "New Name"
    outcome = sqlite_bench.run(rows, UPDATE, run_id="run 2", source="table others").ok()
    assert (outcome.counts["rejected"], outcome.requests) == (1, {})


# ---- emptied fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_emptied_field_keeps_its_value_by_default(sqlite_bench, empty):
    rows = people(1, city="Springfield")
    sqlite_bench.run(rows, UPDATE).ok()
    rows[0]["city"] = empty
    outcome = sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    assert (outcome.requests, outcome.counts["known"], outcome.counts["changed"]) == ({}, 1, 0)
    assert sqlite_bench.run(rows, UPDATE, run_id="run 3").ok().requests == {}, "it was noted"
    rows[0] |= {"name": "New Name"}
    sqlite_bench.run(rows, UPDATE, run_id="run 4").ok()
    assert (only(sqlite_bench)["city"], only(sqlite_bench)["name"]) == ("Springfield", "New Name")


@pytest.mark.parametrize(
    ("empty_values", "patch_echo"), [("cleared", "stored"), ("ignored", "stored"), ("ignored", "sent")]
)
def test_an_emptied_field_is_cleared_on_request_and_this_is_checked(bench, empty_values, patch_echo):
    rows = people(2, city="Springfield")
    bench.run(rows, UPDATE).ok()
    bench.sandbox.settings(empty_values=empty_values, patch_echo=patch_echo)
    rows[0] |= {"city": None, "name": "New Name"}
    clear = dataclasses.replace(UPDATE, on_empty="clear")
    outcome = bench.run(rows, clear, run_id="run 2").ok()
    customer = at_payarc(bench)["j0@example.com"]
    assert customer["name"] == "New Name"
    if empty_values == "cleared":
        assert "city" not in customer
        assert outcome.counts["updated"] == 1
        return
    assert outcome.counts["rejected"] == 1
    assert "ignores empty values" in outcome.results.rejected()[0]["errors"]["city"][0]
    again = bench.run(rows, clear, run_id="run 3").ok()
    assert (again.requests.get("PATCH"), again.counts["rejected"]) == (None, 1)
    bench.sandbox.settings(empty_values="cleared")
    retried = bench.run(rows, dataclasses.replace(clear, retry_rejected=True), run_id="run 4").ok()
    assert retried.counts["updated"] == 1
    assert "city" not in at_payarc(bench)["j0@example.com"]


def test_a_cleared_field_that_cannot_be_read_back_is_not_taken_for_unchanged(bench, listen):
    """The token is refused after the change. Then the source gets its old value back, which PayArc must get, too."""
    rows = people(1, city="Springfield")
    bench.run(rows, UPDATE).ok()
    bench.sandbox.settings(empty_values="cleared")
    refused = [{"kind": "unauthorized", "method": "GET", "times": None}]
    listen(lambda point: bench.sandbox.faults(refused) if point == "after_update_response" else None)
    rows[0]["city"] = None
    stopped = bench.run(rows, dataclasses.replace(UPDATE, on_empty="clear"), run_id="run 2")
    assert stopped.error is not None
    assert "city" not in only(bench)
    bench.sandbox.clear_faults()
    rows[0]["city"] = "Springfield"
    bench.run(rows, UPDATE, run_id="run 3").ok()
    assert only(bench)["city"] == "Springfield"


def test_an_emptied_field_rejects_its_record_on_request(sqlite_bench):
    rows = people(2, city="Springfield")
    sqlite_bench.run(rows, UPDATE).ok()
    rows[0] |= {"city": None, "name": "New Name"}
    outcome = sqlite_bench.run(rows, dataclasses.replace(UPDATE, on_empty="reject"), run_id="run 2").ok()
    assert outcome.results.rejected()[0]["errors"].keys() == {"city"}
    assert (outcome.requests.get("PATCH"), sqlite_bench.states()) == (None, {"created": 2})


def test_a_column_that_the_source_no_longer_has_empties_nothing(sqlite_bench):
    rows = people(1, city="Springfield")
    sqlite_bench.run(rows, UPDATE).ok()
    del rows[0]["city"]
    rows[0]["name"] = "New Name"
    sqlite_bench.run(rows, dataclasses.replace(UPDATE, on_empty="clear"), run_id="run 2").ok()
    assert (only(sqlite_bench)["city"], only(sqlite_bench)["name"]) == ("Springfield", "New Name")


# ---- edits at PayArc ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_conflict", ["overwrite", "keep", "reject"])
def test_a_field_that_was_edited_at_payarc_and_changed_at_the_source(bench, on_conflict):
    rows = people(2, city="Springfield")
    ids = bench.run(rows, UPDATE).ok().ids
    edit(bench, ids[0], city="Edited City")
    for row in rows:
        row |= {"city": "Shelbyville", "name": "New Name"}
    settings = dataclasses.replace(UPDATE, on_conflict=on_conflict)
    outcome = bench.run(rows, settings, run_id="run 2").ok()
    edited, other = at_payarc(bench)["j0@example.com"], at_payarc(bench)["j1@example.com"]
    assert (other["city"], other["name"]) == ("Shelbyville", "New Name")
    expected = {
        "overwrite": ("Shelbyville", "New Name"),
        "keep": ("Edited City", "New Name"),
        "reject": ("Edited City", "John Smith"),
    }
    assert (edited["city"], edited["name"]) == expected[on_conflict]
    assert outcome.counts["conflicts"] == (on_conflict != "overwrite")
    assert outcome.counts["rejected"] == (on_conflict == "reject")
    again = bench.run(rows, settings, run_id="run 3").ok()
    assert again.requests == {}, "it is settled until the source changes again"
    assert again.counts["rejected"] == (on_conflict == "reject")
    rows[0]["city"] = "Capital City"
    bench.run(rows, settings, run_id="run 4").ok()
    assert (at_payarc(bench)["j0@example.com"]["city"] == "Capital City") == (on_conflict == "overwrite")


def test_a_kept_edit_that_leaves_nothing_to_send_costs_no_patch(sqlite_bench):
    rows = people(1, city="Springfield")
    [customer_id] = sqlite_bench.run(rows, UPDATE).ok().ids
    edit(sqlite_bench, customer_id, city="Edited City")
    rows[0]["city"] = "Shelbyville"
    keep = dataclasses.replace(UPDATE, on_conflict="keep")
    outcome = sqlite_bench.run(rows, keep, run_id="run 2").ok()
    assert (outcome.requests, outcome.statuses) == ({"GET": 2}, {"known": 1})
    assert settled(sqlite_bench)


# ---- responses ------------------------------------------------------------------------------------------------------


def test_values_that_payarc_alters_are_counted_and_named_and_not_sent_again(sqlite_bench, caplog):
    rows = people(3)
    sqlite_bench.run(rows, UPDATE).ok()
    sqlite_bench.sandbox.settings(alter={"city": "drop"})
    for row in rows:
        row["city"] = "Springfield"
    outcome = sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    assert (outcome.counts["updated"], outcome.counts["altered"]) == (3, 3)
    [warning] = [record.getMessage() for record in caplog.records if "other values" in record.getMessage()]
    assert "city" in warning
    assert "Springfield" not in caplog.text
    assert sqlite_bench.run(rows, UPDATE, run_id="run 3").ok().requests == {}


@pytest.mark.parametrize("on_conflict", ["keep", "reject"])
@pytest.mark.parametrize("altered_at", ["creation", "update"])
def test_a_value_that_payarc_alters_is_not_taken_for_an_edit(sqlite_bench, on_conflict, altered_at):
    settings = dataclasses.replace(UPDATE, on_conflict=on_conflict)
    sqlite_bench.sandbox.settings(alter={"city": "upper"})
    rows = people(2, city="Springfield") if altered_at == "creation" else people(2)
    ids = sqlite_bench.run(rows, settings).ok().ids
    for number, city in enumerate(("Springfield", "Shelbyville", "Capital City")):
        for row in rows:
            row["city"] = city
        outcome = sqlite_bench.run(rows, settings, run_id=f"run {number + 2}").ok()
        assert (outcome.counts["conflicts"], outcome.counts["rejected"]) == (0, 0)
        assert {customer["city"] for customer in at_payarc(sqlite_bench).values()} == {city.upper()}
    edit(sqlite_bench, ids[0], city="Edited City")
    rows[0]["city"] = "Springfield"
    assert sqlite_bench.run(rows, settings, run_id="run 9").ok().counts["conflicts"] == 1, "a real edit is noticed"
    assert at_payarc(sqlite_bench)["j0@example.com"]["city"] == "EDITED CITY"


@pytest.mark.parametrize("envelope", ["422", "409-message", "409-list"])
def test_a_change_that_payarc_rejects_is_reported_and_not_sent_again(bench, envelope):
    rows = people(3)
    ids = bench.run(rows, UPDATE).ok().ids
    bench.sandbox.settings(taken={"email": ["taken@example.com"]}, envelope=envelope)
    rows[1]["email"] = "taken@example.com"
    outcome = bench.run(rows, UPDATE, run_id="run 2").ok()
    assert outcome.ids == [ids[0], ids[2]]
    assert (outcome.counts["rejected"], outcome.counts["rejected_new"], outcome.recorded) == (1, 1, {"rejected": 1})
    row = bench.rows()["1"]
    assert (row.state, row.customer_id) == ("created", ids[1])
    assert settled(bench)
    again = bench.run(rows, UPDATE, run_id="run 3").ok()
    assert (again.requests.get("PATCH"), again.counts["rejected"], again.counts["rejected_new"]) == (None, 1, 0)
    assert [one["changed"] for one in bench.run(rows, run_id="run 4").ok().results.customers()] == [False, True, False]
    bench.sandbox.settings(taken={})
    if envelope == "422":
        retried = bench.run(rows, dataclasses.replace(UPDATE, retry_rejected=True), run_id="run 5").ok()
        assert (retried.ids, retried.counts["updated"]) == (ids, 1)
    else:  # the same by hand
        Repair(bench.open(), ACCOUNT).retry(["1"])
        assert bench.run(rows, UPDATE, run_id="run 5").ok().counts["updated"] == 1
    assert "taken@example.com" in at_payarc(bench)


def test_a_rejected_change_that_is_taken_back_needs_no_request(sqlite_bench):
    rows = people(1)
    sqlite_bench.run(rows, UPDATE).ok()
    sqlite_bench.sandbox.settings(taken={"email": ["taken@example.com"]})
    before = dict(rows[0])
    rows[0]["email"] = "taken@example.com"
    sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    outcome = sqlite_bench.run([before], UPDATE, run_id="run 3").ok()
    assert (outcome.counts["known"], outcome.requests.get("PATCH")) == (1, None)
    assert sqlite_bench.rows()["0"].error is None


@pytest.mark.parametrize("deletion", ["gone", "soft"])
def test_a_customer_that_was_deleted_at_payarc_is_never_created_again_by_itself(bench, deletion):
    rows = people(2)
    ids = bench.run(rows, UPDATE).ok().ids
    bench.sandbox.settings(deletion=deletion)
    client = PayarcClient(bench.sandbox.url, lambda _fresh: bench.sandbox.token)
    client.delete_customer(ids[0])
    client.close()
    rows[0]["name"] = "New Name"
    outcome = bench.run(rows, UPDATE, run_id="run 2").ok()
    [rejected] = outcome.results.rejected()
    assert "forget" in rejected["errors"]["record"][0]
    again = bench.run(rows, UPDATE, run_id="run 3").ok()
    assert (again.counts["rejected"], again.requests.get("PATCH")) == (1, None)
    assert len(bench.sandbox.customers()) == 1
    Repair(bench.open(), ACCOUNT).forget("0")
    assert bench.run(rows, UPDATE, run_id="run 4").ok().counts["created"] == 1
    assert len(bench.sandbox.customers()) == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "lost_before"},
        {"kind": "lost_after"},
        {"kind": "status_after"},
        {"kind": "garbage_after"},
        {"kind": "cut_after"},
        {"kind": "foreign_after", "status": 401},
        {"kind": "foreign_after", "status": 404},
        {"kind": "html_before", "status": 404},
        {"kind": "foreign_after", "status": 422},
        {"kind": "foreign_before", "status": 429},
        {"kind": "rate_limited", "seconds": 0.2},
    ],
    ids=lambda fault: f"{fault['kind']} {fault.get('status', '')}".strip(),
)
def test_a_change_without_a_usable_response_is_sent_again_until_it_is_certain(sqlite_bench, fault):
    rows = people(6)
    sqlite_bench.run(rows, UPDATE).ok()
    sqlite_bench.sandbox.faults([{"method": "PATCH", "times": 2, **fault}])
    for row in rows:
        row["name"] = "New Name"
    outcome = sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    assert outcome.counts["updated"] == 6
    assert {customer["name"] for customer in at_payarc(sqlite_bench).values()} == {"New Name"}
    assert settled(sqlite_bench)


def test_no_second_request_is_sent_before_the_first_can_no_longer_be_applied(sqlite_bench):
    rows = people(1)
    sqlite_bench.run(rows, UPDATE).ok()
    rows[0]["name"] = "New Name"
    sqlite_bench.sandbox.faults([{"kind": "late_commit", "method": "PATCH", "seconds": 0.8}])
    settings = dataclasses.replace(UPDATE, settle=1.0, timeout=1.0, lease=5.0)
    began = time.monotonic()
    sqlite_bench.run(rows, settings, run_id="run 2").ok()
    assert time.monotonic() - began >= 1.0
    assert only(sqlite_bench)["name"] == "New Name"


def test_a_change_that_never_gets_a_usable_response_ends_the_run_and_stays_open(sqlite_bench):
    rows = people(2)
    sqlite_bench.run(rows, UPDATE).ok()
    sqlite_bench.sandbox.faults([{"kind": "status_before", "method": "PATCH", "every": 1}])
    rows[0]["name"] = "New Name"
    outcome = sqlite_bench.run(rows, dataclasses.replace(UPDATE, max_tries=2), run_id="run 2")
    assert isinstance(outcome.error, PayarcRunStopped)
    assert "changes that may not have reached PayArc: 0" in str(outcome.error)
    assert sqlite_bench.rows()["0"].state == "updating"
    sqlite_bench.sandbox.clear_faults()
    assert sqlite_bench.run(rows, UPDATE, run_id="run 3").ok().counts["updated"] == 1
    assert settled(sqlite_bench)


def test_a_change_that_is_taken_back_while_it_is_open_is_sent(sqlite_bench):
    """The row knows both values until one is certain, so the old one is not taken for what PayArc has."""
    rows = people(1)
    sqlite_bench.run(rows, UPDATE).ok()
    sqlite_bench.sandbox.faults([{"kind": "status_after", "method": "PATCH", "every": 1}])
    before = dict(rows[0])
    rows[0]["name"] = "New Name"
    assert sqlite_bench.run(rows, dataclasses.replace(UPDATE, max_tries=1), run_id="run 2").error
    sqlite_bench.sandbox.clear_faults()
    assert only(sqlite_bench)["name"] == "New Name"
    assert sqlite_bench.run([before], UPDATE, run_id="run 3").ok().counts["updated"] == 1
    assert only(sqlite_bench)["name"] == "John Smith"


# ---- adopted and rebuilt customers ----------------------------------------------------------------------------------


def test_an_adopted_customer_with_other_values_is_changed_in_the_same_run(bench):
    rows = people(3)
    bench.sandbox.seed(
        [
            {"name": "Old Name", "email": "j0@example.com", "city": "Springfield"},
            {"name": "John Smith", "email": "j1@example.com", "city": "Springfield"},
        ]
    )
    settings = dataclasses.replace(UPDATE, match_existing="email")
    outcome = bench.run(rows, settings).ok()
    assert outcome.statuses == {"updated": 1, "adopted": 1, "created": 1}
    customer = at_payarc(bench)["j0@example.com"]
    assert (customer["name"], customer["city"]) == ("John Smith", "Springfield")
    assert outcome.requests["PATCH"] == 1
    assert bench.run(rows, settings, run_id="run 2").ok().requests == {}


def test_an_adopted_customer_with_other_values_counts_as_changed_by_default(sqlite_bench):
    rows = people(2)
    sqlite_bench.sandbox.seed(
        [{"name": "Old Name", "email": "j0@example.com"}, {"name": "John Smith", "email": "j1@example.com"}]
    )
    outcome = sqlite_bench.run(rows, dataclasses.replace(QUICK, match_existing="email")).ok()
    assert [(one["status"], one["changed"]) for one in outcome.results.customers()] == [
        ("adopted", True),
        ("adopted", False),
    ]
    later = sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    assert later.counts["updated"] == 1


def test_a_customer_that_payarc_merged_by_email_is_changed(sqlite_bench):
    rows = people(1)
    sqlite_bench.sandbox.seed([{"name": "Old Name", "email": "j0@example.com", "created_at": time.time() - 86_400}])
    sqlite_bench.sandbox.settings(shared_email="merged")
    outcome = sqlite_bench.run(rows, UPDATE).ok()
    assert outcome.counts["updated"] == 1
    assert only(sqlite_bench)["name"] == "John Smith"


# ---- versions -------------------------------------------------------------------------------------------------------

TIME = datetime.datetime(2026, 1, 2, 3, 4, 5)
EAST = datetime.timezone(datetime.timedelta(hours=5))
VERSIONS = {
    "integers": (9, 10),
    "decimals": (Decimal("9.5"), Decimal("10.25")),
    "numbers as text": ("9", "10"),
    "dates": (datetime.date(2026, 1, 2), datetime.date(2026, 1, 10)),
    "dates as text": ("2026-01-02", "2026-01-10"),
    "times": (TIME, TIME + datetime.timedelta(microseconds=1)),
    "times with zones": (
        TIME.replace(hour=4, tzinfo=EAST),
        TIME.replace(hour=0, tzinfo=datetime.UTC),
    ),
    "times as text": ("2026-01-02 09:04:05", "2026-01-02T10:04:05"),
    "times with zones as text": ("2026-01-02T04:04:05+05:00", "2026-01-02T00:04:05Z"),
}


@pytest.mark.parametrize("kind", VERSIONS)
def test_older_data_never_overwrites_newer_data(sqlite_bench, kind):
    old, new = VERSIONS[kind]
    row = people(1)[0]
    sqlite_bench.run([row | {"v": new}], VERSIONED).ok()
    outcome = sqlite_bench.run([row | {"v": old, "name": "Older Name"}], VERSIONED, run_id="run 2").ok()
    assert outcome.results.customers()[0] | {"customer_id": ""} == {
        "key": "0",
        "customer_id": "",
        "status": "known",
        "changed": True,
        "stale": True,
    }
    assert (outcome.counts["stale"], outcome.requests.get("PATCH")) == (1, None)
    assert only(sqlite_bench)["name"] == "John Smith"
    assert sqlite_bench.run([row | {"v": new, "name": "Equal"}], VERSIONED, run_id="run 3").ok().counts["updated"] == 1


def test_newer_data_is_sent_and_a_newer_version_of_the_same_data_is_noted(bench):
    row = people(1)[0]
    bench.run([row | {"v": 1}], VERSIONED).ok()
    assert bench.run([row | {"v": 5}], VERSIONED, run_id="run 2").ok().requests == {}
    assert bench.rows()["0"].version == "n:5"
    stale = bench.run([row | {"v": 3, "name": "Older Name"}], VERSIONED, run_id="run 3").ok()
    assert stale.counts["stale"] == 1
    assert bench.run([row | {"v": 7, "name": "Newer Name"}], VERSIONED, run_id="run 4").ok().counts["updated"] == 1
    assert (only(bench)["name"], bench.rows()["0"].version) == ("Newer Name", "n:7")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is missing"),
        ("", "is missing"),
        (float("nan"), "is missing"),
        (True, "has the type bool"),
        ("yesterday", "no number, date or time"),
        ("2026-13-45", "no number, date or time"),
        (b"7", "has the type bytes"),
        (float("inf"), "is not a number"),
        (Decimal("1E+9999"), "too many digits"),
        (datetime.date(2026, 1, 2), "is a date, and the customer's is a number"),
        (TIME, "is a time without a time zone, and the customer's is a number"),
    ],
)
def test_a_version_that_cannot_be_compared_rejects_its_record(sqlite_bench, value, reason):
    rows = [row | {"v": 1} for row in people(2)]
    sqlite_bench.run(rows, VERSIONED).ok()
    rows[0] |= {"v": value, "name": "New Name"}
    outcome = sqlite_bench.run(rows, VERSIONED, run_id="run 2").ok()
    [rejected] = outcome.results.rejected()
    assert reason in rejected["errors"]["v"][0]
    assert (sqlite_bench.states(), outcome.requests.get("PATCH")) == ({"created": 2}, None)


def test_a_run_without_versions_forgets_them_once(sqlite_bench):
    rows = [row | {"v": 5} for row in people(3)]
    sqlite_bench.run(rows, VERSIONED).ok()
    sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    assert {row.version for row in sqlite_bench.rows().values()} == {None}
    dated = [row | {"v": datetime.date(2026, 1, 2), "name": "New Name"} for row in rows]
    assert sqlite_bench.run(dated, VERSIONED, run_id="run 3").ok().counts["updated"] == 3


def test_older_data_does_not_succeed_while_newer_data_may_be_lost(bench):
    """A run has sent newer data and died; nobody knows whether PayArc has it. Older data must not pass for it."""
    row = people(1)[0]
    bench.run([row | {"v": 1}], VERSIONED).ok()
    bench.sandbox.faults([{"kind": "status_before", "method": "PATCH", "every": 1}])
    dead = dataclasses.replace(VERSIONED, max_tries=1)
    assert bench.run([row | {"v": 3, "name": "Newest Name"}], dead, run_id="run 2").error
    bench.sandbox.clear_faults()
    time.sleep(0.2)
    older = bench.run([row | {"v": 2, "name": "Newer Name"}], VERSIONED, run_id="run 3")
    assert isinstance(older.error, PayarcRunStopped)
    assert "newer data" in str(older.error)
    assert bench.run([row | {"v": 1}], VERSIONED, run_id="run 4").error
    assert bench.run([row | {"v": 3, "name": "Newest Name"}], VERSIONED, run_id="run 5").ok().counts["updated"] == 1
    assert bench.run([row | {"v": 2, "name": "Newer Name"}], VERSIONED, run_id="run 6").ok().counts["stale"] == 1
    assert only(bench)["name"] == "Newest Name"


def test_data_between_a_confirmed_and_a_rejected_version_is_sent(sqlite_bench):
    row = people(1)[0]
    sqlite_bench.run([row | {"v": 1}], VERSIONED).ok()
    sqlite_bench.sandbox.settings(taken={"email": ["taken@example.com"]})
    newest = row | {"v": 3, "email": "taken@example.com"}
    assert sqlite_bench.run([newest], VERSIONED, run_id="run 2").ok().counts["rejected"] == 1
    between = row | {"v": 2, "name": "Newer Name"}
    assert sqlite_bench.run([between], VERSIONED, run_id="run 3").ok().counts["updated"] == 1
    assert only(sqlite_bench)["name"] == "Newer Name"


def test_a_missing_version_column_stops_the_run():
    with pytest.raises(PayarcConfigError, match="version"):
        Settings(version="").check_values()
    with pytest.raises(PayarcConfigError, match='on_empty: give "keep", "clear", "reject"'):
        Settings(on_empty="drop").check_values()


# ---- runs that die, and runs in parallel ----------------------------------------------------------------------------


def leave_open(bench, row, *, apply, lease=0.2, settle=0.2):
    """Leave the row as a run that was killed during its PATCH does; apply its request or not."""
    settings = dataclasses.replace(UPDATE, max_tries=1)
    kind = "status_after" if apply else "status_before"
    bench.sandbox.faults([{"kind": kind, "method": "PATCH", "every": 1}])
    assert bench.run([row], settings, run_id="killed").error
    bench.sandbox.clear_faults()


@pytest.mark.parametrize("applied", [True, False])
def test_the_open_change_of_a_dead_run_is_taken_over_and_the_newest_data_is_sent(bench, applied):
    rows = people(2, city="Springfield")
    bench.run(rows, UPDATE).ok()
    leave_open(bench, rows[0] | {"name": "Lost Name", "city": "Lost City"}, apply=applied)
    rows[0]["name"] = "Newest Name"
    assert bench.run(rows, UPDATE, run_id="run 3").ok().counts["updated"] == 1
    customer = at_payarc(bench)["j0@example.com"]
    assert (customer["name"], customer["city"]) == ("Newest Name", "Springfield")
    assert settled(bench)


def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_row_under_another_runs_live_lease_is_waited_for(bench, listen):
    rows = people(1)
    bench.run(rows, UPDATE).ok()
    slow = dataclasses.replace(UPDATE, settle=0.1)
    bench.sandbox.faults([{"kind": "hang_before", "method": "PATCH", "seconds": 1.0}])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bench.run, [rows[0] | {"name": "First Name"}], slow, run_id="run 2")
        wait_until(lambda: bench.rows()["0"].state == "updating")
        second = pool.submit(bench.run, [rows[0] | {"name": "Second Name"}], UPDATE, run_id="run 3")
        assert first.result().ok().counts["updated"] == 1
        assert second.result().ok().counts["updated"] == 1
    assert only(bench)["name"] == "Second Name"


def test_many_runs_with_versions_leave_the_newest_data(bench):
    row = people(1)[0]
    bench.run([row | {"v": 0}], VERSIONED).ok()
    bench.sandbox.settings(latency=0.01, jitter=0.02)
    with ThreadPoolExecutor(6) as pool:
        runs = [
            pool.submit(bench.run, [row | {"v": number, "name": f"Name {number}"}], VERSIONED, run_id=f"run {number}")
            for number in (3, 1, 6, 2, 5, 4)
        ]
        for run in runs:
            run.result().ok()
    assert only(bench)["name"] == "Name 6"
    assert bench.rows()["0"].version == "n:6"


def test_a_run_that_is_stopped_before_it_sends_leaves_the_row_as_it_was(bench, listen):
    rows = people(1)
    bench.run(rows, UPDATE).ok()
    before = bench.rows()["0"]
    stop = []

    def stop_the_run(checkpoint):
        if checkpoint == "after_update_claim":
            stop[0]()
            time.sleep(0.1)

    listen(stop_the_run)
    outcome = bench.run([rows[0] | {"name": "New Name"}], UPDATE, run_id="run 2", on_start=stop.append)
    listen(None)
    assert isinstance(outcome.error, PayarcRunStopped)
    after = bench.rows()["0"]
    assert dataclasses.replace(after, attempt=before.attempt, run_id=before.run_id) == before
    assert bench.run([rows[0] | {"name": "New Name"}], UPDATE, run_id="run 3").ok().counts["updated"] == 1


def test_a_change_that_a_run_has_given_up_does_not_hold_up_others(bench):
    rows = people(2)
    bench.run(rows, UPDATE).ok()
    bench.sandbox.faults([{"kind": "status_before", "method": "PATCH", "every": 1}])
    bench.sandbox.settings(latency=0.2)
    for row in rows:
        row["name"] = "New Name"
    settings = dataclasses.replace(
        UPDATE, timeout=0.5, settle=0.5, lease=1.0, max_tries=1, concurrency=1, batch_size=1, held_patience=8.0
    )
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(bench.run, each, settings, run_id=f"run {each[0]['id']}") for each in (rows, rows[::-1])]
        errors = [str(one.result().error) for one in both]
    assert all("may not have reached PayArc" in error for error in errors), errors


def test_a_report_run_leaves_open_changes_alone(bench):
    rows = people(1)
    bench.run(rows, UPDATE).ok()
    leave_open(bench, rows[0] | {"name": "Lost Name"}, apply=False)
    outcome = bench.run(rows, run_id="run 3").ok()
    assert (outcome.counts["known"], outcome.counts["changed"]) == (1, 1)
    assert bench.rows()["0"].state == "updating"


def test_creates_and_updates_share_a_run_and_its_rate_limit(sqlite_bench):
    rows = people(30)
    sqlite_bench.run(rows, UPDATE).ok()
    for row in rows:
        row["name"] = "New Name"
    rows += people(30, first=100)
    sqlite_bench.sandbox.settings(rate_limit=20, rate_window=1.0)
    outcome = sqlite_bench.run(rows, UPDATE, run_id="run 2").ok()
    assert outcome.statuses == {"updated": 30, "created": 30}
    assert (outcome.requests["POST"] + outcome.requests["PATCH"]) <= 60 + outcome.counts["rate_limited"]


def test_a_renewed_lease_keeps_a_slow_change_claimed(sqlite_bench):
    rows = people(1)
    sqlite_bench.run(rows, UPDATE).ok()
    held = dataclasses.replace(UPDATE, timeout=2.0, settle=2.0, lease=3.0)
    sqlite_bench.sandbox.faults([{"kind": "status_before", "method": "PATCH", "times": 2}])
    done = threading.Event()
    seen = []

    def watch():
        me = Claimant(ACCOUNT, "nobody", "table people", 0.1, 0.0)
        ledger = sqlite_bench.open()
        while not done.wait(0.3):
            row = ledger.rows(me, ["0"])["0"]
            if row.state == "updating":
                seen.append(row.lease_until > ledger.now())

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        sqlite_bench.run([rows[0] | {"name": "New Name"}], held, run_id="run 2").ok()
        done.set()
        watching.result()
    assert seen
    assert all(seen)
    assert only(sqlite_bench)["name"] == "New Name"
