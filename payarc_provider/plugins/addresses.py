"""The addresses of the page, and those of Airflow's own pages that it leads to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode

from payarc_provider.plugins.place import seal
from payarc_provider.sync.ledger.overview import RunCounts

Listing = Literal["rejected", "pending", "runs"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Paths without a host, so that they hold behind any proxy.

    :param root: where the page is
    :param airflow: where Airflow's UI is
    :param conn_id: the ledger's connection, if a ledger is shown
    :param table: its table
    :param ledger_id: its id, which seals the keys in addresses
    :param account: the account that is shown
    """

    root: str
    airflow: str
    conn_id: str = ""
    table: str = ""
    ledger_id: str = ""
    account: str = ""

    def of(self, account: str) -> Addresses:
        """The same ledger's, for one account."""
        return dataclasses.replace(self, account=account)

    def index(self) -> str:
        """All ledgers."""
        return f"{self.root}/"

    def ledger(self, conn_id: str = "", table: str = "") -> str:
        """One ledger, by default the one shown."""
        return f"{self.root}/{_part(conn_id or self.conn_id)}/{_part(table or self.table)}"

    def overview(self) -> str:
        """The account."""
        return self._in_account("account")

    def listing(self, kind: Listing, after: str | RunCounts | None = None) -> str:
        """All of one kind, or those after a key or a run."""
        if after is None:
            return self._in_account(kind)
        place = after if isinstance(after, str) else [after.last.isoformat(), after.dag_id, after.run_id]
        return self._in_account(kind, after=seal(self.ledger_id, place))

    def record(self, key: str) -> str:
        """One refused record."""
        return self._in_account("record", at=seal(self.ledger_id, key))

    def dag_run(self, dag_id: str, run_id: str) -> str:
        """A DAG run in Airflow's UI."""
        return f"{self.airflow}/dags/{_part(dag_id)}/runs/{_part(run_id)}"

    def task(self, dag_id: str, run_id: str, task_id: str) -> str:
        """A task of a DAG run in Airflow's UI."""
        return f"{self.dag_run(dag_id, run_id)}/tasks/{_part(task_id)}"

    def _in_account(self, page: str, **parameters: Any) -> str:
        return f"{self.ledger()}/{page}?{urlencode({'account': self.account} | parameters)}"


def _part(text: str) -> str:
    return quote(text, safe="")
