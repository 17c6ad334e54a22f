"""Plans and guards: what a run would do, decided before its first request.

A planning pass reads the source as a dry run does. It yields a `Plan`: how many customers would be created and changed,
and a digest over keys, actions and values that a person can approve. The run that follows reads the source again, and
an `Allowance` holds it to the plan: with ``approved_plan`` it sends what was planned or stops, with a guard it stops
before it exceeds the guard.

A retry must not take its own work for a change of the plan. Therefore each row that a run with a plan or a guard claims
notes in the column ``plan`` what it was claimed for, and a later pass counts that as still to be done.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from payarc_provider.api.fields import FIELDS
from payarc_provider.exceptions import PayarcGuardStopped
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.records import Record
from payarc_provider.sync.seen_keys import short_hash
from payarc_provider.sync.settings import Settings, TaskIdentity

_BITS = {name: 1 << number for number, name in enumerate(FIELDS)}
_CACHE = "PRAGMA cache_size = -32768"  # kibibytes; the rest goes to a temporary file


class Action(StrEnum):
    """What a run would do for a record. A record without an action is not part of the plan."""

    CREATE = "create"
    """Create a customer, unless PayArc has one already: from an earlier request, or found by ``match_existing``."""
    UPDATE = "update"
    """Change fields of its customer."""
    REJECT = "reject"
    """Reject it; nothing is sent."""


class Step(NamedTuple):
    """An action for a record.

    :param fields: PayArc fields that would be sent, or that have errors
    """

    record: Record
    action: Action
    fields: Collection[str]


def plan_id(settings: Settings, task: TaskIdentity) -> str | None:
    """What the rows of a run are marked with: the approved plan, or its task instance if it only has guards."""
    if settings.approved_plan is not None or not settings.is_guarded:
        return settings.approved_plan
    if task.run_id is None:
        return uuid.uuid4().hex
    identity = json.dumps([task.dag_id, task.run_id, task.task_id, task.map_index], default=str)
    return _short_digest(identity)


def _short_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def begun_text(action: Action, fields: Iterable[str] = ()) -> str:
    """An action as `Record.begun` and the ledger's column ``plan`` have it: ``create``, or ``update email,phone``."""
    return f"{action} {','.join(sorted(fields))}" if action == Action.UPDATE else str(action)


def _begun(record: Record) -> tuple[Action, frozenset[str]]:
    action, _, names = record.begun.partition(" ")
    return Action(action), frozenset(names.split(",")) if names else frozenset(record.fields)


class Plan:
    """Collects what a run would do. The digest depends neither on the order of the records nor on the ledger.

    ``counts``: records by action, with those that an earlier try has begun. ``begun``: of these, those.

    :param account: of the ledger; a plan for one merchant is not a plan for another
    :param keep: whether to keep what `entries` returns
    :param allowance: receives every action that needs a request
    """

    def __init__(self, account: str, *, keep: bool = False, allowance: Allowance | None = None) -> None:
        self.counts: Counter[Action] = Counter()
        self.begun: Counter[Action] = Counter()
        self._account = account
        self._sum = 0
        self._entries: list[tuple[int, str | None, Action, list[str]]] | None = [] if keep else None
        self._allowance = allowance

    def add_begun(self, record: Record) -> None:
        """Count what an earlier try has begun for the record, as `Record.begun` says."""
        step = Step(record, *_begun(record))
        self.begun[step.action] += 1
        self._count(step)

    def add(self, record: Record, action: Action, fields: Collection[str]) -> None:
        """Add what the run would do for a record."""
        if not _is_covered(step := Step(record, action, fields)):
            self._count(step)
        if self._entries is not None:
            self._entries.append((record.index, record.key, action, sorted(fields)))
        if self._allowance is not None and action != Action.REJECT:
            self._allowance.allow(step)

    def _count(self, step: Step) -> None:
        self.counts[step.action] += 1
        # A sum does not depend on the order, and needs no list of all entries.
        self._sum += int.from_bytes(hashlib.blake2b(_as_json(step), digest_size=32).digest())

    @property
    def digest(self) -> str:
        """``plan-`` and 32 hexadecimal digits, the same for the same actions, keys and values."""
        total = json.dumps([self._account, sum(self.counts.values()), self._sum % 2**256])
        return f"plan-{_short_digest(total)}"  # never a number, for which a rendered template could be taken

    def entries(self) -> list[dict[str, Any]]:
        """The XCom ``plan``, in input order."""
        ordered = sorted(self._entries or [], key=lambda entry: entry[0])
        return [{"key": key, "action": str(action), "fields": names} for _, key, action, names in ordered]


def _is_covered(step: Step) -> bool:
    """Whether the step belongs to what an earlier try has begun for the record, which `Plan.add_begun` has counted.

    A customer that ``match_existing`` has found is adopted and then changed, and that counts as created.
    """
    if not step.record.begun:
        return False
    if step.action == Action.REJECT:
        return not step.record.errors
    action, fields = _begun(step.record)
    return action == Action.CREATE or (step.action == action and fields.issuperset(step.fields))


def _as_json(step: Step) -> bytes:
    record = step.record
    return json.dumps([record.key, step.action, sorted(step.fields), sorted(record.fields.items())]).encode()


# ---- guards ---------------------------------------------------------------------------------------------------------


def check_guards(plan: Plan, settings: Settings, summary: Mapping[str, Any]) -> PayarcGuardStopped | None:
    """Why the run must not begin, or None if it may.

    :param summary: of the planning pass
    """
    records, counts = summary["records"], plan.counts
    if settings.min_records is not None and records < settings.min_records:
        return PayarcGuardStopped(
            f"min_records={settings.min_records}: the source has {_records(records)}, so nothing was sent. "
            "Check the source and what feeds it; if that is right, lower min_records"
        )
    changed = counts[Action.UPDATE] if settings.on_changed == "update" else summary["changed"]
    for name, action, count in (
        ("max_new", Action.CREATE, counts[Action.CREATE]),
        ("max_changed", Action.UPDATE, changed),
    ):
        if (most := getattr(settings, name)) is not None and count > allowed_count(most, records):
            earlier = f", {plan.begun[action]} of them in an earlier try" if plan.begun[action] else ""
            return _too_many(name, most, count, f" for {_records(records)}{earlier}", "so nothing was sent")
    if settings.approved_plan is not None and plan.digest != settings.approved_plan:
        done = ", ".join(f"{counts[action]} to {action}" for action in Action)
        return PayarcGuardStopped(
            f"approved_plan: the plan is now {plan.digest} ({done}), so nothing was sent. The source, the ledger or an "
            "argument has changed: make a new plan with dry_run=True and have it approved"
        )
    return None


def allowed_count(most: int | float, records: int) -> float:
    """How many records a limit allows.

    :param most: a number (int), or a share of the records (float)
    """
    return most * records if isinstance(most, float) else most


def _too_many(name: str, most: int | float, count: int, of: str, end: str) -> PayarcGuardStopped:
    what = "create" if name == "max_new" else "change"
    customers = "1 customer" if count == 1 else f"{count} customers"
    return PayarcGuardStopped(
        f"{name}={most:g}: this run would {what} {customers}{of}, {end}. "
        f"Check that key and source are the right ones; if they are, raise {name}"
    )


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"


class Allowance:
    """What a run may send after its planning pass, because the source may change before it is read again.

    With an approved plan, that is exactly what was planned. With guards only, records may change and appear, as long as
    the guards hold. The actions are in a private temporary file that vanishes with the process, so memory stays
    constant.
    """

    def __init__(self, settings: Settings) -> None:
        self._is_strict = settings.approved_plan is not None
        self._limits = {Action.CREATE: ("max_new", settings.max_new), Action.UPDATE: ("max_changed", None)}
        if settings.on_changed == "update":
            self._limits[Action.UPDATE] = ("max_changed", settings.max_changed)
        self._counts: Counter[Action] = Counter()
        self._records = 0
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute(_CACHE)
        self._database.execute(
            "CREATE TABLE allowed (key INTEGER, action TEXT, digest INTEGER, fields INTEGER, met INTEGER DEFAULT 0, "
            "PRIMARY KEY (key, action)) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def begin(self, plan: Plan, records: int) -> None:
        """End the planning pass.

        :param records: how many records the source has
        """
        self._counts = Counter(plan.counts)
        self._records = records

    def allow(self, step: Step) -> bool:
        """Allow a step of the planning pass; returns whether it is a new one."""
        done = self._database.execute(
            "INSERT OR IGNORE INTO allowed (key, action, digest, fields) VALUES (?, ?, ?, ?)", _row(step)
        )
        return done.rowcount > 0

    def admit(self, steps: Iterable[Step]) -> None:
        """Check that these steps may be taken, before their rows are claimed.

        :raises PayarcGuardStopped: one of them must not
        """
        for step in steps:
            if self._is_strict:
                if not self._was_planned(step):
                    raise _not_planned(display_key(step.record.key))
            elif self.allow(step) and not _is_covered(step):
                self._count(step.action)

    def _was_planned(self, step: Step) -> bool:
        key, action, digest, fields = _row(step)
        query = "SELECT fields FROM allowed WHERE key = ? AND action = ? AND digest = ?"
        found = self._database.execute(query, (key, action, digest)).fetchone()
        return found is not None and not fields & ~found[0]

    def _count(self, action: Action) -> None:
        self._counts[action] += 1
        name, most = self._limits[action]
        if most is not None and self._counts[action] > allowed_count(most, self._records):
            end = "and the last of them have appeared since the run began"
            raise _too_many(name, most, self._counts[action], "", end)

    def meet(self, records: Iterable[Record]) -> None:
        """Note that the source still has these records."""
        if self._is_strict:
            these = [(short_hash(record.key or ""), short_hash(record.digest)) for record in records]
            self._database.executemany("UPDATE allowed SET met = 1 WHERE key = ? AND digest = ?", these)

    def check_complete(self) -> None:
        """Check that the source had every record of an approved plan when it was read again.

        :raises PayarcGuardStopped: it had not, so that less than the plan was carried out
        """
        if not self._is_strict:
            return
        missing = int(self._database.execute("SELECT count(*) FROM allowed WHERE met = 0").fetchone()[0])
        if missing:
            verb = "has" if missing == 1 else "have"
            raise PayarcGuardStopped(
                f"approved_plan: {_records(missing)} {verb} changed or vanished at the source since the run began; the "
                "rest of the plan was carried out. Make a new plan with dry_run=True and have it approved"
            )


def _row(step: Step) -> tuple[int, str, int, int]:
    """The step's key, action, digest of the record, and fields as bits; a change after an adoption is a creation."""
    record, action, fields = step
    if action == Action.UPDATE and record.begun == Action.CREATE:
        action, fields = Action.CREATE, ()
    bits = sum(_BITS[name] for name in fields) if action == Action.UPDATE else 0
    return short_hash(record.key or ""), str(action), short_hash(record.digest), bits


def _not_planned(key: str) -> PayarcGuardStopped:
    return PayarcGuardStopped(
        f"approved_plan: record {key} has changed since the run began, and is not sent. "
        "Make a new plan with dry_run=True and have it approved"
    )
