"""The reference: the short code by which a customer is recognised in PayArc's list."""

from __future__ import annotations

import pytest

from payarc_provider.sync.reference import ALPHABET, LENGTH, MAX_DESCRIPTION, find_reference, reference, with_reference

LEDGER = "7f" * 16
CODE = reference(LEDGER, "test/1", "42")


def test_the_code_has_twelve_characters_that_cannot_be_misread():
    assert len(CODE) == LENGTH == 12
    assert set(CODE) <= set(ALPHABET)
    assert not set(ALPHABET) & set("ilou")


def test_the_code_is_the_same_for_ever_since_it_stands_at_payarc():
    assert reference("0" * 32, "test/1", "42") == "p83xgv4nvx5p"


def test_the_code_tells_ledgers_accounts_and_keys_apart():
    triples = [
        (LEDGER, "test/1", "42"),
        ("7e" * 16, "test/1", "42"),
        (LEDGER, "test/2", "42"),
        (LEDGER, "test/1", "43"),
        (LEDGER, "test/14", "2"),
        (LEDGER, "test/", "142"),
    ]
    assert len({reference(*triple) for triple in triples}) == len(triples)


def test_codes_of_many_keys_differ():
    assert len({reference(LEDGER, "test/1", str(number)) for number in range(20_000)}) == 20_000


@pytest.mark.parametrize("description", [None, "", "Donut shop customer", "ends in a hash #", "x" * 36, "Ωμέγα"])
def test_what_is_carried_is_found_again(description):
    carried = with_reference(description, CODE)
    assert carried is not None
    assert len(carried) <= MAX_DESCRIPTION
    assert find_reference(carried) == CODE
    assert carried.startswith(description or "ref")


def test_a_description_that_leaves_no_room_is_never_cut():
    assert with_reference("x" * 37, CODE) is None
    assert with_reference("x" * 36, CODE) == "x" * 36 + " #" + CODE


def test_the_code_is_found_whatever_case_and_trailing_space_payarc_stores():
    assert find_reference(f"Donut shop #{CODE.upper()}  ") == CODE


@pytest.mark.parametrize(
    "description",
    [None, "", 7, "Donut shop", f"#{CODE} and more", f"#{CODE[:-1]}", f"#{CODE}x", CODE, "#" + "i" * 12, f"# {CODE}"],
)
def test_what_does_not_end_in_a_code_bears_none(description):
    assert find_reference(description) is None
