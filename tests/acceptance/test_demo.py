"""What ``make demo`` says of its people is true."""

from __future__ import annotations

import runpy
from pathlib import Path

from payarc_provider.api.fields import clean
from payarc_provider.sandbox.fields import known_fields, validation_errors
from payarc_provider.sandbox.settings import SandboxSettings

DEMO = runpy.run_path(str(Path(__file__).resolve().parents[2] / "demo" / "people.py"))
FIELDS = {"name": "full_name", "email": "email", "description": "company", "phone": "phone", "country": "country"}


def test_the_same_200_people_every_time():
    people = DEMO["people"]()

    assert people == DEMO["people"]()
    assert len({person["email"] for person in people}) == 200
    assert {"'", "-", "é"} <= set("".join(person["full_name"] for person in people))


def test_payarc_refuses_three_and_our_own_rules_none():
    refused = set()
    for person in DEMO["people"]():
        fields, errors = clean({field: person[column] for field, column in FIELDS.items()})
        assert errors == {}
        if validation_errors(known_fields(fields), SandboxSettings(), creating=True):
            refused.add(person["id"])

    assert refused == set(DEMO["MISTAKES"])
    assert len(refused) == 3
