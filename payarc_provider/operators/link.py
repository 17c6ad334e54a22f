"""The link from a task to PayArc's dashboard."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, BaseOperatorLink

from payarc_provider.exceptions import PayarcError

DASHBOARDS = {"test": "https://testdashboard.payarc.net/", "live": "https://dashboard.payarc.net/"}
"""PayArc's guides "Payarc Connect - Getting Started" (test) and those that tell where to find a token (live)."""


class PayarcDashboardLink(BaseOperatorLink):
    """PayArc's dashboard of the connection's environment; no link for a sandbox or another host.

    Airflow 3 asks for it when the task ends. Airflow 2 asks in its web server, where a ``payarc_conn_id`` that is a
    template or is mapped over is not known, so there is no link then.
    """

    name = "PayArc dashboard"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The dashboard's address, or an empty text; it never fails the task."""
        from payarc_provider.hooks.payarc import PayarcHook

        try:
            return DASHBOARDS.get(PayarcHook(operator.payarc_conn_id).settings.place, "")
        except (PayarcError, AirflowException, AttributeError):
            return ""
