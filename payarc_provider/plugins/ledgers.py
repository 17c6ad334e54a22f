"""The ledgers that the page shows: which they are, and opening one to read it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, conf
from sqlalchemy import event

from payarc_provider.exceptions import PayarcConfigError, PayarcError
from payarc_provider.hooks.sql import sql_engine
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.database import LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

DEFAULT_TABLE = "payarc_customers"
CONNECT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class LedgerName:
    """Where a ledger is.

    :param conn_id: the Airflow connection of its database
    :param table: its table
    """

    conn_id: str
    table: str


class LedgerNotShown(Exception):
    """There is nothing to show; the text says why, and what to do.

    :param status: the HTTP status that says the same
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def configured() -> list[LedgerName]:
    """The ledgers of ``[payarc] ledgers``: ``conn_id`` or ``conn_id:table``, with commas between them."""
    names = []
    for part in conf.get("payarc", "ledgers", fallback="").replace("\n", ",").split(","):
        conn_id, _, table = part.strip().partition(":")
        if conn_id:
            names.append(LedgerName(conn_id.strip(), table.strip() or DEFAULT_TABLE))
    return list(dict.fromkeys(names))


@contextlib.contextmanager
def opened(conn_id: str, table: str) -> Iterator[Ledger]:
    """The ledger, to be read; nothing is created.

    :raises LedgerNotShown: it is not configured, not there, or cannot be reached
    """
    name = LedgerName(conn_id, table)
    if name not in configured():
        raise LedgerNotShown("This ledger is not among those of [payarc] ledgers in Airflow's configuration.", 404)
    with contextlib.ExitStack() as stack:
        engine = _engine(name)
        stack.callback(engine.dispose)
        try:
            yield _existing(engine, name)
        except LedgerUnavailable as error:
            raise LedgerNotShown(f"The ledger's database cannot be reached. {error}.", 503) from None
        except PayarcError as error:
            raise LedgerNotShown(f"The ledger cannot be read. {error}.", 503) from None


def _existing(engine: Engine, name: LedgerName) -> Ledger:
    missing = f'The connection "{name.conn_id}" has no ledger "{name.table}" yet: the first run of a DAG makes it.'
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if file and not Path(file).exists():  # connecting would create it
        raise LedgerNotShown(missing, 404)
    ledger = Ledger(engine, name.table)
    if not ledger.open(create=False):
        raise LedgerNotShown(missing, 404)
    return ledger


def _engine(name: LedgerName) -> Engine:
    try:
        engine = sql_engine(name.conn_id, "[payarc] ledgers")
    except (AirflowException, PayarcConfigError) as error:
        raise LedgerNotShown(f'The connection "{name.conn_id}" cannot be used. {error}', 503) from None
    except Exception as error:  # noqa: BLE001 - hooks and drivers raise what they like, and its text may hold a password
        raise LedgerNotShown(
            f'The connection "{name.conn_id}" cannot be used ({type(error).__name__}): see that its fields are right '
            "and its database's driver is installed where Airflow's API server runs.",
            503,
        ) from None
    if engine.dialect.name != "sqlite":
        event.listen(engine, "do_connect", _soon)
    return engine


def _soon(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    """Who waits for a page does not wait for the minutes that TCP takes to give up."""
    parameters.setdefault("connect_timeout", CONNECT_SECONDS)
