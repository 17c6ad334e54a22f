"""References: the short code by which a customer is recognized in PayArc's list."""

from __future__ import annotations

import pytest

from payarc_provider.sync.reference import (
    ALPHABET,
    LENGTH,
    MAX_DESCRIPTION,
    find_reference,
    reference,
    reference_tag,
    with_reference,
    without_reference,
)

LEDGER = "7f" * 16
CODE = reference(LEDGER, "test/1", "42")


def test_a_reference_consists_of_letters_and_digits_that_are_not_misread():
    assert len(CODE) == LENGTH == 16
    assert set(CODE) <= set(ALPHABET)
    assert not set(ALPHABET) & set("ilou")


def test_references_of_an_account_in_a_ledger_begin_with_its_tag():
    tags = {reference_tag(LEDGER, "test/1"), reference_tag(LEDGER, "test/2"), reference_tag("7e" * 16, "test/1")}
    assert len(tags) == 3
    assert CODE.startswith(reference_tag(LEDGER, "test/1"))
    assert reference(LEDGER, "test/1", "43").startswith(reference_tag(LEDGER, "test/1"))


def test_a_reference_never_changes_because_payarc_stores_it():
    assert reference("0" * 32, "test/1", "42") == "dhqn8y9nns22y4zz"


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


@pytest.mark.parametrize(
    "description", [None, "", "Donut shop customer", "ends in a hash #", "internationalize", "x" * 33, "Ωμέγα"]
)
def test_a_reference_is_found_in_the_description_that_carries_it(description):
    carrying = with_reference(description, CODE)
    assert carrying is not None
    assert len(carrying) <= MAX_DESCRIPTION
    assert find_reference(carrying) == CODE
    assert carrying.startswith(description or "ref")
    assert without_reference(carrying) == (description or "")


def test_a_description_without_room_for_a_reference_is_not_cut():
    assert with_reference("x" * 34, CODE) is None
    assert with_reference("x" * 33, CODE) == "x" * 33 + " " + CODE


def test_a_reference_is_found_in_any_case_and_before_trailing_spaces():
    assert find_reference(f"Donut shop {CODE.upper()}  ") == CODE


def test_a_description_that_lost_all_but_its_reference_still_shows_it():
    assert find_reference(CODE) == find_reference(f"Donutshop{CODE}") == CODE


@pytest.mark.parametrize(
    "description",
    [None, "", 7, "Donut shop", f"{CODE} and more", f"x {CODE[:-1]}", f"x {CODE}i", "i" * 16],
)
def test_a_description_that_does_not_end_in_a_code_carries_no_reference(description):
    assert find_reference(description) is None
