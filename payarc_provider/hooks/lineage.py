"""Airflow's hook lineage: which assets a hook or operator has read and written.

Airflow collects it only if a plugin reads it, such as the one of the OpenLineage provider.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

log = logging.getLogger(__name__)

# Scheme and default port of table assets in Airflow's own providers.
_TABLES = {"postgresql": ("postgres", 5432), "mysql": ("mysql", 3306), "mariadb": ("mysql", 3306)}


def report_read(context: Any, uri: str | None) -> None:
    """Report that an asset was read. Never raises.

    :param context: the hook or operator that read it
    :param uri: the asset; None reports nothing
    """
    _report(context, uri, "add_input_asset")


def report_written(context: Any, uri: str | None) -> None:
    """Report that an asset was written; see `report_read`."""
    _report(context, uri, "add_output_asset")


def _report(context: Any, uri: str | None, method: str) -> None:
    if uri is None:
        return
    try:
        from airflow.providers.common.compat.lineage import hook

        collector: Any = hook.get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        getattr(collector, method)(context=context, uri=uri)
    except Exception as error:  # noqa: BLE001 - lineage must never fail a run
        log.debug("Could not report the lineage of %s: %s", uri, type(error).__name__)


def table_uri(engine: Engine, schema: str | None, table: str) -> str | None:
    """The URI of a table's asset, as in Airflow's own providers; None where they have none."""
    import sqlalchemy

    url = engine.url
    scheme, port = _TABLES.get(url.get_backend_name(), (None, 0))
    if scheme is None or not url.host or not url.database:
        return None
    if scheme == "mysql":
        path = [schema or url.database, table]
    else:
        try:
            path = [url.database, schema or sqlalchemy.inspect(engine).default_schema_name or "", table]
        except sqlalchemy.exc.SQLAlchemyError:  # reading the source will report it
            return None
    return f"{scheme}://{url.host}:{url.port or port}/" + "/".join(quote(part, safe="") for part in path)
