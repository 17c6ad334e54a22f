"""The ledgers that the page shows: how they are configured, and how one is opened for reading."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, conf
from sqlalchemy import event

from payarc_provider.exceptions import PayarcConfigError, PayarcError
from payarc_provider.hooks.sql import sql_engine
from payarc_provider.sync.ledger import Ledger, LedgerUnavailable
from payarc_provider.sync.ledger.time_limits import STATEMENT_OPTION

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

DEFAULT_TABLE = "payarc_customers"
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class LedgerName:
    """A ledger as it is named in Airflow's configuration.

    :param conn_id: the Airflow connection to its database
    :param table: its table
    """

    conn_id: str
    table: str


class LedgerNotShown(Exception):
    """Nothing can be shown. The message says why and what to do.

    :param status: the HTTP status of the page
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def configured() -> list[LedgerName]:
    """The ledgers in ``[payarc] ledgers``: ``conn_id`` or ``conn_id:table``, separated by commas."""
    names = []
    for part in conf.get("payarc", "ledgers", fallback="").replace("\n", ",").split(","):
        conn_id, _, table = part.strip().partition(":")
        if conn_id:
            names.append(LedgerName(conn_id.strip(), table.strip() or DEFAULT_TABLE))
    return list(dict.fromkeys(names))


def check_configured(conn_id: str, table: str) -> LedgerName:
    """The ledger with this connection and table.

    :raises LedgerNotShown: it is not configured
    """
    name = LedgerName(conn_id, table)
    if name not in configured():
        raise LedgerNotShown("This ledger is not listed under [payarc] ledgers in Airflow's configuration.", 404)
    return name


@contextlib.contextmanager
def open_ledger(conn_id: str, table: str) -> Iterator[Ledger]:
    """Open a ledger for reading, with limits on the time that this takes; creates nothing.

    :raises LedgerNotShown: the ledger is not configured, does not exist or cannot be reached
    """
    name = check_configured(conn_id, table)
    with contextlib.ExitStack() as stack:
        engine = _engine(name)
        stack.callback(engine.dispose)
        try:
            yield _existing(engine, name)
        except LedgerUnavailable as error:
            raise LedgerNotShown(
                f"The ledger's database cannot be reached, or takes longer than {STATEMENT_SECONDS} s. {error}.", 503
            ) from None
        except PayarcError as error:
            raise LedgerNotShown(f"The ledger cannot be read. {error}.", 503) from None


def _existing(engine: Engine, name: LedgerName) -> Ledger:
    missing = f'The connection "{name.conn_id}" has no ledger "{name.table}" yet. The first run of a DAG creates it.'
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if file and not Path(file).exists():  # connecting would create the file
        raise LedgerNotShown(missing, 404)
    ledger = Ledger(engine, name.table)
    if not ledger.open(create=False):
        raise LedgerNotShown(missing, 404)
    return ledger


def _engine(name: LedgerName) -> Engine:
    try:
        engine = sql_engine(name.conn_id, "[payarc] ledgers", ledger=True)
    except (AirflowNotFoundException, PayarcConfigError) as error:
        raise LedgerNotShown(f'The connection "{name.conn_id}" cannot be used. {error}', 503) from None
    except Exception as error:  # noqa: BLE001 - hooks and drivers raise anything, and its text may contain a password
        raise LedgerNotShown(
            f'The connection "{name.conn_id}" cannot be used ({type(error).__name__}). Check its fields, and that '
            "the database driver is installed where Airflow's API server runs.",
            503,
        ) from None
    engine.update_execution_options(**{STATEMENT_OPTION: STATEMENT_SECONDS})
    if engine.dialect.name != "sqlite":
        event.listen(engine, "do_connect", _set_timeout)
    return engine


def _set_timeout(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    """Without it, a user would wait the minutes that TCP takes to give up."""
    parameters.setdefault("connect_timeout", CONNECT_SECONDS)
