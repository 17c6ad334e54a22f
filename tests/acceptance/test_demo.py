"""The people of ``make demo`` and the picture of its output."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pages
import pytest

from payarc_provider.api.fields import clean
from payarc_provider.sandbox.fields import known_fields, validation_errors
from payarc_provider.sandbox.settings import SandboxSettings

FIELDS = {"name": "full_name", "email": "email", "description": "company", "phone": "phone", "country": "country"}


@pytest.fixture
def demo(monkeypatch):
    """The modules of the demo."""
    monkeypatch.syspath_prepend(str(pages.CHECKOUT / "demo"))
    import people
    import picture
    import run

    yield SimpleNamespace(people=people, picture=picture, run=run)
    for name in ("people", "picture", "run"):
        del sys.modules[name]


def rejections(person):
    """What our own rules and what PayArc's rules find wrong with a person."""
    fields, errors = clean({field: person[column] for field, column in FIELDS.items()})
    return errors, validation_errors(known_fields(fields), SandboxSettings(), creating=True)


def test_the_people_are_the_same_every_time(demo):
    people = demo.people.people()

    assert people == demo.people.people()
    assert len({person["email"] for person in people}) == 200
    assert {"'", "-", "é"} <= set("".join(person["full_name"] for person in people))


def test_only_payarc_finds_the_three_mistakes(demo):
    found = {person["id"]: rejections(person) for person in demo.people.people()}

    assert [number for number, (own, _) in found.items() if own] == []
    assert {number for number, (_, payarc) in found.items() if payarc} == set(demo.people.MISTAKES)
    assert len(demo.people.MISTAKES) == 3


def test_the_picture_shows_what_the_demo_prints(demo):
    rejected = [
        {"key": str(person["id"]), "errors": errors}
        for person in demo.people.people()
        if (errors := rejections(person)[1])
    ]
    counts = {"records": 200, "rejected": 3}
    first = demo.run.Run("success", {**counts, "created": 197, "known": 0}, rejected, posts=200, created=197, seconds=8)
    second = demo.run.Run("success", {**counts, "created": 0, "known": 197}, rejected, posts=0, created=0, seconds=4)
    printed = [
        *demo.run.introduction(200, "http://127.0.0.1:40000"),
        *demo.run.run_report(demo.run.FIRST, first),
        *demo.run.run_report(demo.run.SECOND, second),
        *demo.run.closing(first, second),
    ]

    changing = re.compile(r"127\.0\.0\.1:\d+|after \d+ s")
    expected, shown = (
        [
            changing.sub("…", "".join(text.itertext()))
            for text in ElementTree.fromstring(svg).iter()
            if "text" in text.tag
        ]
        for svg in (demo.picture.draw("\n".join(printed)), demo.picture.PICTURE.read_text())
    )
    assert shown == expected
    assert len(shown) > 10
