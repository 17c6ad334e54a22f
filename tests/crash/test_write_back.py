"""Kill runs while they write ids back into the table: the next run writes those that are missing."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
import sqlalchemy as sa

from .cases import DATABASES, WRITE_POINTS, Lab, ParallelCases
from .world import World, people

COUNT = 18
TRANSACTIONS = 5  # of the six or more that a run needs for 18 rows, 3 in each
POINTS = [(point, nth) for point in WRITE_POINTS for nth in range(1, TRANSACTIONS + 1)]


@dataclass(frozen=True)
class KillWhileWritingBack:
    """One database, which has the table and the ledger."""

    database: str

    @property
    def name(self) -> str:
        """Unique, and valid in a table's name."""
        return f"write_back_{self.database}"

    def run(self, lab: Lab, name: str, numbers: Random) -> None:
        """Kill a run at each of ten points, forget ids at random in between, and compare the ids after the last run."""
        world = lab.world(
            name,
            self.database,
            [{**record, "cus": None} for record in people(COUNT, numbers)],
            table_source=True,
            seed=numbers.randrange(10**6),
            settings={"write_back": "cus"},
            common={"write_back_batch": 3},
        )
        with world:
            for point, nth in numbers.sample(POINTS, len(POINTS)):
                late = numbers.uniform(0, 0.01) if point == "before_write_back" else 0.0  # within the transaction
                killed = world.run(stop_at=point, stop_nth=nth, stop_after=late)
                outran = late and killed.exit == 0  # it ended before the late kill
                assert killed.killed or outran, f"{point} was not reached {nth} times\n{world.report()}"
                written = self._ids(world)
                assert set(written.values()) <= {None, *self._customers(world).values()}, world.report()
                self._forget(world, set(numbers.sample(sorted(written), COUNT - numbers.randint(0, 2))))
            done = world.run()
            assert done.exit == 0, world.report()
            world.check(done)
            assert self._ids(world) == self._customers(world), world.report()
            again = world.run(run_id="again")
            assert (again.exit, again.result["counts"].get("written_back", 0)) == (0, 0), world.report()

    def _ids(self, world: World) -> dict[str, str | None]:
        """Key → what its row has."""
        with world.connect() as connection:
            rows = connection.execute(sa.text(f"SELECT id, cus FROM crm_{world.name}")).all()
        return {str(key): customer_id for key, customer_id in rows}

    def _customers(self, world: World) -> dict[str, str | None]:
        """Key → the customer in the ledger."""
        return {key: row.customer_id for key, row in world.rows().items()}

    def _forget(self, world: World, keys: set[str]) -> None:
        listed = ", ".join(keys)
        with world.connect() as connection, connection.begin():
            connection.execute(sa.text(f"UPDATE crm_{world.name} SET cus = NULL WHERE id IN ({listed})"))


@pytest.mark.parametrize("case", [KillWhileWritingBack(name) for name in DATABASES], ids=lambda case: case.name)
def test_a_run_that_was_killed_while_writing_ids_is_caught_up_with(
    parallel_cases: ParallelCases, case: KillWhileWritingBack
) -> None:
    """After ten kills and one more run, each row has the id of its customer."""
    parallel_cases.check(case)
