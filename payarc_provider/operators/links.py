"""The link from a task to PayArc's dashboard."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, BaseOperatorLink

from payarc_provider.exceptions import PayarcError

DASHBOARDS = {"test": "https://testdashboard.payarc.net/", "live": "https://dashboard.payarc.net/"}
"""As named in PayArc's guides: "Payarc Connect - Getting Started" (test), and those on finding a token (live)."""


class PayarcDashboardLink(BaseOperatorLink):
    """PayArc's dashboard for the connection's environment; no link for a sandbox or another host.

    Airflow 3 resolves the link when the task ends. Airflow 2 resolves it in the web server, where a templated or mapped
    ``payarc_conn_id`` is unknown, so such a task has no link there.
    """

    name = "PayArc dashboard"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The dashboard's address, or an empty string. Never fails the task."""
        from payarc_provider.hooks.payarc import PayarcHook

        try:
            return DASHBOARDS.get(PayarcHook(operator.payarc_conn_id).settings.environment, "")
        except (PayarcError, AirflowException, AttributeError):
            return ""
