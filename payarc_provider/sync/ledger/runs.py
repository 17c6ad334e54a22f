"""What the runs of tasks have done: one fact for each, so that runs that created nothing can be listed too.

A run writes its fact when it begins and when it ends, never for a record. The latest `KEPT` of an account are kept.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sqlalchemy import Table, delete, func, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from payarc_provider.sync.ledger.database import chunks, database_now, insert_absent
from payarc_provider.sync.ledger.facts import FactTable
from payarc_provider.sync.ledger.rows import EPOCH

KEPT = 1000
_SPARE = 100  # so that not every run has to look for the oldest

Ending = Literal["finished", "stopped"]


@dataclass(frozen=True, slots=True)
class TaskRunFact:
    """One run of a task instance: its latest try.

    :param source: where its records come from
    :param ended: when it ended; None while it is under way or deferred, or if it was killed
    :param ending: ``finished``: it has read all records; ``stopped``: an error ended it early
    :param counts: ``records``, and how many of them were ``created``, ``adopted``, ``updated``, ``known``, ``rejected``
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    source: str
    began: datetime.datetime = EPOCH
    ended: datetime.datetime | None = None
    ending: Ending | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DagRunCounts:
    """What the tasks of one DAG run have done.

    :param ended: when the last of them ended; None if one has not ended
    :param stopped: whether an error ended one of them early
    """

    dag_id: str
    run_id: str
    sources: tuple[str, ...]
    began: datetime.datetime
    ended: datetime.datetime | None
    stopped: bool
    counts: Mapping[str, int]

    @property
    def created(self) -> int:
        """Customers that were created, or adopted from PayArc."""
        return self.counts.get("created", 0) + self.counts.get("adopted", 0)

    @property
    def updated(self) -> int:
        """Customers that were changed."""
        return self.counts.get("updated", 0)

    @property
    def known(self) -> int:
        """Records whose customer an earlier run had created."""
        return self.counts.get("known", 0)

    @property
    def rejected(self) -> int:
        """Records that were rejected."""
        return self.counts.get("rejected", 0)


class RunLog:
    """Keeps the facts about the task runs of one account.

    :param ledger: an open ledger
    """

    def __init__(self, ledger: FactTable, account: str) -> None:
        self._ledger = ledger
        self._facts: Table = ledger.schema.facts
        self._prefix = f"run:{_hash(account)}:"

    def begin(self, run: TaskRunFact) -> TaskRunFact:
        """Record that a run begins now, in place of earlier tries of its task instance."""
        with self._ledger.database.write() as connection:
            begun = replace(run, began=database_now(connection))
            self._write(connection, begun)
            self._drop_oldest(connection)
        return begun

    def end(self, run: TaskRunFact) -> None:
        """Record that a run ends now, how, and what it has done."""
        with self._ledger.database.write() as connection:
            self._write(connection, replace(run, ended=database_now(connection)))

    def latest(self) -> list[DagRunCounts]:
        """The DAG runs, the latest first."""
        with self._ledger.database.read() as connection:
            return by_dag_run(fact for _, fact in self._read(connection))

    def _write(self, connection: Connection, run: TaskRunFact) -> None:
        identity = [run.dag_id, run.run_id, run.task_id, run.map_index]
        name = self._prefix + _hash(json.dumps(identity))
        stored = {
            "run": identity,
            "source": run.source,
            "began": run.began.isoformat(),
            "ended": run.ended.isoformat() if run.ended else None,
            "ending": run.ending,
            "counts": dict(run.counts),
        }
        value = json.dumps(stored, ensure_ascii=False)
        insert_absent(connection, self._facts, [{"name": name, "value": value}])
        connection.execute(update(self._facts).where(self._facts.c.name == name).values(value=value))

    def _drop_oldest(self, connection: Connection) -> None:
        count = select(func.count()).select_from(self._facts).where(self._mine)
        if connection.execute(count).scalar_one() <= KEPT + _SPARE:
            return
        oldest_first = sorted(self._read(connection), key=lambda found: found[1].began)
        names = sorted(name for name, _ in oldest_first[:-KEPT])  # in one order, or two runs deadlock
        for part in chunks(names):
            connection.execute(delete(self._facts).where(self._facts.c.name.in_(part)))

    def _read(self, connection: Connection) -> list[tuple[str, TaskRunFact]]:
        query = select(self._facts.c.name, self._facts.c.value).where(self._mine)
        return [(name, _fact(json.loads(value))) for name, value in connection.execute(query)]

    @property
    def _mine(self) -> ColumnElement[bool]:
        return self._facts.c.name.between(self._prefix, self._prefix + "g")  # what follows is hexadecimal


def by_dag_run(facts: Iterable[TaskRunFact]) -> list[DagRunCounts]:
    """The facts added up by DAG run, the latest first."""
    tasks: dict[tuple[str, str], list[TaskRunFact]] = {}
    for fact in facts:
        tasks.setdefault((fact.dag_id, fact.run_id), []).append(fact)
    runs = [_dag_run(*names, of_run) for names, of_run in tasks.items()]
    return sorted(runs, key=lambda run: (run.began, run.dag_id, run.run_id), reverse=True)


def _dag_run(dag_id: str, run_id: str, tasks: list[TaskRunFact]) -> DagRunCounts:
    counts: dict[str, int] = {}
    for task in tasks:
        for name, number in task.counts.items():
            counts[name] = counts.get(name, 0) + number
    ends = [task.ended for task in tasks if task.ended is not None]
    return DagRunCounts(
        dag_id,
        run_id,
        tuple(sorted({task.source for task in tasks})),
        began=max(task.began for task in tasks),
        ended=max(ends) if len(ends) == len(tasks) else None,
        stopped=any(task.ending == "stopped" for task in tasks),
        counts=counts,
    )


def _fact(stored: dict[str, Any]) -> TaskRunFact:
    dag_id, run_id, task_id, map_index = stored["run"]
    ended = stored["ended"]
    return TaskRunFact(
        dag_id,
        run_id,
        task_id,
        map_index,
        source=stored["source"],
        began=datetime.datetime.fromisoformat(stored["began"]),
        ended=datetime.datetime.fromisoformat(ended) if ended else None,
        ending=stored["ending"],
        counts=stored["counts"],
    )


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
