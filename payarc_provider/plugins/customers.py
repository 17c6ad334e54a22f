"""The plugin that adds the page to Airflow's UI.

Airflow loads it in most of its processes, so this module imports nothing but Airflow's own class.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/payarc"


class LazyApp:
    """An ASGI application that is imported and built on its first request."""

    @cached_property
    def _app(self) -> ASGIApp:
        from payarc_provider.plugins.app import create_app

        return create_app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        await self._app(scope, receive, send)


class PayarcCustomersPlugin(AirflowPlugin):
    """The page in Airflow's UI. It needs Airflow 3.1; in earlier versions the plugin does nothing."""

    name = "payarc_customers"
    fastapi_apps = [{"name": "PayArc customers", "app": LazyApp(), "url_prefix": PREFIX}]  # noqa: RUF012 - as Airflow expects it
    external_views = [  # noqa: RUF012
        {
            "name": "PayArc customers",
            "href": f"{PREFIX.removeprefix('/')}/",  # relative, because Airflow itself may be served below a path
            "destination": "nav",
            "category": "browse",
            "url_route": "payarc-customers",
        }
    ]
