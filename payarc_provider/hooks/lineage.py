"""What Airflow's hook lineage is told: which assets a hook has read and written.

Airflow collects it only where a plugin wants to read it, such as that of the OpenLineage provider.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

log = logging.getLogger(__name__)

# Scheme and port of the assets that Airflow's own providers make of tables.
_TABLES = {"postgresql": ("postgres", 5432), "mysql": ("mysql", 3306), "mariadb": ("mysql", 3306)}


def report_read(context: Any, uri: str | None) -> None:
    """The asset was read.

    :param context: the hook or operator that did it
    :param uri: None reports nothing
    """
    _report(context, uri, "add_input_asset")


def report_written(context: Any, uri: str | None) -> None:
    """The asset was written; parameters as for `report_read`."""
    _report(context, uri, "add_output_asset")


def _report(context: Any, uri: str | None, method: str) -> None:
    if uri is None:
        return
    try:
        from airflow.providers.common.compat.lineage import hook

        collector: Any = hook.get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        getattr(collector, method)(context=context, uri=uri)
    except Exception as error:  # noqa: BLE001 - no plugin of lineage may stop a run
        log.debug("The lineage of %s was not taken: %s", uri, type(error).__name__)


def table_uri(engine: Engine, schema: str | None, table: str) -> str | None:
    """The URI of a table's asset as Airflow's own providers have it, None where they have none."""
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
        except sqlalchemy.exc.SQLAlchemyError:  # whether the source can be read is for the source to say
            return None
    return f"{scheme}://{url.host}:{url.port or port}/" + "/".join(quote(part, safe="") for part in path)
