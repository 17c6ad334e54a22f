"""Kill a run at each checkpoint, with each source and each ledger database, and retry it as Airflow would."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from random import Random

import pytest

from .attempts import Attempt
from .cases import DATABASES, POINTS, Lab, ParallelCases
from .changing import ChangingWorld, first_generation
from .world import World, people

LATENCY = 0.08
AGAIN = ("before_takeover", "after_takeover", "in_lookup", "before_lookup_record", "after_lookup_record")
"""Only a run that follows a killed one reaches all of these."""
OFTEN = {
    "before_send": 15,
    "sending": 15,
    "after_response": 15,
    "before_claim": 3,
    "after_claim": 3,
    "before_record": 3,
}
"""How often a run of 18 records reaches a checkpoint at least; the others once."""


@dataclass(frozen=True)
class Kill:
    """One combination of checkpoint, source and database."""

    checkpoint: str
    source: str
    database: str

    @property
    def name(self) -> str:
        """Unique, and valid in a table's name."""
        return f"{self.checkpoint}_{self.source}_{self.database}"

    def run(self, lab: Lab, name: str, numbers: Random) -> None:
        """Kill a run, run again, and count the customers."""
        world = lab.world(
            name,
            self.database,
            people(18, numbers),
            table_source=self.source == "table",
            seed=numbers.randrange(10**6),
            sandbox={"latency": LATENCY},
        )
        with world:
            if self.checkpoint in AGAIN:
                self._kill(world, numbers.choice(("sending", "after_response")), numbers)
            self._kill(world, self.checkpoint, numbers)
            done = world.run()
            assert done.exit == 0, world.report()
            world.check(done)
            rows = world.rows().values()
            assert {row.state for row in rows} == {"created"}, world.report()
            assert sorted(row.customer_id for row in rows) == sorted(done.result["ids"])

    def _kill(self, world: World, checkpoint: str, numbers: Random) -> None:
        late = numbers.uniform(0, 1.5 * LATENCY) if checkpoint == "sending" else 0.0
        nth = numbers.randint(1, OFTEN.get(checkpoint, 1))
        attempt = world.run(stop_at=checkpoint, stop_nth=nth, stop_after=late)
        assert attempt.killed, f"{checkpoint} was not reached {nth} times\n{world.report()}"


UPDATES = {
    "before_update_claim": 2,
    "after_update_claim": 2,
    "before_update": 12,
    "sending_update": 12,
    "after_update_response": 12,
    "before_record": 2,
    "after_record": 2,
}
"""How often a run that changes 12 customers, and creates 6, reaches a checkpoint at least."""


@dataclass(frozen=True)
class KillWhileUpdating(Kill):
    """The same for runs that create and change customers."""

    @property
    def name(self) -> str:
        """Unique, and valid in a table's name."""
        return f"update_{super().name}"

    def run(self, lab: Lab, name: str, numbers: Random) -> None:
        """Kill a run, change more records, run again, and compare each customer's fields."""
        version = numbers.choice((None, "v"))
        world = lab.world(
            name,
            self.database,
            first_generation(18),
            kind=ChangingWorld,
            table_source=self.source == "table",
            seed=numbers.randrange(10**6),
            settings={"on_changed": "update", "version": version},
            sandbox={"latency": LATENCY / 2},
        )
        with world:
            assert world.run().exit == 0, world.report()
            first = world.change(numbers, 12 / 18, new=6)
            late = numbers.uniform(0, LATENCY) if self.checkpoint == "sending_update" else 0.0
            nth = numbers.randint(1, UPDATES[self.checkpoint])
            killed = world.run(stop_at=self.checkpoint, stop_nth=nth, stop_after=late)
            assert killed.killed, f"{self.checkpoint} was not reached {nth} times\n{world.report()}"
            time.sleep(0.3)  # the server may still commit what the killed process has sent
            recorded = {row.key for row in world.rows().values() if row.updated_at and row.state == "created"}
            second = world.change(numbers, 0.25)
            done = world.run()
            assert done.exit == 0, world.report()
            world.check(done)
            to_send = {str(key) for key in first} - recorded | {str(key) for key in second if key <= 18}
            unsure = sum(key > 18 for key in second)  # a record without a customer is created with its newest values
            most = len(to_send) + unsure + _unusable(done)
            assert len(to_send) <= done.result["requests"].get("PATCH", 0) <= most, world.report()
            rows = world.rows().values()
            assert {row.state for row in rows} == {"created"}, world.report()
            assert sorted(row.customer_id for row in rows) == sorted(done.result["ids"])


def _unusable(attempt: Attempt) -> int:
    """How many changes had no usable response, as on a machine that stalls: each of them is sent again."""
    return sum(int(number) for number in re.findall(r"No usable response to (\d+) change", attempt.log()))


ALL = [
    [Kill(checkpoint, source, database) for source in ("list", "table")]
    for checkpoint in POINTS
    for database in DATABASES
]
ALL += [
    [KillWhileUpdating(checkpoint, source, database) for source in ("list", "table")]
    for checkpoint in UPDATES
    for database in DATABASES
]
CASES = [case for both in ALL for case in both]
if not os.environ.get("PAYARC_TORTURE"):  # half of the combinations: the sources take turns
    CASES = [both[number % 2] for number, both in enumerate(ALL)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_killed_run_is_completed_by_the_next(parallel_cases: ParallelCases, case: Kill) -> None:
    """18 records become 18 customers, and each record gets the id of its own."""
    parallel_cases.check(case)
