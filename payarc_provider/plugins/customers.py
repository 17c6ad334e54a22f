"""The plugin that Airflow loads, in most of its processes: so it imports nothing but Airflow's own class."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/payarc"


class LazyApp:
    """An ASGI application that is imported and built when its first request comes."""

    @cached_property
    def _app(self) -> ASGIApp:
        from payarc_provider.plugins.app import create_app

        return create_app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)


class PayarcCustomersPlugin(AirflowPlugin):
    """A page in Airflow's UI, from Airflow 3.1 on; below that it does nothing."""

    name = "payarc_customers"
    fastapi_apps = [{"name": "PayArc customers", "app": LazyApp(), "url_prefix": PREFIX}]  # noqa: RUF012 - Airflow's form
    external_views = [  # noqa: RUF012
        {
            "name": "PayArc customers",
            "href": f"{PREFIX.removeprefix('/')}/",  # relative to where Airflow is, which may be below a path
            "destination": "nav",
            "category": "browse",
            "url_route": "payarc-customers",
        }
    ]
