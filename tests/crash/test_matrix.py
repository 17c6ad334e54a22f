"""Kill a run at each checkpoint, with each source and each ledger database, and retry it as Airflow would."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random
from typing import get_args

import pytest

from payarc_provider.sync.checkpoints import Checkpoint

from .cases import DATABASES, Lab, ParallelCases
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


ALL = [
    [Kill(checkpoint, source, database) for source in ("list", "table")]
    for checkpoint in get_args(Checkpoint)
    for database in DATABASES
]
CASES = [case for both in ALL for case in both]
if not os.environ.get("PAYARC_TORTURE"):  # half of the combinations: the sources take turns
    CASES = [both[number % 2] for number, both in enumerate(ALL)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_killed_run_is_completed_by_the_next(parallel_cases: ParallelCases, case: Kill) -> None:
    """18 records become 18 customers, and each record gets the id of its own."""
    parallel_cases.check(case)
