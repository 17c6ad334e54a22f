"""The Airflow asset for a merchant's customers: ``payarc://<environment>/<account>/customers``.

OpenLineage and Airflow's hook lineage name the operator's output by it. On Airflow 2.11, assets are Datasets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, urlsplit

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset
    from airflow.providers.common.compat.sdk import Asset

SCHEME = "payarc"


def customers_uri(environment: str, account: str) -> str:
    """
    The URI of a merchant's customers.

    :param environment: ``test`` or ``live``; for a connection with another host, that host and its port
    :param account: the connection's ``account``, or the user named in its token
    """
    return f"{SCHEME}://{environment}/{quote(account, safe='')}/customers"


def customers_asset(environment: str, account: str) -> Asset:
    """
    The asset for a merchant's customers, to use in ``outlets`` and ``schedule``.

    :param environment: ``test`` or ``live``
    :param account: the connection's ``account``, or the user named in its token
    """
    return create_asset(environment=environment, account=account)


def create_asset(*, environment: str, account: str, extra: dict[str, Any] | None = None) -> Asset:
    """Airflow's asset factory for this scheme."""
    from airflow.providers.common.compat.sdk import Asset

    return Asset(uri=customers_uri(environment, account), extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Airflow's URI sanitizer for this scheme.

    :raises ValueError: if the URI names no environment
    """
    if not uri.netloc:
        raise ValueError(
            f"URI format {SCHEME}:// must name an environment, such as {SCHEME}://test/<account>/customers"
        )
    return uri._replace(netloc=uri.netloc.lower())


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> OpenLineageDataset:
    """The OpenLineage dataset for an asset of this scheme."""
    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset

    namespace, name = openlineage_name(asset.uri)
    return OpenLineageDataset(namespace=namespace, name=name)


def openlineage_name(uri: str) -> tuple[str, str]:
    """The OpenLineage namespace and name for a URI of this scheme."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")


def is_payarc_asset(outlet: object) -> bool:
    """Whether an outlet is an asset of this scheme."""
    uri = getattr(outlet, "uri", None)
    return isinstance(uri, str) and uri.startswith(f"{SCHEME}://")
