"""A world whose records change between attempts, and the check that PayArc's customers have followed them."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import sqlalchemy as sa

from .attempts import Attempt
from .world import SENT, Record, Verdict, World, content_of

FIELDS = (*SENT, "description")
_DESCRIPTIONS = ("Shop", "Donut shop customer", "A description with no room for a code")


def _values(key: int, generation: int) -> Record:
    """The values that a record has if all its fields change in this generation. They are unique."""
    description = f"{_DESCRIPTIONS[key % 3]} {key}.{generation}"
    return {
        "name": f"Ada {key}.{generation}",
        "email": f"p{key}.{generation}@a.example",
        "phone": f"{10_000 + key}{generation:05}",
        "city": f"City {key}.{generation}",
        "description": None if generation == 1 and key % 3 == 0 else description,
    }


def first_generation(count: int, first: int = 1, generation: int = 1) -> list[Record]:
    """New records. ``v`` is the generation in which a record has changed last."""
    return [{"id": key, "v": generation, **_values(key, generation)} for key in range(first, first + count)]


def person_of(fields: Mapping[str, Any]) -> str:
    """Whose record or customer it is, whatever the generation."""
    return str(fields["phone"])[:5]


class ChangingWorld(World):
    """A `World` with records of `first_generation`, whose values tell from which generation they are.

    Start it with ``on_changed="update"`` among its settings.
    """

    identity = staticmethod(person_of)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generations = [self.records]
        self._read: dict[str, list[Record]] = {}  # attempt → the records when it was started

    def change(self, numbers: Random, share: float = 0.5, new: int = 0) -> list[int]:
        """Change some fields of some records, and add others.

        :param share: of the records to change
        :param new: number of records to add
        :return: the keys of the changed records
        """
        with self._lock:
            generation = len(self.generations) + 1
            keys = numbers.sample([record["id"] for record in self.records], round(share * len(self.records)))
            changes = {}
            for key in keys:
                names = numbers.sample(FIELDS, numbers.randint(1, len(FIELDS)))
                values = _values(key, generation)
                changes[key] = {"v": generation, **{name: values[name] for name in names}}
            added = first_generation(new, first=len(self.records) + 1, generation=generation)
            self.records = [record | changes.get(record["id"], {}) for record in self.records] + added
            self.generations.append(self.records)
            if self._table_source:
                self._write(changes, added)
            else:
                self._spec = replace(self._spec, rows=self.records)
            return keys

    def _write(self, changes: Mapping[int, Record], added: list[Record]) -> None:
        table = sa.Table(f"crm_{self.name}", sa.MetaData(), autoload_with=self._engine)
        with self._engine.begin() as connection:
            for key, values in sorted(changes.items()):
                connection.execute(sa.update(table).where(table.c.id == key).values(**values))
            if added:
                connection.execute(table.insert(), added)

    def start(self, **changes: Any) -> Attempt:
        """Start an attempt, and remember which records it reads at least."""
        records = changes.get("rows") or self.records
        attempt = super().start(**changes)
        self._read[attempt.spec.name] = records
        return attempt

    # ---- judging ------------------------------------------------------------------------------------------------

    def expect_values_of(self, attempt: Attempt) -> None:
        """Fail if PayArc has older values than the records of an attempt that has succeeded."""
        now = {person_of(customer): customer for customer in self.customers()}
        old = [
            f"{record['id']}.{name}"
            for record in self._read[attempt.spec.name]
            for name, made in self._generations_of(record).items()
            if self._generations_of(now[person_of(record)])[name] < made
        ]
        if old:
            self._fail(f"{attempt.spec.name} succeeded, but PayArc has older values: {old[:5]}\n{self.report()}")

    def judge(self, *done: Attempt, ordered: bool = True, **options: Any) -> Verdict:
        """Check also that each customer has its record's newest values, and that the changes came in order.

        :param ordered: whether no run could claim a customer for older data after another one had for newer data: there
            is a version, or no two runs with different data were alive at once
        """
        verdict = super().judge(*done, **options)
        newest = {person_of(record): record for record in options.get("records") or self.records}
        for customer in self.customers():
            has, wanted = _content(customer), _content(newest.get(person_of(customer), {}))
            if wrong := sorted(name for name in FIELDS if has[name] != wanted[name]):
                verdict.old += 1
                verdict.problems.append(f"customer {person_of(customer)} does not have the newest {', '.join(wrong)}")
        overlapping = self._overlapping()
        late = self._older_after_newer() if ordered else []
        verdict.reordered = len(overlapping) + len(late)
        verdict.problems += overlapping + late
        return verdict

    def _wait_for_commits(self) -> None:
        super()._wait_for_commits()
        time.sleep(self.settings["settle"])  # a PATCH that comes later would put an old value back

    def _overlapping(self) -> list[str]:
        """Changes that were sent before an earlier one of the same customer was applied."""
        checks = self.lease_checks()
        sent = defaultdict(list)
        for change in self.history.changes:
            sent[change.customer_id].append((checks[change.request][-1][0], change))
        found = []
        for requests in sent.values():
            requests.sort(key=lambda request: request[0])
            for (_, first), (checked, second) in itertools.pairwise(requests):
                if checked < first.committed:
                    found.append(f"PATCH {second.request} was sent {first.committed - checked:.2f} s before "
                                 f"{first.request}, for the same customer, was applied")  # fmt: skip
        return found

    def _older_after_newer(self) -> list[str]:
        """Changes that have put an older value back."""
        has: dict[str, dict[str, int]] = {}
        found = []
        for change in self.history.commits:
            now = self._generations_of(change.values)
            before = has.get(change.customer_id, now)
            if older := sorted(name for name in FIELDS if now[name] < before[name]):
                found.append(f"{change.method} {change.request} has put back older values of {', '.join(older)}")
            has[change.customer_id] = now
        return found

    def _generations_of(self, fields: Mapping[str, Any]) -> dict[str, int]:
        """Field → the generation of its value; 0 for a value that is not this record's."""
        key = int(person_of(fields)) - 10_000
        content, numbers = _content(fields), range(1, len(self.generations) + 1)
        return {
            name: next((number for number in numbers if content[name] == (_values(key, number)[name] or "")), 0)
            for name in FIELDS
        }


def _content(fields: Mapping[str, Any]) -> dict[str, str]:
    """Field → value, empty if there is none; the description without the reference."""
    return dict(zip(FIELDS, content_of(fields), strict=True))
