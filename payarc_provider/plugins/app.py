"""The page's addresses, and who may see them.

Every address asks Airflow's auth manager twice: for the right to see plugins' pages, and for the right to read the
ledger's connection (on the first page, connections at all). Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_connection, requires_access_view
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from payarc_provider.plugins import views
from payarc_provider.plugins.addresses import Addresses
from payarc_provider.plugins.ledgers import LedgerNotShown, configured, opened
from payarc_provider.plugins.render import HEADERS, render
from payarc_provider.sync.ledger import Ledger

router = APIRouter(default_response_class=HTMLResponse)
_SAID = {
    401: "Log in to Airflow to see this page.",
    403: "Your account in Airflow may not see this page. It takes the right to see plugins' pages, and the right to "
    "read the ledger's connection.",
    404: "There is no such page.",
}


def create_app() -> FastAPI:
    """The application that Airflow's API server mounts."""
    rights = [Depends(requires_access_view(AccessView.PLUGINS)), Depends(requires_access_connection("GET"))]
    app = FastAPI(title="PayArc customers", docs_url=None, redoc_url=None, openapi_url=None, dependencies=rights)
    app.include_router(router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(LedgerNotShown, _not_shown)
    return app


@router.get("/")
def index(request: Request) -> Response:
    """The ledgers; if there is one only, that one."""
    go, names = _addresses(request), configured()
    if len(names) == 1:
        return RedirectResponse(go.ledger(names[0].conn_id, names[0].table))
    return _html(render("index.html", go=go, names=names))


@router.get("/{connection_id}/{table}")
def ledger(request: Request, connection_id: str, table: str) -> Response:
    """A ledger's accounts; if there is one only, that one."""
    with opened(connection_id, table) as found:
        go = _addresses(request, found, connection_id, table)
        context = views.ledger(found)
    if len(context["accounts"]) == 1:
        return RedirectResponse(go.of(context["accounts"][0].account).overview())
    return _html(render("ledger.html", go=go, **context))


@router.get("/{connection_id}/{table}/account")
def account(request: Request, connection_id: str, table: str, account: str) -> Response:
    """An account: how many, its latest runs, and some refused records."""
    return _of_account(request, connection_id, table, account, "account.html", views.account)


@router.get("/{connection_id}/{table}/rejected")
def rejected(request: Request, connection_id: str, table: str, account: str, after: str | None = None) -> Response:
    """The refused records, by key."""
    return _of_account(request, connection_id, table, account, "rejected.html", views.rejected, after)


@router.get("/{connection_id}/{table}/pending")
def pending(request: Request, connection_id: str, table: str, account: str, after: str | None = None) -> Response:
    """The pending records, by key."""
    return _of_account(request, connection_id, table, account, "pending.html", views.pending, after)


@router.get("/{connection_id}/{table}/runs")
def runs(request: Request, connection_id: str, table: str, account: str, after: str | None = None) -> Response:
    """The DAG runs, the latest first."""
    return _of_account(request, connection_id, table, account, "runs.html", views.runs, after)


@router.get("/{connection_id}/{table}/record")
def record(request: Request, connection_id: str, table: str, account: str, at: str) -> Response:
    """One refused record, and what there is to mend."""
    return _of_account(request, connection_id, table, account, "record.html", views.record, at)


def _of_account(
    request: Request,
    conn_id: str,
    table: str,
    account: str,
    template: str,
    view: Callable[[Ledger, str, str | None], views.View],
    place: str | None = None,
) -> Response:
    with opened(conn_id, table) as found:
        go = _addresses(request, found, conn_id, table).of(account)
        context = view(found, account, place)
    return _html(render(template, go=go, **context))


def _addresses(request: Request, found: Ledger | None = None, conn_id: str = "", table: str = "") -> Addresses:
    root, airflow = request.scope.get("root_path", ""), request.scope.get("app_root_path", "")
    return Addresses(root, airflow, conn_id, table, found.ledger_id if found else "")


def _html(text: str, status: int = 200) -> Response:
    return HTMLResponse(text, status, HEADERS)


def _message(request: Request, title: str, text: str, status: int) -> Response:
    return _html(render("message.html", go=_addresses(request), message_title=title, text=text), status)


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _message(request, f"Not shown ({status})", _SAID.get(status, "This cannot be shown."), status)


def _not_shown(request: Request, error: Exception) -> Response:
    return _message(request, "Nothing to show", str(error), error.status if isinstance(error, LedgerNotShown) else 500)
