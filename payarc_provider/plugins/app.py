"""The page's routes: access checks and content.

Every route asks Airflow's auth manager twice: may the user see plugins' pages, and may the user read the ledger's
connection (on the first page: any connection). No route writes.
"""

from __future__ import annotations

import contextlib
import datetime
import shlex
from collections.abc import Iterator
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_connection, requires_access_view
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from payarc_provider.api.fields import FIELDS
from payarc_provider.plugins.html import HEADERS, chart, render
from payarc_provider.plugins.ledgers import LedgerNotShown, configured, open_ledger
from payarc_provider.plugins.links import Links, unseal
from payarc_provider.sync.keys import looks_like_email
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.overview import Overview, RunCounts

PAGE = 50
LATEST_RUNS = 20
FIRST_REJECTED = 10

router = APIRouter(default_response_class=HTMLResponse)
_HTTP_ERRORS = {
    401: "Log in to Airflow to see this page.",
    403: "You are not allowed to see this page. You need permission to see plugins' pages and to read the ledger's "
    "connection.",
    404: "This page does not exist.",
}
_WHOLE_RECORD = "This concerns the record as a whole, or something that is not one of PayArc's fields."


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
    """The configured ledgers; redirects if there is only one."""
    links, names = _links(request), configured()
    if len(names) == 1:
        return RedirectResponse(links.ledger(names[0].conn_id, names[0].table))
    return _html("index.html", links=links, names=names)


@router.get("/{connection_id}/{table}")
def ledger(request: Request, connection_id: str, table: str) -> Response:
    """A ledger's accounts; redirects if there is only one."""
    with _open(request, connection_id, table) as (ledger, links):
        now, accounts = Overview(ledger).counts()
    if len(accounts) == 1:
        return RedirectResponse(links.for_account(accounts[0].account).overview())
    return _html("ledger.html", links=links, now=now, accounts=accounts)


@router.get("/{connection_id}/{table}/account")
def account(request: Request, connection_id: str, table: str, account: str) -> Response:
    """An account: its counts, its latest runs with a chart, and its first rejected records."""
    with _open(request, connection_id, table, account) as (ledger, links):
        overview = Overview(ledger, account)
        now, (counts, *_) = overview.counts()
        if not sum(counts.states.values()) and account not in Overview(ledger).accounts():
            raise LedgerNotShown("This ledger has no such account.", 404)
        runs, first_rejected = overview.runs(LATEST_RUNS + 1), overview.rejected_by_key(FIRST_REJECTED)
    latest = runs[:LATEST_RUNS]
    return _html(
        "account.html",
        links=links,
        now=now,
        counts=counts,
        runs=latest,
        more_runs=len(runs) > LATEST_RUNS,
        chart=chart(latest, LATEST_RUNS),
        rows=first_rejected,
    )


@router.get("/{connection_id}/{table}/rejected")
def rejected(request: Request, connection_id: str, table: str, account: str, after: str | None = None) -> Response:
    """The rejected records, by key."""
    with _open(request, connection_id, table, account) as (ledger, links):
        rows = Overview(ledger, account).rejected_by_key(PAGE + 1, _key(ledger, after))
    return _html("rejected.html", links=links, **_page_of(rows, after))


@router.get("/{connection_id}/{table}/pending")
def pending(request: Request, connection_id: str, table: str, account: str, after: str | None = None) -> Response:
    """The pending records, by key."""
    with _open(request, connection_id, table, account) as (ledger, links):
        rows = Overview(ledger, account).pending_by_key(PAGE + 1, _key(ledger, after))
    return _html("pending.html", links=links, **_page_of(rows, after))


@router.get("/{connection_id}/{table}/runs")
def runs(request: Request, connection_id: str, table: str, account: str, after: str | None = None) -> Response:
    """The DAG runs, latest first."""
    with _open(request, connection_id, table, account) as (ledger, links):
        last_run = None
        if after is not None:
            last, dag_id, run_id = _unsealed(ledger, after, list)
            last_run = RunCounts(dag_id, run_id, datetime.datetime.fromisoformat(last), 0, 0, 0, 0)
        rows = Overview(ledger, account).runs(PAGE + 1, last_run)
    return _html("runs.html", links=links, **_page_of(rows, after))


@router.get("/{connection_id}/{table}/record")
def record(request: Request, connection_id: str, table: str, account: str, at: str) -> Response:
    """A rejected record: for each field the reasons, and the rule that PayArc documents."""
    with _open(request, connection_id, table, account) as (ledger, links):
        row = Overview(ledger, account).rejected_record(_unsealed(ledger, at, str))
    if row is None:
        raise LedgerNotShown("This record is no longer rejected: a run has tried it again.", 404)
    errors = [
        (field, reasons, FIELDS[field].text if field in FIELDS else _WHOLE_RECORD)
        for field, reasons in row.errors.items()
    ]
    key = "KEY" if looks_like_email(row.key) else shlex.quote(row.key)
    retry = f"--account {shlex.quote(account)} retry {key}"
    return _html("record.html", links=links, row=row, errors=errors, retry=retry)


@contextlib.contextmanager
def _open(request: Request, conn_id: str, table: str, account: str = "") -> Iterator[tuple[Ledger, Links]]:
    with open_ledger(conn_id, table) as ledger:
        links = _links(request, conn_id=conn_id, table=table, ledger_id=ledger.ledger_id, account=account)
        yield ledger, links


def _links(request: Request, **shown: str) -> Links:
    return Links(request.scope.get("root_path", ""), request.scope.get("app_root_path", ""), **shown)


def _page_of(rows: list[Any], after: str | None) -> dict[str, Any]:
    """A page, of rows read with a limit of ``PAGE + 1``: one row too many means that there is a next page."""
    last = None
    if len(rows) > PAGE:
        last = rows[PAGE - 1] if isinstance(rows[PAGE - 1], RunCounts) else rows[PAGE - 1].key
    return {"rows": rows[:PAGE], "next": last, "first": after is None}


def _key(ledger: Ledger, sealed: str | None) -> str | None:
    return None if sealed is None else _unsealed(ledger, sealed, str)


def _unsealed(ledger: Ledger, sealed: str, kind: type) -> Any:
    try:
        value = unseal(ledger.ledger_id, sealed)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise LedgerNotShown("This address is not valid for this ledger.", 404)
    return value


def _html(template: str, status: int = 200, **context: Any) -> Response:
    return HTMLResponse(render(template, **context), status, HEADERS)


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = _HTTP_ERRORS.get(status, "This page cannot be shown.")
    return _html("message.html", status, links=_links(request), message_title=f"Error {status}", text=text)


def _not_shown(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, LedgerNotShown) else 500
    return _html("message.html", status, links=_links(request), message_title="Nothing to show", text=str(error))
