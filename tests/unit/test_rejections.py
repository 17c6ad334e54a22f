"""Grouping rejected records by reason: what is one reason, which keys are shown, and that memory stays constant."""

from __future__ import annotations

import pytest

from payarc_provider.api.fields import clean
from payarc_provider.sync.ledger import Row
from payarc_provider.sync.rejections import MAX_GROUPS, MAX_KEYS, Rejections, reasons
from payarc_provider.sync.update import other_source_error


def lines(rejections):
    return [str(group) for group in rejections.groups()]


def test_records_are_grouped_by_what_is_wrong_whatever_their_values_are():
    rejections = Rejections()
    for number in range(145):
        rejections.add(clean({"name": "Jo"[: number % 2 + 1]})[1], f"c-{number:05}")
    rejections.add(clean({"zip": "10469x"})[1], "z-1")
    rejections.add(clean({"zip": "A"})[1], "z-2")
    assert lines(rejections) == [
        "145 records: name must have at least 3 characters (keys c-00000, c-00001, c-00002, c-00003, c-00004, …)",
        "2 records: zip must contain only digits and hyphens (keys z-1, z-2)",
    ]
    assert rejections.records == 147


def test_a_record_with_two_faults_is_in_both_groups_and_counts_once():
    rejections = Rejections()
    rejections.add(clean({"name": "Jo", "phone": "541*754"})[1], "a")
    rejections.add(clean({"name": "J"})[1], "b")
    assert lines(rejections) == [
        "2 records: name must have at least 3 characters (keys a, b)",
        "1 record: phone must contain only digits and + - . ( ) / between them (key a)",
    ]
    assert rejections.records == 2


@pytest.mark.parametrize("value", ["1()2", "1)", "(", ")", "12x", "1 2", "١٠"])
def test_no_character_of_a_value_makes_a_reason_of_its_own(value):
    assert list(reasons(clean({"zip": value})[1])) == ["zip must contain only digits and hyphens"]


def test_a_sentence_of_payarc_follows_the_field_as_it_is():
    errors = {"name": ["The name format is invalid."], "email": ["The email has already been taken."]}
    assert list(reasons(errors)) == ["name: The name format is invalid.", "email: The email has already been taken."]


def test_customers_of_another_source_are_one_group():
    rejections = Rejections()
    columns = dict.fromkeys(Row.__slots__) | {"source": "table people of crm"}
    for number in range(3):
        row = Row(**columns | {"key": str(number), "customer_id": f"cus{number}"})
        rejections.add(other_source_error(row, "table users of crm"), str(number))
    (group,) = rejections.groups()
    assert group.records == 3
    assert "cus" not in group.reason.replace("customer", "")
    assert "set source=" in group.reason


def test_rows_that_were_counted_elsewhere_are_added_together():
    rejections = Rejections()
    rejections.add({"name": ["is bad"]}, "a", records=1000)
    rejections.add({"name": ["is bad"]}, "b", "c", records=2)
    assert lines(rejections) == ["1002 records: name is bad (keys a, b, c, …)"]


def test_keys_are_shown_unless_they_are_missing_or_personal():
    rejections = Rejections()
    rejections.add({"id": ["is missing"]}, None)
    rejections.add({"id": ["is missing"]}, None)
    rejections.add({"name": ["is bad"]}, "jo@example.com")
    rejections.add({"name": ["is bad"]}, "al@example.com")
    assert lines(rejections) == [
        "2 records: id is missing",
        "2 records: name is bad (keys (a key that looks like an email), …)",
    ]
    assert "example.com" not in repr(rejections.groups())


def test_long_keys_do_not_fill_the_line():
    rejections = Rejections()
    for number in range(3):
        rejections.add({"name": ["is bad"]}, f"{number}" * 60)
    assert lines(rejections) == [f"3 records: name is bad (keys {'0' * 60}, …)"]


def test_memory_stays_constant():
    rejections = Rejections()
    for number in range(20 * MAX_GROUPS):
        rejections.add({"name": [f"is unlike others {number}"]}, f"a{number}")
        rejections.add({"name": ["is bad"]}, f"b{number}")
    groups = rejections.groups()
    assert len(groups) == MAX_GROUPS
    assert str(groups[0]).startswith(f"{20 * MAX_GROUPS} records: name is bad (keys b0, ")
    assert max(len(group.keys) for group in groups) == MAX_KEYS
    assert rejections.others == 20 * MAX_GROUPS - (MAX_GROUPS - 1)
    assert rejections.records == 40 * MAX_GROUPS
