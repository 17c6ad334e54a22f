"""Runs with an approved plan or with guards: their planning passes, and what must hold for what they send."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from payarc_provider.exceptions import PayarcGuardStopped
from payarc_provider.sync.ledger import Claimant
from payarc_provider.sync.plan import Action, Allowance, Plan, check_guards
from payarc_provider.sync.records import Record
from payarc_provider.sync.settings import Settings

from .loop import Process

if TYPE_CHECKING:
    from .world import World

Pass = Callable[[Claimant, Settings, list[Record], Any, Plan | None, Allowance | None], Any]
"""Runs the engine once over records: claimant, settings, records, results, plan, allowance."""


class Ignored:
    """Results that nobody needs: those of a planning pass."""

    def accept(self, *_: Any, **__: Any) -> None: ...
    def reject(self, *_: Any, **__: Any) -> None: ...


def _unique(records: list[Record]) -> list[Record]:
    """The records without the repeats, which a real run does not read twice either."""
    return list({record.key: record for record in records}.values())


def _digests(records: list[Record]) -> dict[str | None, str]:
    return {record.key: record.digest for record in records}


class PlannedRun:
    """One run under a plan or guards, with all its tries and slices.

    :param read_source: what its source has when it is read again after a change
    :param is_alone: whether no other run claims its customers
    """

    def __init__(self, world: World, number: int, read_source: Callable[[], list[Record]], *, is_alone: bool) -> None:
        self._world = world
        self.name = f"run{number}"
        self._read_source = read_source
        self._records = _unique(read_source())
        self._is_alone = is_alone
        self._digest: str | None = None
        self._allowed: dict[str | None, str] = {}  # key → the digest of what was approved, or within the guards
        self._approved: dict[tuple[str | None, str], tuple[set[str], Record]] = {}
        self._sent: dict[Action, set[str | None]] = {Action.CREATE: set(), Action.UPDATE: set()}
        self._limits: dict[str, int | None] = {}
        self._keys: set[frozenset[str | None]] = set()  # those of each reading
        if world.scenario.plan == "guards":
            self._limits["max_new"] = world.rng.choice((0, 1, 2, None))
            if world.scenario.updates:
                self._limits["max_changed"] = world.rng.choice((0, 1, None))

    def read(self, process: Process) -> list[Record]:
        """What the source has when this process reads it. No two readings give the same objects."""
        process.readings.append(_digests(self._records))
        self._keys.add(frozenset(process.readings[-1]))
        self._world.log(process.name, "reads", [(record.key, record.fields.get("name")) for record in self._records])
        return [copy.copy(record) for record in self._records]

    def _change_source(self) -> None:
        if self._world.rng.random() < 0.15:
            self._records = _unique(self._read_source())

    async def begin(
        self, process: Process, me: Claimant, settings: Settings, run_engine: Pass
    ) -> tuple[Claimant, Settings, Allowance]:
        """Plan, as often as that is needed, and have the plan approved once.

        :raises PayarcGuardStopped: the run must not begin
        """
        if self._world.scenario.plan == "approved":
            if self._digest is None:
                await self._approve(process, me, settings, run_engine)
            self._change_source()
            me, settings = replace(me, plan=self._digest), replace(settings, approved_plan=self._digest)
        else:
            me, settings = replace(me, plan=self.name), replace(settings, **self._limits)
        allowance = Allowance(settings)
        plan, records = Plan(me.account, allowance=allowance), self.read(process)
        await run_engine(me, replace(settings, dry_run=True), records, Ignored(), plan, None)
        refusal = check_guards(plan, settings, {"records": len(records), "changed": 0})
        if refusal is not None:
            raise refusal
        allowance.begin(plan, len(records))
        if self._world.scenario.plan == "guards":
            self._allowed = _digests(records)
        self._change_source()
        return me, settings, allowance

    async def _approve(self, process: Process, me: Claimant, settings: Settings, run_engine: Pass) -> None:
        plan, records = Plan(me.account, keep=True), self.read(process)
        await run_engine(me, replace(settings, dry_run=True), records, Ignored(), plan, None)
        if self._digest is not None:
            return  # meanwhile, the plan of another try has been approved
        by_key = {record.key: record for record in records}
        for entry in plan.entries():
            self._approved[entry["key"], entry["action"]] = set(entry["fields"]), by_key[entry["key"]]
        self._digest, self._allowed = plan.digest, _digests(records)
        self._world.log(self.name, "is approved:", self._digest, plan.entries())

    def refused(self, process: Process, why: PayarcGuardStopped) -> None:
        """A try ends because its plan or a guard does not allow it."""
        world = self._world
        if not self._is_alone or world.is_calm or world.losses.at is not None:  # calm: the last attempt is at work, too
            return
        if all(reading == self._allowed for reading in process.readings):
            self._world.violation(f"{self.name} does not carry out its plan, although nothing has changed: {why}")

    def check_sending(self, process: Process, key: str, action: Action, fields: Mapping[str, str]) -> None:
        """A request is about to be sent: it must be a part of the plan, and within the guards."""
        self._sent[action].add(key)
        if self._digest is not None:
            names, record = self._approved.get((key, action), (set(), None))
            if record is None:  # a customer that was found with other values, and then got those that were approved
                names, record = self._approved.get((key, Action.CREATE), (set(), None))
            values = {name: value for name, value in fields.items() if name != "description"}
            if record is None or any(
                name not in names or record.fields.get(name, "") != values[name] for name in values
            ):
                self._world.violation(f"{process.name} sends {dict(fields)} for {key}, which was not approved")
        if not self._is_alone or self._world.is_calm or self._world.losses.at is not None or len(self._keys) > 1:
            return  # others, such as the last attempt, may have created them; a record that has left is not counted
        self._sent[Action.UPDATE] -= self._sent[Action.CREATE]
        for name, of in (("max_new", Action.CREATE), ("max_changed", Action.UPDATE)):
            most = self._limits.get(name)
            if most is not None and len(self._sent[of]) > most:
                self._world.violation(f"{self.name} sends {of} for {sorted(self._sent[of])}, but {name} is {most}")

    def check_success(self, records: list[Record]) -> None:
        """A try has succeeded: what it has not read, an earlier one must have done."""
        if not self._is_alone or self._world.losses.at is not None:
            return  # what another run has done to a row since hides what this one did
        read, table = {(record.key, record.digest) for record in records}, self._world.ledger.table
        for (key, action), (_, record) in self._approved.items():
            row = table.get(key or "")
            is_done = row is not None and (row.plan or "").startswith(self._digest or "-") and row.lease_until is None
            if action != Action.REJECT and (key, record.digest) not in read and not is_done:
                self._world.violation(f"{self.name} succeeds, but did not {action} {key} as it was approved")
