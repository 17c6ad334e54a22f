"""Cases that run side by side, since most of their time is waiting: for leases to end, and for PayArc to settle."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pytest

from .attempts import Attempts
from .world import Record, StoodStill, World

DATABASES = ("sqlite", "postgresql", "mariadb")
SEED = int(os.environ.get("PAYARC_SEED") or secrets.randbelow(10**6))
PARALLEL = int(os.environ.get("PAYARC_CRASH_PARALLEL") or 8)


class Lab:
    """What cases are made of.

    :param urls: database → its URL, or why there is none
    """

    def __init__(self, folder: Path, urls: Mapping[str, str]) -> None:
        self.attempts = Attempts()
        self.folder = folder
        self._urls = urls

    def database(self, name: str) -> str:
        """The URL of a database that cases share; skips where there is none."""
        url = self._urls.get(name, "")
        if "://" not in url:
            pytest.skip(url or f"no {name}")
        return url

    def world(self, name: str, database: str, records: Sequence[Record], **how: Any) -> World:
        """A world of its own; see :class:`World`."""
        if database == "sqlite":
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{self.folder / name}/ledger.db"
        else:
            url = self.database(database) if "://" not in database else database
        return World(self.attempts, self.folder, name, url, records, **how)

    def close(self) -> None:
        """End what still runs."""
        self.attempts.close()


class Case(Protocol):
    """One case; its name is unique and fit for a table's name."""

    name: str

    def run(self, lab: Lab, name: str, numbers: Random) -> None:
        """Fail unless the guarantee held. ``name`` differs from one turn to the next."""


@dataclass(frozen=True)
class Scenario:
    """A case told by a function, with one of the ledger's databases."""

    tell: Callable[[Lab, str, str, Random], None]
    database: str

    @property
    def name(self) -> str:
        """Function and database."""
        return f"{self.tell.__name__}_{self.database}"

    def run(self, lab: Lab, name: str, numbers: Random) -> None:
        """Tell it."""
        self.tell(lab, self.database, name, numbers)


def prove(case: Case, lab: Lab, seed: int = SEED) -> None:
    """Run a case; again where the machine stood still, since that proves nothing."""
    for turn in range(3):
        name = f"{case.name}_{turn}" if turn else case.name
        try:
            case.run(lab, name, Random(f"{seed}/{case.name}"))
            return
        except StoodStill as excuse:
            told = excuse
        except AssertionError as failure:
            raise AssertionError(f"with PAYARC_SEED={seed}: {failure}") from failure
    raise AssertionError(f"this machine is too slow for these tests: {told}")


class Together:
    """Runs all selected cases side by side as soon as the first is asked for."""

    def __init__(self, lab: Lab, cases: Iterable[Case]) -> None:
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="case")
        self._futures: dict[str, Future[None]] = {case.name: self._pool.submit(prove, case, lab) for case in cases}

    def __call__(self, case: Case) -> None:
        """What came of the case."""
        self._futures[case.name].result()

    def close(self) -> None:
        """Start no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)
