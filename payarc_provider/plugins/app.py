"""The page's routes: access checks and content.

Every route asks Airflow's auth manager twice: may the user see plugins' pages, and may the user read the ledger's
connection (on the first page: any connection). No route writes.

The routes run in a few threads of the page's own, so that a slow ledger never holds up Airflow's API.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import shlex
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any
from urllib.parse import parse_qs

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_connection, requires_access_view
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from payarc_provider.api.fields import FIELDS
from payarc_provider.ledger.rejected_csv import as_csv
from payarc_provider.plugins.cache import Cache
from payarc_provider.plugins.html import HEADERS, charts, render
from payarc_provider.plugins.ledgers import LedgerNotShown, check_configured, configured, open_ledger
from payarc_provider.plugins.links import Links, unseal
from payarc_provider.sync.keys import display_key, natural_order
from payarc_provider.sync.ledger.overview import Overview
from payarc_provider.sync.ledger.runs import DagRunCounts
from payarc_provider.sync.ledger.snapshot import COUNTED, LISTED, AccountStates, Snapshot, all_accounts, take_snapshot
from payarc_provider.sync.rejections import reasons

PAGE = 50
LATEST_RUNS = 20
FIRST_GROUPS = 10
CACHED_SECONDS = 10.0
MAX_SEARCHED = 255  # characters; no key has more
_MAX_FORM = 10_000  # bytes

router = APIRouter(default_response_class=HTMLResponse)
cache = Cache(CACHED_SECONDS)
_threads = ThreadPoolExecutor(4, thread_name_prefix="payarc-page")
_HTTP_ERRORS = {
    401: "Log in to Airflow to see this page.",
    403: "You are not allowed to see this page. You need permission to see plugins' pages and to read the ledger's "
    "connection.",
    404: "This page does not exist.",
}
_NO_FIELD = "This concerns the record as a whole, or something that is not one of PayArc's fields."


def create_app() -> FastAPI:
    """The application that Airflow's API server mounts."""
    rights = [Depends(requires_access_view(AccessView.PLUGINS)), Depends(requires_access_connection("GET"))]
    app = FastAPI(title="PayArc customers", docs_url=None, redoc_url=None, openapi_url=None, dependencies=rights)
    app.include_router(router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(LedgerNotShown, _not_shown)
    return app


def _in_own_thread(route: Callable[..., Response]) -> Callable[..., Awaitable[Response]]:
    """Run a route in one of the page's threads. FastAPI would run it in those that Airflow's own routes need."""

    @functools.wraps(route)
    async def run(*given: Any, **named: Any) -> Response:
        return await asyncio.get_running_loop().run_in_executor(_threads, functools.partial(route, *given, **named))

    return run


# ---- ledgers and accounts --------------------------------------------------------------------------------------------


@router.get("/")
@_in_own_thread
def index(request: Request) -> Response:
    """The configured ledgers; redirects if there is only one."""
    links, names = _links(request), configured()
    if len(names) == 1:
        return RedirectResponse(links.ledger(names[0].conn_id, names[0].table))
    return _html("index.html", links=links, names=names)


@router.get("/{connection_id}/{table}")
@_in_own_thread
def ledger(request: Request, connection_id: str, table: str) -> Response:
    """A ledger's accounts; redirects if there is only one."""
    accounts = _accounts(connection_id, table)
    links = _links(request, conn_id=connection_id, table=table)
    if len(accounts.names) == 1:
        return RedirectResponse(links.for_account(accounts.names[0]).overview())
    return _html("ledger.html", links=links, accounts=accounts)


@router.get("/{connection_id}/{table}/account")
@_in_own_thread
def account(request: Request, connection_id: str, table: str, account: str) -> Response:
    """An account: its counts, its rejected records by reason, and its latest runs with a chart."""
    shown, links = _snapshot(request, connection_id, table, account)
    if not (shown.runs or any(shown.states.values())) and account not in _accounts(connection_id, table).names:
        raise LedgerNotShown("This ledger has no such account.", 404)
    latest = shown.runs[:LATEST_RUNS]
    return _html(
        "account.html",
        links=links,
        shown=shown,
        groups=shown.groups[:FIRST_GROUPS],
        more_groups=len(shown.groups) - FIRST_GROUPS,
        runs=latest,
        charts=charts(latest),
    )


# ---- lists -----------------------------------------------------------------------------------------------------------


@router.get("/{connection_id}/{table}/rejected")
@_in_own_thread
def rejected(
    request: Request, connection_id: str, table: str, account: str, after: str | None = None, reason: str | None = None
) -> Response:
    """The rejected records by key: all, or those with one reason."""
    shown, links = _snapshot(request, connection_id, table, account)
    rows, only = shown.rejected, None
    if reason is not None:
        only = _unsealed(shown.ledger_id, reason, str)
        rows = [row for row in rows if only in reasons(row.errors)]
    page = _page_by_key(rows, shown.ledger_id, after)
    return _html("rejected.html", links=links, shown=shown, reason=only, total=len(rows), **page)


@router.get("/{connection_id}/{table}/rejected.csv")
@_in_own_thread
def rejected_csv(request: Request, connection_id: str, table: str, account: str) -> Response:
    """The rejected records as a file."""
    shown, _ = _snapshot(request, connection_id, table, account)
    disposition = f'attachment; filename="rejected-{shown.at:%Y%m%d-%H%M%S}.csv"'
    headers = {**HEADERS, "Content-Disposition": disposition}
    return Response("".join(as_csv(shown.rejected)), headers=headers, media_type="text/csv; charset=utf-8")


@router.get("/{connection_id}/{table}/pending")
@_in_own_thread
def pending(request: Request, connection_id: str, table: str, account: str, after: str | None = None) -> Response:
    """The pending records, by key."""
    shown, links = _snapshot(request, connection_id, table, account)
    return _html("pending.html", links=links, shown=shown, **_page_by_key(shown.pending, shown.ledger_id, after))


@router.get("/{connection_id}/{table}/runs")
@_in_own_thread
def runs(request: Request, connection_id: str, table: str, account: str, after: str | None = None) -> Response:
    """The DAG runs, latest first."""
    shown, links = _snapshot(request, connection_id, table, account)
    rows = shown.runs
    if after is not None:
        began, dag_id, run_id = _unsealed(shown.ledger_id, after, list)
        last = (datetime.datetime.fromisoformat(began), dag_id, run_id)
        rows = [run for run in rows if (run.began, run.dag_id, run.run_id) < last]
    return _html("runs.html", links=links, shown=shown, **_page_of(rows, after))


# ---- records ---------------------------------------------------------------------------------------------------------


@router.get("/{connection_id}/{table}/record")
@_in_own_thread
def record(request: Request, connection_id: str, table: str, account: str, at: str) -> Response:
    """A rejected record: for each field the reasons, and the rule that PayArc documents."""
    with open_ledger(connection_id, table) as ledger:
        row = Overview(ledger, account).rejected_record(_unsealed(ledger.ledger_id, at, str))
    if row is None:
        raise LedgerNotShown("This record is no longer rejected: a run has tried it again.", 404)
    errors = [(name, texts, FIELDS[name].guide if name in FIELDS else _NO_FIELD) for name, texts in row.errors.items()]
    key = shlex.quote(row.key) if display_key(row.key) == row.key else "KEY"
    retry = f"--account {shlex.quote(account)} retry {key}"
    links = _links(request, conn_id=connection_id, table=table, ledger_id=ledger.ledger_id, account=account)
    return _html("record.html", links=links, row=row, errors=errors, retry=retry)


async def _searched(request: Request) -> str:
    """The text in the form's field ``key``."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM:
            raise HTTPException(413)
    return parse_qs(body.decode(errors="replace")).get("key", [""])[0].strip()[:MAX_SEARCHED]


@router.post("/{connection_id}/{table}/search")
@_in_own_thread
def send_search(
    request: Request, connection_id: str, table: str, account: str, key: Annotated[str, Depends(_searched)]
) -> Response:
    """Redirects to what is searched for. The form posts it to keep the key out of addresses."""
    _, links = _snapshot(request, connection_id, table, account)
    return RedirectResponse(links.search(key) if key else links.overview(), 303)


@router.get("/{connection_id}/{table}/search")
@_in_own_thread
def search(request: Request, connection_id: str, table: str, account: str, key: str) -> Response:
    """The records whose key is, or begins with, what is searched for."""
    with open_ledger(connection_id, table) as ledger:
        start = _unsealed(ledger.ledger_id, key, str)
        overview = Overview(ledger, account)
        found, erased = overview.find(start, PAGE + 1), overview.erased(start)
    links = _links(request, conn_id=connection_id, table=table, ledger_id=ledger.ledger_id, account=account)
    rows = sorted(found[:PAGE], key=lambda row: natural_order(row.key))
    has_more = len(found) > PAGE
    return _html("search.html", links=links, start=display_key(start), rows=rows, has_more=has_more, erased=erased)


# ---- shared ----------------------------------------------------------------------------------------------------------


def _accounts(conn_id: str, table: str) -> AccountStates:
    check_configured(conn_id, table)

    def read() -> AccountStates:
        with open_ledger(conn_id, table) as ledger:
            return all_accounts(ledger)

    return cache.get((conn_id, table), read)


def _snapshot(request: Request, conn_id: str, table: str, account: str) -> tuple[Snapshot, Links]:
    check_configured(conn_id, table)

    def read() -> Snapshot:
        with open_ledger(conn_id, table) as ledger:
            return take_snapshot(ledger, account)

    shown = cache.get((conn_id, table, account), read)
    return shown, _links(request, conn_id=conn_id, table=table, ledger_id=shown.ledger_id, account=account)


def _links(request: Request, **shown: str) -> Links:
    return Links(request.scope.get("root_path", ""), request.scope.get("app_root_path", ""), **shown)


def _page_by_key(rows: Sequence[Any], ledger_id: str, after: str | None) -> dict[str, Any]:
    """The page after this key, of rows in natural order."""
    start = 0
    if after is not None:
        last = natural_order(_unsealed(ledger_id, after, str))
        start = bisect_right(rows, last, key=lambda row: natural_order(row.key))
    return _page_of(rows[start : start + PAGE + 1], after)


def _page_of(rows: Sequence[Any], after: str | None) -> dict[str, Any]:
    """A page of rows; one row too many means that there is a next page."""
    last = None
    if len(rows) > PAGE:
        last = rows[PAGE - 1] if isinstance(rows[PAGE - 1], DagRunCounts) else rows[PAGE - 1].key
    return {"rows": rows[:PAGE], "next": last, "first": after is None}


def _unsealed(ledger_id: str, sealed: str, kind: type) -> Any:
    try:
        value = unseal(ledger_id, sealed)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise LedgerNotShown("This address is not valid for this ledger.", 404)
    return value


def _html(template: str, status: int = 200, **context: Any) -> Response:
    return HTMLResponse(render(template, most_counted=COUNTED, most_listed=LISTED, **context), status, HEADERS)


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = _HTTP_ERRORS.get(status, "This page cannot be shown.")
    return _html("message.html", status, links=_links(request), message_title=f"Error {status}", text=text)


def _not_shown(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, LedgerNotShown) else 500
    return _html("message.html", status, links=_links(request), message_title="Nothing to show", text=str(error))
