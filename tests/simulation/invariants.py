"""The invariants: what must hold whenever something is sent, created, reported or ended."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from payarc_provider.sync.ledger import Claimant, LedgerLost, Row
from payarc_provider.sync.records import Record
from payarc_provider.sync.results import Status

from .loop import Process
from .payarc import Request
from .records import person_of

if TYPE_CHECKING:
    from .world import World


class Violation(AssertionError):
    """An invariant was violated."""


class Invariants:
    """Checks each request, each new customer and the end of a history."""

    def __init__(self, world: World) -> None:
        self._world = world

    def check_sending(self, process: Process, me: Claimant, request: Request) -> None:
        """A request is about to be sent: its row must be under a lease, and no earlier one may still be open."""
        world = self._world
        world.losses.check_sending(process, me)
        row = world.ledger.table.get(request.key)
        if world.losses.at is not None:
            pass  # it may not have noticed yet
        elif row is None or row.owner != me.owner or row.lease_until is None or self._seems_over(row.lease_until):
            world.violation(f"{process.name} sends {request.key} without a lease: {row}")
        for earlier in world.payarc.requests:
            if earlier.key != request.key or earlier.harmless:
                continue
            if world.losses.at is not None and earlier.owner != me.owner:
                continue  # the row that would have told this run is lost
            if earlier.may_commit_until > world.scheduler.now and earlier.customer_id is None:
                world.violation(
                    f"{process.name} sends {request.key} again while an earlier request may still be committed"
                )
            if world.absences.get(request.key, -1.0) < earlier.checked_at:
                world.violation(f"{process.name} sends {request.key} again without a look-up")

    def _seems_over(self, lease_until: datetime.datetime) -> bool:
        """Whether a lease has ended by the ledger's clock, if that has never stepped."""
        world = self._world
        return not world.scenario.clock_steps and lease_until.timestamp() < world.scheduler.now + world.ledger_offset

    def check_duplicates(self, request: Request) -> None:
        """A customer has been created: nobody may have two."""
        world = self._world
        made = sum(customer.person == request.person for customer in world.payarc.customers)
        keys = 2 if request.person == "equal" else 1
        if made > keys and world.losses.at is None:
            world.violation(f"{made} customers for {request.person} ({request.key})")

    def _is_closed(self, key: str) -> bool:
        """Whether the row is closed. If a record is rejected by our rules, its pending row is left to a later run."""
        row = self._world.ledger.table.get(key)
        return row is None or row.state != "pending"

    def check_end(self) -> None:
        """The last attempt has succeeded: every customer that our requests created must be in one row."""
        world = self._world
        ids = [row.customer_id for row in world.ledger.table.values() if row.customer_id]
        if len(ids) != len(set(ids)):
            raise Violation(f"two rows have the same customer: {ids}")
        for row in world.ledger.table.values():
            if row.state == "created":
                owner = next((one for one in world.payarc.customers if one.customer_id == row.customer_id), None)
                if owner is None:
                    raise Violation(f"{row.key} has the id {row.customer_id}, which PayArc does not know")
        for request in world.payarc.requests:
            recorded = request.customer_id is None or request.customer_id in ids
            if not recorded and self._is_closed(request.key) and not world.may_be_undecided(Violation("left pending")):
                raise Violation(f"customer {request.customer_id} of {request.key} is in no row")


class CheckedResults:
    """Checks each result when the engine reports it."""

    def __init__(self, world: World, records: list[Record]) -> None:
        self.world = world
        self.open = {id(record) for record in records}

    def accept(self, record: Record, customer_id: str, status: Status, *, changed: bool) -> None:
        self.open.discard(id(record))
        if record.errors:
            self.world.violation(f"{record.key} has the id {customer_id}, but our own rules reject it")
            return
        row = self.world.ledger.table.get(record.key or "")
        if self.world.losses.at is not None:
            pass
        elif row is None or row.state != "created" or row.customer_id != customer_id:
            self.world.violation(f"{record.key} has the id {customer_id}, but its row is {row}")
        customer = next((one for one in self.world.payarc.customers if one.customer_id == customer_id), None)
        person = person_of(record.fields)
        if customer is None or customer.person != person:
            self.world.violation(f"{record.key} of {person} has the id {customer_id} of {customer and customer.person}")

    def reject(self, record: Record, errors: Any, *, new: bool) -> None:
        self.open.discard(id(record))
        name = record.fields.get("name", "")
        allowed = record.errors or name.startswith("Rejected") or self.world.scenario.other_source
        if not allowed:
            self.world.violation(f"{record.key} is rejected without a reason: {errors}")

    def check_complete(self) -> None:
        if self.open:
            self.world.violation(f"success, but {len(self.open)} records have neither an id nor a rejection")


class Losses:
    """What the ledger has lost, and who could notice it.

    ``at``: when it lost rows; None if it did not
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.at: float | None = None
        self._lost_ids: set[str] = set()
        self._ids: dict[Process, set[str]] = {}
        self._called: dict[Process, tuple[float, float]] = {}
        self._refused: set[Process] = set()

    def note(self, now: float, before: Mapping[str, Row], after: Mapping[str, Row]) -> None:
        left = {row.customer_id for row in after.values()}
        self._lost_ids = {row.customer_id for row in before.values() if row.customer_id and row.customer_id not in left}
        if dict(before) != dict(after):
            self.at = now

    def see(self, process: Process, name: str, args: tuple[Any, ...]) -> None:
        """A transaction of a process begins."""
        ledger, now = self.world.ledger, self.world.scheduler.now
        if name == "check_losses" and self.at is not None:
            created = any(row.state == "created" for row in ledger.table.values())
            self._refuse(process, ledger.rows_lost or (ledger.has_customers and not created))
        if name == "check_customers" and self.at is not None:
            self._refuse(process, self._misses(args[1]))
        if name != "note_loss":
            checked = now if name == "check_rows" else self._called.get(process, (0.0, 0.0))[1]
            self._called[process] = now, checked

    def _refuse(self, process: Process, refused: bool) -> None:
        """The process learns whether rows are lost; if the response is lost, it asks again and may learn otherwise."""
        if refused:
            self._refused.add(process)
        else:
            self._refused.discard(process)

    def _misses(self, listed: Mapping[str, Any]) -> bool:
        """Whether one of these customers shows that the ledger has lost the row of its key, or its latest state."""
        table = self.world.ledger.table
        had = {row.customer_id for row in table.values()}  # of equal records, each may have the other's customer
        listed_here = [one for one in self.world.payarc.customers if one.customer_id in listed.keys() - had]
        rows = [table.get(one.key) for one in listed_here if one.shows_own_reference]
        return any(row is None or (row.state != "created" and row.lease_until is None) for row in rows)

    def explain(self, problem: BaseException | None) -> bool:
        """Whether the last attempt may end like this: a key that has got two customers is left to a person."""
        return problem is None or isinstance(problem, LedgerLost) or "left pending" in str(problem)

    def recorded(self, process: Process, resolutions: Any, result: Any) -> None:
        """A process has recorded customers. What it records after the loss is not lost."""
        if result is not None and self.at is None:
            ids = {one.customer_id for one in resolutions if one.key in result.keys and one.customer_id}
            self._ids.setdefault(process, set()).update(ids)

    def check_sending(self, process: Process, me: Claimant) -> None:
        if process in self._refused:
            self.world.violation(f"{process.name} sends although the ledger is known to have lost its rows")

    def check_success(self, process: Process) -> None:
        """A run has succeeded. Its last transactions must have compared the ledger with what it recorded."""
        if self.at is None or not self._ids.get(process, set()) & self._lost_ids:
            return
        called, checked = self._called[process]
        if called > self.at and checked <= self.at:
            self.world.violation(f"{process.name} succeeds although the ledger has lost what it recorded")
