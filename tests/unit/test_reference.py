"""References: the short code by which a customer is recognized in PayArc's list."""

from __future__ import annotations

import pytest

from payarc_provider.sync.keys import (
    ALPHABET,
    LENGTH,
    MAX_DESCRIPTION,
    find_reference,
    reference,
    with_reference,
    without_reference,
)

LEDGER = "7f" * 16
CODE = reference(LEDGER, "test/1", "42")


def test_a_reference_has_twelve_characters_that_are_not_misread():
    assert len(CODE) == LENGTH == 12
    assert set(CODE) <= set(ALPHABET)
    assert not set(ALPHABET) & set("ilou")


def test_a_reference_never_changes_because_payarc_stores_it():
    assert reference("0" * 32, "test/1", "42") == "p83xgv4nvx5p"


def test_ledgers_accounts_and_keys_have_different_references():
    triples = [
        (LEDGER, "test/1", "42"),
        ("7e" * 16, "test/1", "42"),
        (LEDGER, "test/2", "42"),
        (LEDGER, "test/1", "43"),
        (LEDGER, "test/14", "2"),
        (LEDGER, "test/", "142"),
    ]
    assert len({reference(*triple) for triple in triples}) == len(triples)


def test_references_of_many_keys_differ():
    assert len({reference(LEDGER, "test/1", str(number)) for number in range(20_000)}) == 20_000


@pytest.mark.parametrize("description", [None, "", "Donut shop customer", "ends in a hash #", "x" * 36, "Ωμέγα"])
def test_a_reference_is_found_in_the_description_that_carries_it(description):
    carrying = with_reference(description, CODE)
    assert carrying is not None
    assert len(carrying) <= MAX_DESCRIPTION
    assert find_reference(carrying) == CODE
    assert carrying.startswith(description or "ref")
    assert without_reference(carrying) == (description or None)


def test_a_description_without_room_for_a_reference_is_not_cut():
    assert with_reference("x" * 37, CODE) is None
    assert with_reference("x" * 36, CODE) == "x" * 36 + " #" + CODE


def test_a_reference_is_found_in_any_case_and_before_trailing_spaces():
    assert find_reference(f"Donut shop #{CODE.upper()}  ") == CODE


@pytest.mark.parametrize(
    "description",
    [None, "", 7, "Donut shop", f"#{CODE} and more", f"#{CODE[:-1]}", f"#{CODE}x", CODE, "#" + "i" * 12, f"# {CODE}"],
)
def test_a_description_that_does_not_end_in_a_code_carries_no_reference(description):
    assert find_reference(description) is None
