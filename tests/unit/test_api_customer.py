"""Customer objects in both shapes that PayArc sends."""

from __future__ import annotations

import pytest

from payarc_provider.api.fields import created_between, path_id, read_customer_id
from payarc_provider.exceptions import PayarcConfigError

GUIDE_TIME = 1543304218.0  # 2018-11-27 07:36:58 UTC
HOURS_14 = 14 * 3600


@pytest.mark.parametrize(
    ("obj", "found"),
    [
        ({"id": "KPxMADVnxMV4nNjp", "real_id": 110}, "KPxMADVnxMV4nNjp"),
        ({"customer_id": "AbC", "id": "other"}, "AbC"),
        ({"customer_id": "cus_AbC"}, "AbC"),
        ({"customer_id": None, "id": "cus_x"}, "x"),
        ({"customer_id": " ", "id": "x"}, "x"),
        ({"customer_id": "cus_", "id": "x"}, "x"),
        ({"id": 110}, None),
        ({"customer_id": 110, "id": "x"}, "x"),
        ({"customer_id": 10**5000}, None),
        ({"id": 1.5}, None),
        ({"id": True}, None),
        ({"id": "9" * 4000}, None),
        ({"id": "../charges"}, None),
        ({"id": "x?limit=1"}, None),
        ({"id": "a\x00b"}, None),
        ({"id": "a\u202eb"}, None),
        ({"id": "\ud800"}, None),
        ({"id": " " * 300 + "x"}, None),
        ({"id": {"x": 1}}, None),
        ({"id": ["x"]}, None),
        ({"real_id": 110}, None),
        ({}, None),
    ],
)
def test_the_id(obj, found):
    assert read_customer_id(obj) == found


def test_the_prefix_is_stripped_once():
    assert read_customer_id({"id": " cus_cus_x "}) == path_id(" cus_cus_x ") == "cus_x"


def test_ids_for_a_path():
    assert path_id("cus_AbC-1_2") == "AbC-1_2"
    assert path_id("a" * 64) == "a" * 64


@pytest.mark.parametrize("bad", ["", "cus_", "a/b", "..", "a?b", "a b", "é", "a" * 65, "a\nb", None, 7, "../charges"])
def test_an_invalid_id_never_reaches_a_path(bad):
    with pytest.raises(PayarcConfigError, match="customer id"):
        path_id(bad)


@pytest.mark.parametrize(
    ("value", "between"),
    [
        (1543304218, (GUIDE_TIME, GUIDE_TIME)),
        (1543304218.5, (GUIDE_TIME + 0.5, GUIDE_TIME + 0.5)),
        ("1543304218", (GUIDE_TIME, GUIDE_TIME)),
        ("2018-11-27 07:36:58", (GUIDE_TIME - HOURS_14, GUIDE_TIME + HOURS_14)),
        ("2018-11-27T07:36:58.000000", (GUIDE_TIME - HOURS_14, GUIDE_TIME + HOURS_14)),
        ("2018-11-27T07:36:58.000000Z", (GUIDE_TIME, GUIDE_TIME)),
        ("2018-11-27T09:36:58+02:00", (GUIDE_TIME, GUIDE_TIME)),
    ],
)
def test_when_it_was_created(value, between):
    assert created_between({"created_at": value}) == between


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "",
        "1 second ago",
        "2018-11-27",
        float("nan"),
        float("inf"),
        10**400,
        [],
        "0001-01-01T00:00:00+14:00x",
    ],
)
def test_an_unreadable_time_is_none(value):
    assert created_between({"created_at": value}) is None
    assert created_between({}) is None
