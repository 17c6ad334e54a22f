"""A bench for tests of the engine: runs over real HTTP and real ledgers, and a check of what they did.

Whatever goes wrong, each record must have one customer at the sandbox, and no POST that created its customer may be
sent again.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass

from watcher import Watcher

from payarc_provider.api.client import PayarcClient
from payarc_provider.exceptions import PayarcError
from payarc_provider.sync import runner
from payarc_provider.sync.ledger import Claimant, Ledger
from payarc_provider.sync.results import Progress, Results
from payarc_provider.sync.settings import Settings, TaskIdentity
from payarc_provider.sync.sources import ListSource

ACCOUNT = "test/1"

NOT_HANDLED = ("rate_limited", "unauthorized")

WATCHDOG = 30
"""Seconds after which a run counts as hanging."""

QUICK = Settings(timeout=10, settle=0.1, lease=20, max_tries=10)
"""For a sandbox that commits a request at once or never, so that nothing has to settle."""


@dataclass
class Outcome:
    """The outcome of one run."""

    results: Results
    end: Progress
    error: PayarcError | None

    @property
    def counts(self):
        return self.end.counts

    @property
    def requests(self):
        return dict(self.end.requests)

    @property
    def ids(self):
        return self.results.customer_ids()

    @property
    def statuses(self):
        return Counter(one["status"] for one in self.results.customers())

    @property
    def recorded(self):
        """What this run recorded in the ledger, as metrics count it."""
        names = ("recorded_created", "recorded_adopted", "recorded_updated", "recorded_rejected", "unknown")
        return {name.removeprefix("recorded_"): self.counts[name] for name in names if self.counts[name]}

    def ok(self):
        """Return the outcome; raise the run's error if it failed."""
        if self.error:
            raise self.error
        return self


class Bench:
    """A ledger and a sandbox, and runs between them."""

    def __init__(self, database, sandbox):
        self.database = database
        self.sandbox = sandbox
        self.table = database.name()
        self.ledger = self.open()

    def open(self, kind=Ledger):
        ledger = kind(self.database.engine(), self.table)
        ledger.open()
        return ledger

    def run(
        self,
        rows,
        settings=QUICK,
        *,
        run_id="run 1",
        task_id="task",
        source=None,
        ledger=Ledger,
        token=None,
        url=None,
        on_start=None,
    ):
        """Run once. An error is part of the outcome and is not raised.

        :param ledger: the ledger's class; a test may pass one that fails in some way
        :param on_start: called with a function that tells the run to stop
        """
        client = PayarcClient(
            url or self.sandbox.url, lambda _fresh: token or self.sandbox.token, timeout=settings.timeout
        )
        rows = ListSource(rows, source or "table people") if isinstance(rows, list) else rows
        watcher, results, error, hanging = Watcher(), Results(), None, []
        watchdog = []

        def watch(terminate):
            watchdog.append(threading.Timer(WATCHDOG, lambda: (hanging.append(True), terminate())))
            watchdog[-1].start()
            if on_start is not None:
                on_start(terminate)

        try:
            results = runner.run(
                rows,
                client,
                self.open(ledger),
                settings,
                account=ACCOUNT,
                task=TaskIdentity("dag", run_id, task_id),
                reporter=watcher,
                on_start=watch,
            )
        except PayarcError as stopped:
            error = stopped
        finally:
            client.close()
            for timer in watchdog:
                timer.cancel()
        assert not hanging, f"the run hangs: {watcher.end}"
        return Outcome(results, watcher.end, error)

    def rows(self):
        """The ledger's rows by key."""
        keys = [str(key) for (key,) in self.database.execute(f"SELECT {self._key_column()} FROM {self.table}")]
        return self.ledger.rows(Claimant(ACCOUNT, "nobody", "no source", 0.0, 0.0), keys)

    def _key_column(self):
        return "`key`" if self.database.kind == "mariadb" else '"key"'

    def states(self):
        return Counter(row.state for row in self.rows().values())

    def nothing_is_leased(self):
        return all(row.owner is None for row in self.rows().values())

    def check(self, rows, outcome):
        """Check that each record has one customer, that the ids are in input order, and that no POST was repeated."""
        customers = {customer["email"]: customer["customer_id"] for customer in self.sandbox.customers()}
        assert len(self.sandbox.customers()) == len(customers) == len({row["email"] for row in rows})
        assert outcome.ids == [customers[row["email"]] for row in rows]
        self.check_posts()

    def check_posts(self):
        """Check that no POST was sent again after it had created its customer."""
        posts = defaultdict(list)
        for post in self.sandbox.log():
            posts[post["idempotency_key"].rpartition("-")[0]].append(post)
        for of_one_record in posts.values():
            created = [post["sequence"] for post in of_one_record if post["outcome"] == "created"]
            assert len(created) <= 1, "a record has two customers"
            assert not created or created[0] == of_one_record[-1]["sequence"], "a POST was sent again after its success"
            keys = [post["idempotency_key"] for post in of_one_record if post["outcome"] not in NOT_HANDLED]
            assert len(set(keys)) == len(keys), "two attempts have the same idempotency key"


def people(count, first=0, **fields):
    return [
        {"id": number, "name": "John Smith", "email": f"j{number}@example.com", **fields}
        for number in range(first, first + count)
    ]


LONG = "A description that leaves no room for more"
