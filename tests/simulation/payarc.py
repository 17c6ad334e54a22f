"""PayArc's model: what becomes of a request, when it takes effect, and what the list shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from payarc_provider.api.client import CustomerPage
from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConnectionFailed,
    PayarcNotFound,
    PayarcRateLimited,
    PayarcRefused,
    PayarcUnknownOutcome,
)
from payarc_provider.sync.ledger import Claimant
from payarc_provider.sync.plan import Action
from payarc_provider.sync.settings import Settings

from .loop import Process
from .records import CODES, person_of, version_number

if TYPE_CHECKING:
    from .world import World

PAGE = 3
PAYARC_EPOCH = 1_000_000.0
KEY_OF = {code: key for key, code in CODES.items()}

DAMAGE: dict[str, Callable[[str], str]] = {
    "": lambda text: text,
    "cut": lambda text: text[:12],
    "dropped": lambda text: "",
    "appended": lambda text: f"{text} (web)",
}
"""What PayArc does to descriptions, by the scenario's ``damage``."""


_NOT_PROCESSED: dict[str, Callable[[], Exception]] = {
    "unauthorized": lambda: PayarcAuthError(status=401),
    "limited": lambda: PayarcRateLimited(retry_after=0.5),
    "unreachable": PayarcConnectionFailed,
}


@dataclass(slots=True)
class Request:
    """A POST that was sent."""

    key: str
    owner: str
    person: str
    checked_at: float
    may_commit_until: float
    version: int
    customer_id: str | None = None
    harmless: bool = False  # PayArc certainly created nothing


@dataclass(slots=True)
class UpdateRequest:
    """A PATCH that was sent.

    :param claim: the number of its claim in the order of all claims
    :param version: of its data; -1 for none
    """

    key: str
    claim: int
    fields: dict[str, str]
    may_apply_until: float
    version: int
    applied: bool = False
    harmless: bool = False


@dataclass(slots=True)
class Customer:
    customer_id: str
    created_at: int
    person: str
    key: str
    fields: dict[str, str]
    """As PayArc stores and shows them."""
    sent: dict[str, str] = field(default_factory=dict)
    noise: bool = False
    version: int = -1

    @property
    def shows_own_reference(self) -> bool:
        return self.key in CODES and CODES[self.key] in self.fields.get("description", "")


class Payarc:
    """PayArc in one history. Faults of the network between it and the runs are decided here too."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.customers: list[Customer] = []
        self.requests: list[Request] = []
        self.updates: list[UpdateRequest] = []
        self.deleted: list[Customer] = []  # with their keys
        self._ids = 0

    @property
    def now(self) -> float:
        """PayArc's clock."""
        return PAYARC_EPOCH + self._world.scheduler.now

    def receive(
        self, process: Process, me: Claimant, fields: Mapping[str, str], idempotency_key: str, settings: Settings
    ) -> tuple[float, Any]:
        """Receive a request and decide what it commits and when.

        :return: seconds until the response, and the response
        """
        rng, rates = self._world.rng, self._world.rates
        key = KEY_OF[idempotency_key.split("-", maxsplit=1)[0]]
        if "email" not in fields:  # records that our own rules reject have no fields, and all others have an email
            self._world.violation(f"{process.name} sends {key}, which our own rules reject")
            return 0.0, PayarcUnknownOutcome()
        now = self._world.scheduler.now
        row = self._world.ledger.table.get(key)
        version = version_number(row.version if row is not None else None)
        request = Request(key, me.owner, person_of(fields), now, now + settings.settle, version)
        self._world.invariants.check_sending(process, me, request)
        if process.planned is not None:
            process.planned.check_sending(process, key, Action.CREATE, fields)
        self.requests.append(request)
        self._world.log(process.name, "sends", key, idempotency_key)
        if self._world.scenario.relay and any(one.suspended and not one.dead for one in self._world.processes):
            self._world.scheduler.after(rng.uniform(0, 0.6), lambda: self._world.kill(process))
        if rng.random() < 0.04:  # the worst moment: with a request in flight
            self._world.suspend(process)
            self._world.scheduler.after(rng.uniform(5, 40), process.resume)
        elif (
            request.person == "equal" and rng.random() < 0.25
        ):  # long enough for a look-up by another run, too short for a takeover
            self._world.suspend(process)
            self._world.scheduler.after(rng.uniform(3, 9), process.resume)
        dice = rng.random()
        for name in ("unauthorized", "limited", "unreachable", "lost", "never", "late"):
            chance = getattr(rates, name)
            if dice < chance:
                return self._fail(name, request, fields, settings)
            dice -= chance
        quick = self._response_time(settings)
        if fields["name"].startswith("Rejected"):
            request.harmless = True
            return quick, PayarcRefused("rejected", status=422, errors={"name": ["is rejected"]})
        customer = self._commit_at(quick * rng.random(), request, fields)
        if quick >= settings.timeout:
            self._world.fault(key, "is answered too late")
            return settings.timeout, PayarcUnknownOutcome()
        return quick, customer

    def receive_update(
        self, process: Process, me: Claimant, customer_id: str, fields: Mapping[str, str], settings: Settings
    ) -> tuple[float, Any]:
        """Receive a change of a customer, likewise."""
        world, rng = self._world, self._world.rng
        customer = next(one for one in (*self.customers, *self.deleted) if one.customer_id == customer_id)
        key, now = customer.key, world.scheduler.now
        row = world.ledger.table.get(key)
        version = version_number(row.wanted_version if row is not None else None)
        request = UpdateRequest(key, world.updates.claim_of(key), dict(fields), now + settings.settle, version)
        world.updates.check_sending(process, me, request)
        if process.planned is not None:
            process.planned.check_sending(process, key, Action.UPDATE, fields)
        self.updates.append(request)
        world.log(process.name, "changes", customer_id, "of", key, dict(fields))
        fate = 1.0 if world.is_calm else rng.random()
        if fate < 0.06:
            world.suspend(process)
            world.scheduler.after(rng.uniform(5, 40), process.resume)
        elif fate < (0.3 if world.scenario.sequel else 0.12):
            world.kill(process)
        dice = rng.random()
        for name in ("unauthorized", "limited", "unreachable", "lost", "never", "late"):
            chance = getattr(world.rates, name)
            if dice < chance:
                return self._fail_update(name, request, customer, settings)
            dice -= chance
        quick = self._response_time(settings)
        if customer in self.deleted:
            request.harmless = True
            return quick, PayarcNotFound()
        if fields.get("name", "").startswith("Rejected"):
            request.harmless = True
            return quick, PayarcRefused("rejected", status=422, errors={"name": ["is rejected"]})
        self._apply_at(quick * rng.random(), request, customer)
        if quick >= settings.timeout:
            world.fault(key, "is answered too late")
            return settings.timeout, PayarcUnknownOutcome()
        return quick, lambda: {"customer_id": customer_id, **customer.fields}

    def _response_time(self, settings: Settings) -> float:
        """Seconds that a request takes; sometimes too many, but not while the last attempt runs."""
        rng = self._world.rng
        if rng.random() < 0.9:
            return rng.uniform(0.01, 0.3)
        return rng.uniform(0.3, settings.timeout * (0.9 if self._world.is_calm else 1.2))

    def _fail_update(
        self, name: str, request: UpdateRequest, customer: Customer, settings: Settings
    ) -> tuple[float, Any]:
        rng = self._world.rng
        self._world.fault("change of", request.key, "meets", name)
        soon = rng.uniform(0.01, settings.timeout)
        if name in ("unauthorized", "limited", "unreachable"):
            request.harmless = True
            return soon / 4, _NOT_PROCESSED[name]()
        if request.fields.get("name", "").startswith("Rejected"):
            request.harmless = True
        elif name == "lost":
            self._apply_at(rng.uniform(0, soon), request, customer)
        elif name == "late":
            self._apply_at(rng.uniform(0, settings.settle * 0.999), request, customer)
        return soon, PayarcUnknownOutcome(status=rng.choice((None, 500, 502)))

    def _apply_at(self, delay: float, request: UpdateRequest, customer: Customer) -> None:
        def apply() -> None:
            self._world.log("PayArc changes", customer.customer_id, "of", request.key, request.fields)
            self._world.updates.check_applying(request, customer)
            customer.fields.update(self._stored(request.fields, customer.person))
            customer.sent.update(request.fields)
            customer.version = request.version
            request.applied = True

        self._world.scheduler.after(delay, apply)

    def _fail(self, name: str, request: Request, fields: Mapping[str, str], settings: Settings) -> tuple[float, Any]:
        rng = self._world.rng
        self._world.fault(request.key, "meets", name)
        soon = rng.uniform(0.01, settings.timeout)
        if name in ("unauthorized", "limited", "unreachable"):
            request.harmless = True
            return soon / 4, _NOT_PROCESSED[name]()
        if name == "lost":
            self._commit_at(rng.uniform(0, soon), request, fields)
        elif name == "late":
            self._commit_at(rng.uniform(0, settings.settle * 0.999), request, fields)
        return soon, PayarcUnknownOutcome(status=rng.choice((None, 500, 502)))

    def _commit_at(self, delay: float, request: Request, fields: Mapping[str, str]) -> Callable[[], dict[str, str]]:
        if fields["name"].startswith("Rejected"):
            return dict
        made: list[Customer] = []
        self._world.scheduler.after(delay, lambda: made.append(self._commit(request, fields)))
        return lambda: {"customer_id": made[0].customer_id, **made[0].fields}

    def _commit(self, request: Request, fields: Mapping[str, str]) -> Customer:
        stored = self._stored(fields, request.person)
        customer = Customer(self._new_id(), self._second(), request.person, request.key, stored, dict(fields))
        customer.version = request.version
        self.customers.append(customer)
        request.customer_id = customer.customer_id
        self._world.log("PayArc creates", customer.customer_id, "for", request.key, stored)
        self._world.invariants.check_duplicates(request)
        return customer

    def _stored(self, fields: Mapping[str, str], person: str) -> dict[str, str]:
        """What PayArc makes of these fields."""
        scenario = self._world.scenario
        altering = scenario.altering and (not scenario.altering_some or person[-1] in "13")
        stored = {
            name: value.upper() if altering and name in ("name", "city") else value for name, value in fields.items()
        }
        if "description" in stored:
            stored["description"] = DAMAGE[scenario.damage](stored["description"])
        return stored

    def _second(self) -> int:
        return int(self.now) if not self._world.scenario.ties else int(self.now) // 3 * 3

    def _new_id(self) -> str:
        self._ids += 1
        return f"c{self._ids}"

    def list_page(self, number: int) -> CustomerPage:
        """A page of the list, as PayArc shows it at this moment."""
        newest = list(reversed(self.customers))
        if self._world.scenario.ties:
            self._world.rng.shuffle(newest)
        newest.sort(key=lambda customer: -customer.created_at)
        misleading, shift, total = self._world.scenario.misleading, 0, len(newest)
        if misleading == "empty":
            newest, total = [], 0
        elif misleading == "oldest first":
            newest.reverse()
        elif misleading == "cut":
            newest = newest[: PAGE - 1]
        elif misleading == "shifted":
            shift = -18_000
        shown = newest[(number - 1) * PAGE : number * PAGE]
        objects = [
            {"customer_id": one.customer_id, "created_at": one.created_at + shift, **one.fields} for one in shown
        ]
        return CustomerPage(objects, number, total, -(-len(newest) // PAGE), self.now)

    def delete(self, customer_id: str) -> None:
        """Delete a customer because its key is erased."""
        gone = next(customer for customer in self.customers if customer.customer_id == customer_id)
        self.customers.remove(gone)
        self.deleted.append(gone)
        self._world.log("PayArc deletes", customer_id, "of", gone.key)

    def change_list(self) -> None:
        """Another client creates or deletes a customer."""
        noise = [customer for customer in self.customers if customer.noise]
        if noise and self._world.rng.random() < 0.6:
            gone = self._world.rng.choice(noise)
            self.customers.remove(gone)
            self._world.log("another client deletes", gone.customer_id)
        else:
            self.add_noise()

    def add_noise(self) -> None:
        """Another client creates a customer."""
        customer = Customer(
            self._new_id(), self._second(), "noise", "", {"name": "Noise", "email": "noise@x.co"}, noise=True
        )
        self.customers.append(customer)
        self._world.log("another client creates", customer.customer_id)

    def get(self, customer_id: str) -> dict[str, Any] | PayarcNotFound:
        """A customer as PayArc shows it, or the error that PayArc returns."""
        found = next((one for one in self.customers if one.customer_id == customer_id), None)
        if found is None:
            return PayarcNotFound()
        return {"customer_id": customer_id, "created_at": found.created_at, **found.fields}
