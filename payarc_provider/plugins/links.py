"""Links: the addresses of the page, and of Airflow's own pages.

Addresses end up in access logs and browser histories, and a key may be personal data even though it should not. So keys
and positions in an address are encrypted, with a key derived from the ledger's id, which every API server can read.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode

from cryptography.fernet import Fernet, InvalidToken

from payarc_provider.sync.ledger.runs import DagRunCounts

ListName = Literal["rejected", "pending", "runs"]


@dataclass(frozen=True, slots=True)
class Links:
    """Paths without a host, so that they work behind any proxy.

    :param root: the path of the page
    :param airflow: the path of Airflow's UI
    :param conn_id: the connection of the ledger that is shown, if any
    :param table: its table
    :param ledger_id: its id
    :param account: the account that is shown, if any
    """

    root: str
    airflow: str
    conn_id: str = ""
    table: str = ""
    ledger_id: str = ""
    account: str = ""

    def for_account(self, account: str) -> Links:
        """The links of an account in the same ledger."""
        return dataclasses.replace(self, account=account)

    def index(self) -> str:
        """All ledgers."""
        return f"{self.root}/"

    def ledger(self, conn_id: str = "", table: str = "") -> str:
        """A ledger; by default the one that is shown."""
        return f"{self.root}/{_segment(conn_id or self.conn_id)}/{_segment(table or self.table)}"

    def overview(self) -> str:
        """The account's overview."""
        return self._in_account("account")

    def listing(self, name: ListName, after: str | DagRunCounts | None = None, reason: str | None = None) -> str:
        """A list of the account: its first page, or the page after a key or a run.

        :param reason: only the records that were rejected for this reason
        """
        parameters = {} if reason is None else {"reason": seal(self.ledger_id, reason)}
        if after is not None:
            position = after if isinstance(after, str) else [after.began.isoformat(), after.dag_id, after.run_id]
            parameters["after"] = seal(self.ledger_id, position)
        return self._in_account(name, **parameters)

    def csv(self) -> str:
        """The rejected records as a file."""
        return self._in_account("rejected.csv")

    def search(self, start: str | None = None) -> str:
        """Where to send the key to search for, or the records whose key begins with this."""
        return self._in_account("search", **({} if start is None else {"key": seal(self.ledger_id, start)}))

    def record(self, key: str) -> str:
        """A rejected record."""
        return self._in_account("record", at=seal(self.ledger_id, key))

    def dag_run(self, dag_id: str, run_id: str) -> str:
        """A DAG run in Airflow's UI."""
        return f"{self.airflow}/dags/{_segment(dag_id)}/runs/{_segment(run_id)}"

    def task(self, dag_id: str, run_id: str, task_id: str) -> str:
        """A task of a DAG run in Airflow's UI."""
        return f"{self.dag_run(dag_id, run_id)}/tasks/{_segment(task_id)}"

    def _in_account(self, page: str, **parameters: Any) -> str:
        return f"{self.ledger()}/{page}?{urlencode({'account': self.account} | parameters)}"


def _segment(text: str) -> str:
    return quote(text, safe="")


def seal(ledger_id: str, position: Any) -> str:
    """Encrypt a JSON value for use in an address."""
    return _cipher(ledger_id).encrypt(json.dumps(position).encode()).decode()


def unseal(ledger_id: str, text: str) -> Any:
    """Decrypt a value from an address.

    :raises ValueError: it was not encrypted for this ledger
    """
    try:
        return json.loads(_cipher(ledger_id).decrypt(text.encode()))
    except InvalidToken:
        raise ValueError("not encrypted for this ledger") from None


def _cipher(ledger_id: str) -> Fernet:
    key = hashlib.blake2b(ledger_id.encode(), digest_size=32, person=b"payarc page").digest()
    return Fernet(base64.urlsafe_b64encode(key))
