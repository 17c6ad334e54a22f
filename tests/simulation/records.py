"""The records that the attempts of a history are given."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from typing import Any

from payarc_provider.sync.records import Record, RecordReader
from payarc_provider.sync.reference import reference

from .ledger import LEDGER_ID
from .scenario import Scenario

ACCOUNT = "test/1"
READER = RecordReader("id", None, LEDGER_ID)
LONG = "A description that leaves the reference no room"
KEYS = ("k0", "k1", "k2", "k3")
CONTROL = "k9"
"""The last attempt creates this record too: without a new customer, PayArc's list proves nothing."""
CODES = {key: reference(LEDGER_ID, ACCOUNT, key) for key in (*KEYS, CONTROL)}


def make_records(
    rng: random.Random, scenario: Scenario, number: int, versions: Mapping[str, int], *, second_source: bool
) -> list[Record]:
    """The input of one attempt. Attempts of one history have mostly the same records.

    :param number: the attempt's number; only later ones have records that our own rules reject
    :param versions: key → the version of its data at the source
    :param second_source: whether the keys stand for other people
    """
    made = []
    for index, key in enumerate(KEYS[: scenario.people]):
        person = f"{'other' if second_source else 'person'}{index}"
        fields = {"name": f"Name {person}", "email": f"{person}@x.co"}
        if scenario.equal_records and index in (1, 2) and not second_source:
            fields = {"name": "Name equal", "email": "equal@x.co"}
        if scenario.mimic and index == 2:
            fields["description"] = f"ref {CODES['k1']}"
        if scenario.long_descriptions and index % 2 == 0:
            fields["description"] = LONG
        if scenario.changed and rng.random() < 0.3:
            fields["city"] = f"City {rng.choice('ab')}"
        version = versions[key] if not scenario.sequel or number < 2 else rng.randint(0, versions[key])
        if scenario.updates == "versions" and number >= 0 and rng.random() < 0.4:
            version = max(0, version - rng.randint(1, 3))  # read earlier, or from a replica that lags behind
        if scenario.updates:
            fields |= data_of(version)
        errors = {}
        wrong = 0.5 if scenario.reinsertion and number > 0 else 0.2
        if scenario.rejections and rng.random() < wrong and number != 0:
            errors = {"phone": ["is wrong today"]}
        if scenario.rejections and rng.random() < _rejected(scenario, number) and not second_source:
            fields["name"] = "Rejected " + rng.choice("ab")
        record = Record(
            index, key, {} if errors else fields, digest_of(*(fields | errors_mark(errors)).items()), errors
        )
        record.columns = ("name", "email", "city", "state")
        if scenario.updates == "versions" and not errors:
            record.version = f"n:{version}"
        made.append(record)
    if len(made) > 1 and rng.random() < 0.3:
        cut = rng.randint(1, max(1, len(made) - 1))
        made = made[:cut] if rng.random() < 0.6 else made[cut:]
    if rng.random() < 0.1:
        made.append(made[0])  # the same record again, in a later batch
    return made


def _rejected(scenario: Scenario, number: int) -> float:
    """The probability that PayArc rejects a record of this attempt."""
    if scenario.sequel and number >= 0:
        return float(number == 1)
    return 0.3 if scenario.duel else 0.15


def data_of(version: int) -> dict[str, str]:
    """The fields that change with the version. Adjacent versions may have the same data, and old data comes back."""
    return {"city": f"City {version // 2 % 2}", "state": f"State {version % 4 // 3}"}


def version_number(version: str | None) -> int:
    """The number of a version, as records and rows have it; -1 for none."""
    return -1 if version is None else int(version.removeprefix("n:"))


def control_record(index: int) -> Record:
    """The record that the last attempt creates too."""
    fields = {"name": "Name control", "email": "control@x.co"}
    return Record(index, CONTROL, fields, digest_of(*fields.items()), {})


def person_of(record_fields: Mapping[str, str]) -> str:
    """Whom a record or a customer stands for; equal records stand for one person."""
    return record_fields["email"].split("@")[0]


@functools.lru_cache(1000)
def digest_of(*fields: tuple[str, str]) -> str:
    """The digest of these fields. It is cached because the same few records are created again and again."""
    return READER.digest(dict(fields))


def errors_mark(errors: Mapping[str, Any]) -> dict[str, str]:
    """A field that gives rejected records another digest than accepted ones, as the real reader does."""
    return {"rejected": "yes"} if errors else {}
