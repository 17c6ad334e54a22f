"""The kind of world that a seed chooses: its records, how often each fault occurs, and trouble at named points."""

from __future__ import annotations

import random
from dataclasses import dataclass

HISTORY_SECONDS = 60.0
"""When the faults end."""


@dataclass(slots=True)
class FaultRates:
    """The probability of each fault."""

    lost: float = 0.0
    never: float = 0.0
    late: float = 0.0
    limited: float = 0.0
    unreachable: float = 0.0
    unauthorized: float = 0.0
    ledger_before: float = 0.0
    ledger_after: float = 0.0
    read_fails: float = 0.0


CALLS = ("claim", "record", "renew", "take_over", "record_absence", "give_up", "release")
UPDATE_CALLS = (*CALLS, "claim_updates", "claim_updates", "record_updates", "record_updates", "note_unchanged")
TROUBLES = ("suspended before", "suspended before, response lost", "suspended after", "response lost", "killed after")


@dataclass(frozen=True, slots=True)
class Trap:
    """Trouble at a point that random faults alone seldom hit.

    :param call: the name of the transaction, in any process
    :param nth: which of these calls; if ``unsent``, only the calls of runs that have unsent claims count
    """

    call: str
    nth: int
    trouble: str
    unsent: bool


@dataclass
class Scenario:
    """The kind of world that a seed chooses."""

    references: bool = True
    long_descriptions: bool = False
    equal_records: bool = False
    changed: bool = False
    rejections: bool = False
    other_source: bool = False
    people: int = 4
    """Number of records. Two or three are enough for most of what can go wrong."""
    altering: bool = False
    """PayArc stores names and cities in capitals."""
    altering_some: bool = False
    """It does so for every other person only, and the ledger does not know it."""
    moving: bool = False
    ties: bool = False
    settles: tuple[float, float] = (4.0, 4.0)
    mimic: bool = False
    """The third record's description is the reference of the second. Only some of the runs use references."""
    updates: str = ""
    """Changed records are brought to PayArc: with ``versions``, so that newer data wins, or the ``latest`` claim."""
    duel: bool = False
    """Runs change the same customers: one is suspended or killed at its claim or its record."""
    plan: str = ""
    """Runs have an ``approved`` plan or ``guards``."""
    alone: bool = False
    """Only one run claims customers, and the last attempt after it. Then it is known what its tries may do."""
    erasure: bool = False
    """Somebody erases a key."""
    sequel: bool = False
    """Of these runs, the first one changes customers, the next one's records are rejected, and the others' are old."""
    damage: str = ""
    """What PayArc does to descriptions."""
    limit: int | None = None
    """After this many requests of a process, the rate limit blocks it for seconds; some runs are deferred."""
    outage: tuple[float, float] | None = None
    """Start and end of the time in which the ledger is unreachable."""
    traps: tuple[Trap, ...] = ()
    relay: bool = False
    """Rows pass from run to run: a run is suspended during a look-up with unsent claims, and the run that sends
    meanwhile is soon killed."""
    loss: tuple[float, str] | None = None
    """When the ledger loses rows, and how: all, some, or what was committed in the last 1.5 s."""
    reinsertion: bool = False
    """Records whose rows were lost while requests were in flight are often rejected in other runs, which insert the
    rows again."""
    misleading: str = ""
    """How PayArc's list misleads until the faults end."""
    clock_steps: tuple[tuple[float, float], ...] = ()
    """When the clock of the ledger's database steps, and by how many seconds. PayArc's clock does not step."""


def choose_scenario(rng: random.Random) -> Scenario:
    scenario = Scenario(references=rng.random() < 0.7)
    scenario.long_descriptions = rng.random() < 0.2
    scenario.equal_records = rng.random() < 0.3
    if scenario.equal_records and rng.random() < 0.6:
        scenario.references = False
    scenario.changed = rng.random() < 0.35
    scenario.rejections = rng.random() < 0.35
    scenario.other_source = rng.random() < 0.15
    scenario.altering = rng.random() < 0.1
    scenario.moving = rng.random() < 0.5
    scenario.ties = rng.random() < 0.5
    if rng.random() < 0.3:
        scenario.settles = (9.0, 4.0)
    if rng.random() < 0.12:
        scenario.mimic = True
        scenario.equal_records = rng.random() < 0.6
        scenario.long_descriptions = scenario.altering = scenario.other_source = scenario.changed = False
    elif scenario.references and rng.random() < 0.2:
        scenario.damage = rng.choice(("cut", "dropped", "appended"))
        scenario.long_descriptions = scenario.long_descriptions and not scenario.altering
    if rng.random() < 0.4 and not scenario.mimic:
        _choose_updates(rng, scenario)
    scenario.people = rng.choice((3, 3, 4) if scenario.equal_records or scenario.mimic else (2, 2, 3, 4))
    if scenario.duel:
        scenario.people = rng.choice((1, 2))
    if rng.random() < 0.25:
        scenario.limit = rng.choice((1, 2, 3))
    if rng.random() < 0.2:
        begin = rng.uniform(0, 30)
        scenario.outage = (begin, begin + rng.uniform(1, 25))
    scenario.relay = rng.random() < 0.15
    scenario.traps = _choose_traps(rng, scenario)
    if rng.random() < 0.15:
        scenario.misleading = rng.choice(("empty", "oldest first", "cut", "shifted"))
    # After a step back, the times of the claims do not show which customer can check a list that misleads.
    if rng.random() < 0.2 and not scenario.misleading:
        seconds = rng.uniform(5, 200) * rng.choice((1, 1, 1, -1))
        begin = rng.uniform(0, 30)
        scenario.clock_steps = ((begin, seconds),)
        if rng.random() < 0.4:
            again = rng.choice((-seconds, rng.uniform(5, 200), -rng.uniform(5, 200)))
            scenario.clock_steps += ((rng.uniform(begin, begin + 25), again),)
    if rng.random() < 0.1 and not scenario.clock_steps:
        when = rng.choice((rng.uniform(0, 3), rng.uniform(0, 30), rng.uniform(0, HISTORY_SECONDS)))
        scenario.loss = (when, rng.choice(("all", "some", "the latest", "the latest")))
    return scenario


def _choose_traps(rng: random.Random, scenario: Scenario) -> tuple[Trap, ...]:
    traps: tuple[Trap, ...] = ()
    calls = UPDATE_CALLS if scenario.updates else CALLS
    if scenario.relay or rng.random() < 0.5:
        traps = tuple(
            Trap(rng.choice(calls), rng.choice((1, 1, 2, 3)), rng.choice(TROUBLES), rng.random() < 0.5)
            for _ in range(rng.choice((1, 2)))
        )
    if scenario.duel:
        call = rng.choice(("claim_updates", "claim_updates", "record_updates", "note_unchanged"))
        traps += (Trap(call, rng.choice((1, 1, 2)), rng.choice(TROUBLES), unsent=False),)
    if scenario.relay:
        call = rng.choice(("take_over", "take_over", "record_absence"))
        traps += (Trap(call, 1, rng.choice(TROUBLES), unsent=True),)
    return traps


def _choose_updates(rng: random.Random, scenario: Scenario) -> None:
    scenario.updates = rng.choice(("versions", "versions", "latest"))
    scenario.equal_records = scenario.other_source = scenario.changed = False
    scenario.duel = rng.random() < 0.4
    scenario.rejections = scenario.rejections or scenario.duel
    scenario.sequel = scenario.duel and scenario.updates == "versions" and rng.random() < 0.7


def choose_plan(rng: random.Random, scenario: Scenario) -> None:
    """Choose whether runs have plans, a key is erased, or lost rows are inserted again, and whom PayArc alters.

    :param rng: of its own, so that the histories without these stay what they were
    """
    if rng.random() < 0.2 and not (scenario.mimic or scenario.other_source):
        scenario.plan = rng.choice(("approved", "approved", "guards"))
        scenario.alone = rng.random() < 0.6
    elif rng.random() < 0.12 and not (scenario.equal_records or scenario.mimic or scenario.other_source):
        scenario.erasure = scenario.loss is None
    elif not (scenario.equal_records or scenario.mimic or scenario.other_source or scenario.clock_steps):
        scenario.reinsertion = rng.random() < (0.12 if scenario.loss is None else 0.6)
        if scenario.reinsertion:
            scenario.loss = (rng.uniform(1, 5), rng.choice(("all", "all", "the latest")))
            scenario.people, scenario.rejections, scenario.sequel = 1, True, False
    scenario.altering_some = scenario.altering and rng.random() < 0.5


def choose_fault_rates(rng: random.Random, scenario: Scenario) -> FaultRates:
    return FaultRates(
        lost=0.4 if scenario.mimic or scenario.duel or scenario.reinsertion else rng.choice((0.0, 0.15, 0.4)),
        never=0.3 if scenario.relay or scenario.mimic or scenario.reinsertion else rng.choice((0.0, 0.1, 0.3)),
        late=rng.choice((0.0, 0.15, 0.4)),
        limited=rng.choice((0.0, 0.0, 0.2)),
        unreachable=0.3 if scenario.reinsertion else rng.choice((0.0, 0.0, 0.2)),
        unauthorized=rng.choice((0.0, 0.0, 0.0, 0.05)),
        ledger_before=rng.choice((0.0, 0.0, 0.1)),
        ledger_after=rng.choice((0.0, 0.0, 0.1)),
        read_fails=rng.choice((0.0, 0.0, 0.25)),
    )
