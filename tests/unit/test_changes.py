"""Changes: what a record changes at its customer, told by fingerprints."""

from __future__ import annotations

import pytest

from payarc_provider.sync.changes import EMPTY, afterwards, allows, change_of, is_certain, while_open

ROW = "city:c1 email:e1 name:n1"
COLUMNS = ("name", "email", "city", "phone")


@pytest.mark.parametrize(
    ("prints", "changed", "emptied"),
    [
        ({"name": "n1", "email": "e1", "city": "c1"}, set(), set()),
        ({"name": "n2", "email": "e1", "city": "c1"}, {"name"}, set()),
        ({"name": "n1", "email": "e1", "city": "c1", "phone": "p1"}, {"phone"}, set()),
        ({"name": "n1", "email": "e1"}, set(), {"city"}),
        ({"name": "n2", "phone": "p1"}, {"name", "phone"}, {"email", "city"}),
    ],
)
def test_a_change_has_the_fields_with_other_values_and_those_that_lost_theirs(prints, changed, emptied):
    change = change_of(ROW, prints, COLUMNS)
    assert (change.changed, change.emptied) == (changed, emptied)


def test_a_field_without_a_column_is_not_emptied():
    assert change_of(ROW, {"name": "n1", "email": "e1"}, ["name", "email"]).emptied == set()


def test_a_customer_without_fingerprints_gets_every_field():
    change = change_of("", {"name": "n1", "email": "e1"}, COLUMNS)
    assert (change.changed, change.emptied) == ({"name", "email"}, set())


@pytest.mark.parametrize("name", ["n1", "n2", "n3"])
def test_while_a_request_is_open_every_value_of_its_fields_is_a_change(name):
    row = while_open(ROW, {"name": "n2"})
    assert row == "city:c1 email:e1 name:n1|n2"
    assert change_of(row, {"name": name, "email": "e1", "city": "c1"}, COLUMNS).changed == {"name"}


def test_a_field_that_is_being_cleared_is_still_to_be_cleared_until_that_is_certain():
    row = while_open(ROW, {"city": EMPTY})
    assert row == "city:c1|- email:e1 name:n1"
    rest = {"name": "n1", "email": "e1"}
    assert change_of(row, rest, COLUMNS).emptied == {"city"}
    assert change_of(afterwards(row, {"city": EMPTY}), rest, COLUMNS).emptied == set()


def test_several_open_requests_keep_every_value_once_and_in_order():
    row = while_open(while_open(while_open(ROW, {"name": "n2"}), {"name": "n3", "phone": "p1"}), {"name": "n2"})
    assert row == "city:c1 email:e1 name:n1|n2|n3 phone:-|p1"
    assert not is_certain(row)
    assert not is_certain(while_open(row, {"email": "e2"}))


def test_afterwards_the_row_has_what_was_sent():
    row = while_open(ROW, {"name": "n2", "city": EMPTY, "phone": "p1"})
    row = afterwards(row, {"name": "n2", "city": EMPTY, "phone": "p1"})
    assert row == "email:e1 name:n2 phone:p1"
    assert is_certain(row)
    assert change_of(row, {"name": "n2", "email": "e1", "phone": "p1"}, COLUMNS).changed == set()


def test_afterwards_fields_of_an_earlier_open_request_stay_uncertain():
    row = afterwards(while_open(ROW, {"name": "n2", "email": "e2"}), {"name": "n3"})
    assert row == "city:c1 email:e1|e2 name:n3"
    assert not is_certain(row)


def test_a_row_without_open_requests_is_certain():
    assert is_certain(ROW)
    assert is_certain("")


@pytest.mark.parametrize(
    ("row_print", "shown", "allowed"),
    [
        ("n1", "n1", True),
        ("n1", "n2", False),
        ("n1", None, False),
        ("n1|n2", "n1", True),
        ("n1|n2", "n2", True),
        ("n1|n2", "n3", False),
        ("n1|n2", None, False),
        ("n1|-", None, True),
        ("-|n1", "n1", True),
        ("n12", "n1", False),
        (None, None, True),
        (None, "n1", False),
        (EMPTY, None, True),
    ],
)
def test_payarc_may_show_the_values_that_the_row_knows_and_no_others(row_print, shown, allowed):
    assert allows(row_print, shown) == allowed
