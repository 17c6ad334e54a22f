"""Killed at each checkpoint, with each source and each ledger database, and run again as Airflow would."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random
from typing import get_args

import pytest

from payarc_provider.sync.checkpoints import Checkpoint

from .cases import DATABASES, Lab, Together
from .world import World, people

LATENCY = 0.08
AGAIN = ("before_takeover", "after_takeover", "in_lookup", "before_lookup_record", "after_lookup_record")
"""Reached in full only by a run that follows a killed one."""
OFTEN = {"before_send": 15, "sending": 15, "after_answer": 15, "before_claim": 3, "after_claim": 3, "before_record": 3}
"""How often a run of 18 records surely reaches a checkpoint; others once."""


@dataclass(frozen=True)
class Kill:
    """One cell of the matrix."""

    checkpoint: str
    source: str
    database: str

    @property
    def name(self) -> str:
        """Unique, and fit for a table."""
        return f"{self.checkpoint}_{self.source}_{self.database}"

    def run(self, lab: Lab, name: str, numbers: Random) -> None:
        """Kill, run again, count."""
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
                self._kill(world, numbers.choice(("sending", "after_answer")), numbers)
            self._kill(world, self.checkpoint, numbers)
            done = world.run()
            assert done.exit == 0, world.report()
            world.prove(done)
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
if not os.environ.get("PAYARC_TORTURE"):  # one source with each database, the other one with the next
    CASES = [both[number % 2] for number, both in enumerate(ALL)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_at(together: Together, case: Kill) -> None:
    """18 records, 18 customers, and each record the id of its own."""
    together(case)
