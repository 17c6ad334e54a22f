"""The same with Airflow: kill the process in which a task runs at a checkpoint, and run the task again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from .attempts import Attempts
from .cases import POINTS, SEED
from .forking import Spec
from .test_matrix import AGAIN, LATENCY, OFTEN
from .world import World, people

SOME = POINTS if os.environ.get("PAYARC_TORTURE") else Random(SEED).sample(POINTS, 2)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempts]:
    """A fork server with its own Airflow home."""
    home = tmp_path_factory.mktemp("airflow")
    shutil.copytree(Path(__file__).with_name("dags"), home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
    }
    tasks = Attempts("airflow_worker", environment)
    prepared = tasks.start(Spec(str(home), "prepare", url="", token="", ledger="", table="prepare", settings={}))
    assert prepared.wait() == 0, prepared.tail(40)
    yield tasks
    tasks.close()


@pytest.mark.parametrize("checkpoint", SOME)
def test_a_killed_task_is_completed_by_the_next(tasks: Attempts, tmp_path: Path, checkpoint: str) -> None:
    """18 records in a SQLite table become 18 customers, and their ids reach the next task."""
    numbers = Random(f"{SEED}/airflow/{checkpoint}")
    world = World(
        tasks,
        tmp_path,
        f"af_{checkpoint}",
        f"sqlite:///{tmp_path}/crm.db",
        people(18, numbers),
        table_source=True,
        seed=SEED,
        sandbox={"latency": LATENCY},
    )
    with world:
        for point in ("after_response", checkpoint) if checkpoint in AGAIN else (checkpoint,):
            nth = numbers.randint(1, OFTEN.get(point, 1))
            killed = world.run(stop_at=point, stop_nth=nth, stop_after=0.05 if point == "sending" else 0.0)
            assert killed.killed, f"{point} was not reached {nth} times, PAYARC_SEED={SEED}\n{world.report()}"
        done = world.run()
        assert done.exit == 0, world.report()
        world.check(done)
