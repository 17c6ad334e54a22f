"""Running cases in parallel, since they mostly wait: for leases to end, and for PayArc to settle."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar, get_args

import pytest

from payarc_provider.sync.checkpoints import Checkpoint

from .attempts import Attempts
from .world import MachineTooSlow, Record, World

AnyWorld = TypeVar("AnyWorld", bound=World)

DATABASES = ("sqlite", "postgresql", "mariadb")
UPDATE_POINTS = tuple(point for point in get_args(Checkpoint) if "update" in point)
WRITE_POINTS = tuple(point for point in get_args(Checkpoint) if "write_back" in point)
POINTS = tuple(point for point in get_args(Checkpoint) if point not in UPDATE_POINTS + WRITE_POINTS)
"""The checkpoints of runs that change no customer and write no ids."""
SEED = int(os.environ.get("PAYARC_SEED") or secrets.randbelow(10**6))
PARALLEL = int(os.environ.get("PAYARC_CRASH_PARALLEL") or 8)


class Lab:
    """The fork server and the databases that all cases share.

    :param urls: database → its URL, or the reason why it is not available
    """

    def __init__(self, folder: Path, urls: Mapping[str, str]) -> None:
        self.attempts = Attempts()
        self.folder = folder
        self._urls = urls

    def database(self, name: str) -> str:
        """The URL of a shared database; skips the test where it is not available."""
        url = self._urls.get(name, "")
        if "://" not in url:
            pytest.skip(url or f"no {name}")
        return url

    def world(
        self, name: str, database: str, records: Sequence[Record], *, kind: type[AnyWorld] = World, **options: Any
    ) -> AnyWorld:
        """A new :class:`World` of the kind, which takes the options."""
        if database == "sqlite":
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{self.folder / name}/ledger.db"
        else:
            url = self.database(database) if "://" not in database else database
        return kind(self.attempts, self.folder, name, url, records, **options)

    def close(self) -> None:
        """End the fork server and what it still runs."""
        self.attempts.close()


class Case(Protocol):
    """One case. Its name is unique and can be part of a table's name."""

    name: str

    def run(self, lab: Lab, name: str, numbers: Random) -> None:
        """Fail unless the guarantee held.

        :param name: unique for each try of the case
        """


@dataclass(frozen=True)
class Scenario:
    """A case written as a function, with one of the ledger's databases."""

    play: Callable[[Lab, str, str, Random], None]
    database: str

    @property
    def name(self) -> str:
        """Function and database."""
        return f"{self.play.__name__}_{self.database}"

    def run(self, lab: Lab, name: str, numbers: Random) -> None:
        """Call the function."""
        self.play(lab, self.database, name, numbers)


def run_case(case: Case, lab: Lab, seed: int = SEED) -> None:
    """Run a case; try again if the machine was too slow, since that proves nothing."""
    for number in range(3):
        name = f"{case.name}_{number}" if number else case.name
        try:
            case.run(lab, name, Random(f"{seed}/{case.name}"))
            return
        except MachineTooSlow as error:
            reason = error
        except AssertionError as failure:
            raise AssertionError(f"with PAYARC_SEED={seed}: {failure}") from failure
    raise AssertionError(f"this machine is too slow for these tests: {reason}")


class ParallelCases:
    """Runs all selected cases in parallel, as soon as the first test asks for its result."""

    def __init__(self, lab: Lab, cases: Iterable[Case]) -> None:
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="case")
        self._futures: dict[str, Future[None]] = {case.name: self._pool.submit(run_case, case, lab) for case in cases}

    def check(self, case: Case) -> None:
        """Wait for the case, and fail if it failed."""
        self._futures[case.name].result()

    def close(self) -> None:
        """Cancel the cases that have not started, and wait for the others."""
        self._pool.shutdown(wait=True, cancel_futures=True)
