"""The invariants: what must hold whenever something is sent, created, reported or ended."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from payarc_provider.sync.ledger import Claimant, LedgerLost, Row
from payarc_provider.sync.records import Record
from payarc_provider.sync.results import Status

from .loop import Process
from .payarc import Customer, Request, UpdateRequest
from .records import CONTROL, KEYS, person_of, version_number

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
        if request.key in world.ledger.erased:
            world.violation(f"{process.name} sends {request.key}, which is erased")
        row = world.ledger.table.get(request.key)
        if world.losses.at is not None:
            pass  # it may not have noticed yet
        elif row is None or row.owner != me.owner or row.lease_until is None or self.seems_over(row.lease_until):
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

    def seems_over(self, lease_until: datetime.datetime) -> bool:
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
            if row.customer_id:
                owner = next((one for one in world.payarc.customers if one.customer_id == row.customer_id), None)
                if owner is None:
                    raise Violation(f"{row.key} has the id {row.customer_id}, which PayArc does not know")
        for customer in world.payarc.customers:
            if customer.key in world.ledger.erased:
                raise Violation(f"PayArc has {customer.customer_id} of {customer.key}, which is erased")
        for request in world.payarc.requests:
            if request.key in world.ledger.erased:
                continue
            recorded = request.customer_id is None or request.customer_id in ids
            if not recorded and self._is_closed(request.key) and not world.may_be_undecided(Violation("left pending")):
                raise Violation(f"customer {request.customer_id} of {request.key} is in no row")


class Updates:
    """What must hold for changes of customers.

    ``versions``: key → the version of its data at the source. ``source``: the source's data by its digest.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.versions: dict[str, int] = dict.fromkeys((*KEYS, CONTROL), 0)
        self.source: dict[str, dict[str, str]] = {}
        self.dead: set[str] = set()  # processes that had died before the last attempt began
        self._claims: dict[str, int] = {}  # claim id → its number in the order of all claims
        self._recorded: dict[str, int] = {}  # key → the number of the latest claim whose change was recorded
        self._version: dict[str, int] = {}  # key → the newest version that was recorded or noted

    def change_source(self) -> None:
        """The data of a record changes at the source."""
        key = self._world.rng.choice(KEYS[: self._world.scenario.people])
        self.versions[key] += self._world.rng.choice((1, 1, 2, 3))

    def note_records(self, records: list[Record]) -> None:
        """An attempt has read these records."""
        self.source.update({record.digest: record.fields for record in records if not record.errors})

    def note_claims(self, claims: Any, rows: Mapping[str, Row]) -> None:
        """Customers were claimed."""
        for claim in claims:
            row = rows.get(claim.before.key)
            if row is not None and row.claim == claim.claim:
                self._claims.setdefault(f"{claim.before.key} {claim.claim}", len(self._claims) + 1)

    def claim_of(self, key: str) -> int:
        """The number of the claim that the row is under now; 0 if it is under none."""
        row = self._world.ledger.table.get(key)
        return self._claims.get(f"{key} {row.claim}", 0) if row is not None else 0

    def note_recorded(self, results: Any, keys: set[str]) -> None:
        """The results of changes were recorded."""
        for result in results:
            if result.key in keys and result.errors is None:
                number = self._claims.get(f"{result.key} {result.claim}", 0)
                self._recorded[result.key] = max(number, self._recorded.get(result.key, 0))
                self._note_version(result.key, result.version)

    def note_unchanged(self, notes: Any, keys: set[str]) -> None:
        """It was noted that these customers need no change."""
        customers = {customer.customer_id: customer for customer in self._world.payarc.customers}
        for note in notes:
            if note.before.key in keys:
                self._note_version(note.before.key, note.version)
                self._check_unchanged(note, customers[note.before.customer_id])

    def _check_unchanged(self, note: Any, customer: Customer) -> None:
        fields = self.source[note.digest]
        if self._world.losses.at is None and any(customer.sent.get(name) != fields[name] for name in fields):
            self._world.violation(f"{note.before.key} needs no change to {fields}, but PayArc has {customer.sent}")

    def _note_version(self, key: str, version: str | None) -> None:
        self._version[key] = max(version_number(version), self._version.get(key, -1))

    def check_sending(self, process: Process, me: Claimant, request: UpdateRequest) -> None:
        """A change is about to be sent: under a lease, and while no earlier change may still be applied."""
        world = self._world
        if world.losses.at is not None:
            return
        if request.key in world.ledger.erased and world.scenario.clock_steps:
            return  # it was erased because the lease seemed over; its customer is deleted, before this change or after
        row = world.ledger.table.get(request.key)
        if row is None or row.state != "updating" or row.owner != me.owner or row.lease_until is None:
            world.violation(f"{process.name} changes {request.key} without a lease: {row}")
        elif world.invariants.seems_over(row.lease_until):
            world.violation(f"{process.name} changes {request.key} after its lease: {row}")
        for earlier in world.payarc.updates:
            is_open = not (earlier.applied or earlier.harmless) and earlier.may_apply_until > world.scheduler.now
            if earlier.key == request.key and is_open:
                world.violation(f"{process.name} changes {request.key} while an earlier change may still be applied")

    def check_applying(self, request: UpdateRequest, customer: Customer) -> None:
        """A change is about to be applied: it must not be older than what PayArc has or what was recorded."""
        world = self._world
        if world.losses.at is not None or request.key in world.ledger.erased:
            return
        if request.claim < self._recorded.get(request.key, 0):
            world.violation(f"an older change of {request.key} replaces a newer one that was recorded")
        if request.version < max(customer.version, self._version.get(request.key, -1)):
            world.violation(f"{request.key} gets older data than what was recorded")

    def check_accepted(self, record: Record, customer: Customer) -> None:
        """A run reports that PayArc has a record's values or newer ones."""
        world = self._world
        if world.scenario.updates != "versions" or world.losses.at is not None:
            return
        is_equal = all(customer.sent.get(name) == value for name, value in record.fields.items())
        has = max(customer.version, self._version.get(record.key or "", -1))
        if has < version_number(record.version) and not is_equal:
            world.violation(f"{record.key} succeeds with {record.fields}, but PayArc has {customer.sent}")

    def check_end(self, records: list[Record]) -> None:
        """The last attempt has succeeded: PayArc has what the rows say, and the newest data of its records."""
        world = self._world
        customers = {customer.customer_id: customer for customer in world.payarc.customers}
        for row in world.ledger.table.values():
            fields = self.source.get(row.digest)
            if row.state != "created" or row.error is not None or fields is None:
                continue
            has = customers[row.customer_id or ""].sent
            if any(has.get(name) != fields[name] for name in ("city", "state") if name in fields):
                raise Violation(f"PayArc has {has} for {row.key}, but its row says {fields}")
        for record in records:
            found = world.ledger.table.get(record.key or "")
            is_rejected = record.errors or record.fields["name"].startswith("Rejected")
            if is_rejected or found is None or not found.customer_id or found.error is not None:
                continue
            if found.state == "updating" and found.owner in (*self.dead, None) and found.run_id != "last":
                raise Violation(f"{record.key} succeeds, but a run that died before may have changed it: {found}")
            if world.scenario.updates == "versions" and found.digest != record.digest:
                raise Violation(f"{record.key} does not have the newest data: {found}")


class CheckedResults:
    """Checks each result when the engine reports it."""

    def __init__(self, world: World, records: list[Record]) -> None:
        self.world = world
        self.open = {id(record) for record in records}

    def accept(self, record: Record, customer_id: str, status: Status, *, changed: bool, stale: bool = False) -> None:
        self.open.discard(id(record))
        if record.errors:
            self.world.violation(f"{record.key} has the id {customer_id}, but our own rules reject it")
            return
        if record.key in self.world.ledger.erased:
            return  # since the run has read its row
        row = self.world.ledger.table.get(record.key or "")
        if self.world.losses.at is not None:
            pass
        elif row is None or row.customer_id != customer_id:
            self.world.violation(f"{record.key} has the id {customer_id}, but its row is {row}")
        customer = next((one for one in self.world.payarc.customers if one.customer_id == customer_id), None)
        person = person_of(record.fields)
        if customer is None or customer.person != person:
            self.world.violation(f"{record.key} of {person} has the id {customer_id} of {customer and customer.person}")
        elif stale or not changed:
            self.world.updates.check_accepted(record, customer)

    def reject(self, record: Record, errors: Any, *, new: bool) -> None:
        self.open.discard(id(record))
        name = record.fields.get("name", "")
        allowed = record.errors or name.startswith("Rejected") or self.world.scenario.other_source
        allowed = allowed or record.key in self.world.ledger.erased
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
            created = any(row.customer_id for row in ledger.table.values())
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
        if self.world.scenario.mimic and any(row.lease_until and not row.reference for row in table.values()):
            listed_here = [one for one in listed_here if one.person != "equal"]  # it may be the one of the open row
        rows = [table.get(one.key) for one in listed_here if one.shows_own_reference]
        return any(row is None or (not row.customer_id and row.lease_until is None) for row in rows)

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
