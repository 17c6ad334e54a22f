"""The page "PayArc customers" in Airflow's own API server application, with every kind of ledger database."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import sqlalchemy as sa

from payarc_provider.hooks.sql import sql_engine
from payarc_provider.plugins import app as page_app
from payarc_provider.plugins import ledgers
from payarc_provider.plugins.cache import Cache
from payarc_provider.plugins.ledgers import LedgerName, configured
from payarc_provider.sync.ledger import EPOCH, Claimant, Ledger, Resolution
from payarc_provider.sync.ledger.erasure import Erasure
from payarc_provider.sync.ledger.overview import Overview
from payarc_provider.sync.ledger.runs import RunLog, TaskRunFact
from payarc_provider.sync.records import RecordReader

if tuple(map(int, version("apache-airflow").split(".")[:2])) < (3, 1):
    pytest.skip("the page is for Airflow 3.1 and newer", allow_module_level=True)

USERS = {"ada": "admin", "olga": "op", "vera": "viewer"}
ACCOUNT = "live/main"
ME = Claimant(ACCOUNT, "a" * 32, "table people of crm", 120, 60, "sync", "scheduled__1", "create")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Airflow's API server application, with a login."""
    from airflow.api_fastapi.app import create_app, purge_cached_app
    from airflow.utils.db import initdb

    initdb()
    passwords = tmp_path_factory.mktemp("auth") / "passwords.json"
    passwords.write_text(json.dumps({name: f"{name}-pass" for name in USERS}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")  # as in the API server
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "False")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", ",".join(f"{n}:{r}" for n, r in USERS.items()))
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        purge_cached_app()
        yield create_app()
        purge_cached_app()


@pytest.fixture(scope="module")
def browser(app: Any) -> Iterator[Any]:
    """A client that has not logged in."""
    from starlette.testclient import TestClient

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def tokens(browser: Any) -> dict[str, str]:
    """User → the token that Airflow issues at login."""
    found = {}
    for name in USERS:
        response = browser.post("/auth/token", json={"username": name, "password": f"{name}-pass"})
        found[name] = response.json()["access_token"]
    browser.cookies.clear()
    return found


class Pages:
    """The page as one user sees it, and a ledger to fill behind the connection ``crm``."""

    def __init__(self, browser: Any, token: str, database: Any) -> None:
        self._browser, self._token, self.database = browser, token, database
        self.table = database.name()
        self.ledger = Ledger(database.engine(), self.table)
        self.ledger.open()

    def get(self, path: str, status: int = 200, **parameters: Any) -> str:
        """A page without its style and script. Logs in with a cookie, as Airflow's UI does."""
        self._browser.cookies.set("_token", self._token)
        response = self._browser.get(f"/payarc{path}", params=parameters or None)
        self._browser.cookies.clear()
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        return re.sub(r"<(style|script)>.*?</\1>", "", response.text, flags=re.DOTALL)

    def page(self, name: str, account: str = ACCOUNT, **parameters: Any) -> str:
        """A page of the ledger."""
        return self.get(f"/crm/{self.table}/{name}", account=account, **parameters)

    def follow(self, page: str, text: str) -> str:
        """The page that a link leads to."""
        return self.get(link(page, text).removeprefix("/payarc"))

    def search(self, key: str) -> str:
        """What the form on a page leads to."""
        response = self.post_search(key)
        assert response.status_code == 303
        return self.get(response.headers["location"].removeprefix("/payarc"))

    def post_search(self, key: str) -> Any:
        """The response to the form on a page."""
        self._browser.cookies.set("_token", self._token)
        address = f"/payarc/crm/{self.table}/search"
        response = self._browser.post(address, params={"account": ACCOUNT}, data={"key": key}, follow_redirects=False)
        self._browser.cookies.clear()
        return response

    def csv(self) -> tuple[Any, list[list[str]]]:
        """The file of rejected records: the response, and its rows."""
        self._browser.cookies.set("_token", self._token)
        response = self._browser.get(f"/payarc/crm/{self.table}/rejected.csv", params={"account": ACCOUNT})
        self._browser.cookies.clear()
        return response, list(csv.reader(io.StringIO(response.text, newline="")))

    def ran(self, run_id: str, *, dag_id: str = "sync", ending: str | None = "finished", **counts: int) -> None:
        """Add what the ledger remembers about a run that began 60 s ago."""
        log = RunLog(self.ledger, ACCOUNT)
        began = log.begin(TaskRunFact(dag_id, run_id, "create", -1, ME.source))
        self.database.move_clock(60)
        if ending:
            log.end(dataclasses.replace(began, ending=ending, counts=counts))

    def claim(self, *keys: str, **changes: Any) -> Claimant:
        """Add rows that a run has claimed."""
        me = dataclasses.replace(ME, **changes)
        reader = RecordReader("id", None, self.ledger.ledger_id)
        records = [reader.read(0, {"id": key, "name": "Zoë Smith"}) for key in keys]
        self.ledger.claim(me, me.owner, records, {}, EPOCH)
        return me

    def created(self, *keys: str, **changes: Any) -> None:
        """Add rows with a customer."""
        me = self.claim(*keys, **changes)
        self.ledger.record(me, [Resolution(key, me.owner, customer_id=f"{me.account}-{key}"[:64]) for key in keys])

    def rejected(self, *keys: str, errors: dict[str, list[str]] | None = None, **changes: Any) -> None:
        """Add rejected records."""
        me = self.claim(*keys, **changes)
        self.ledger.record(me, [Resolution(key, me.owner, errors=errors or {"email": ["is taken"]}) for key in keys])


@pytest.fixture
def pages(browser: Any, tokens: dict[str, str], database: Any, monkeypatch: pytest.MonkeyPatch) -> Pages:
    made = Pages(browser, tokens["ada"], database)
    monkeypatch.setenv("AIRFLOW__PAYARC__LEDGERS", f"crm:{made.table}")
    monkeypatch.setattr(ledgers, "sql_engine", lambda *_, **__: database.engine())
    monkeypatch.setattr(page_app.cache, "seconds", 0)
    return made


def link(page: str, text: str) -> str:
    """The address of the link with this text."""
    (address,) = re.findall(rf'<a [^>]*href="([^"]*)"[^>]*>{re.escape(html.escape(text))}</a>', page)
    return html.unescape(address)


def numbers(page: str) -> list[int]:
    """The big numbers: created, rejected, pending."""
    return [int(number.replace(",", "")) for number in re.findall(r"<strong>([\d,]+)</strong> <span>", page)]


def keys(page: str) -> list[str]:
    """The keys that link to a record's page."""
    return [html.unescape(key) for key in re.findall(r'/record\?[^"]*">([^<]*)</a>', page)]


# ---- access ----------------------------------------------------------------------------------------------------------


def _addresses() -> list[str]:
    from payarc_provider.plugins.app import router

    paths = {route.path for route in router.routes}  # one of them also takes a POST
    assert len(paths) == 9
    return sorted(path.format(connection_id="crm", table="t") for path in paths)


@pytest.mark.parametrize("path", _addresses())
@pytest.mark.parametrize(("user", "status"), [(None, 401), ("nobody", 403), ("vera", 403), ("ada", 0), ("olga", 0)])
@pytest.mark.parametrize("credential", ["cookie", "header"])
def test_every_route_asks_airflow_whether_the_user_may_see_it(browser, tokens, path, user, status, credential):
    token = tokens.get(user, "eyJhbGciOiJIUzI1NiJ9.e30.nobody") if user else None
    names = {"cookie": ("Cookie", f"_token={token}"), "header": ("Authorization", f"Bearer {token}")}
    headers = dict([names[credential]]) if token else {}

    response = browser.get(f"/payarc{path}?account=x&at=y&key=z", headers=headers, follow_redirects=False)

    if status:
        assert response.status_code == status
        assert "configuration" not in response.text
    else:
        assert response.status_code == (200 if path == "/" else 404)
        assert "configuration" in response.text  # this user sees that no ledger is configured


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_no_route_accepts_a_write(browser, tokens, method):
    from payarc_provider.plugins.app import router

    headers = {"Authorization": f"Bearer {tokens['ada']}"}

    assert browser.request(method, "/payarc/", headers=headers).status_code == 405
    accepting = [route.path for route in router.routes if method.upper() in route.methods]
    assert accepting == (["/{connection_id}/{table}/search"] if method == "post" else [])  # which only redirects


@pytest.mark.parametrize(("user", "status"), [(None, 401), ("vera", 403), ("ada", 404)])
def test_only_those_who_may_see_a_ledger_may_search_it(browser, tokens, user, status):
    headers = {"Authorization": f"Bearer {tokens[user]}"} if user else {}

    response = browser.post("/payarc/crm/t/search?account=x", data={"key": "1"}, headers=headers)

    assert response.status_code == status


def test_a_search_of_many_bytes_is_not_read(pages):
    pages.created("1")

    assert pages.post_search("1" * 20_000).status_code == 413


def test_other_sites_cannot_frame_the_page_and_browsers_do_not_store_it(browser, tokens):
    response = browser.get("/payarc/", headers={"Authorization": f"Bearer {tokens['ada']}"})

    assert "frame-ancestors 'self'" in response.headers["content-security-policy"]
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"


# ---- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("", []),
        ("crm", [("crm", "payarc_customers")]),
        (" crm , billing:finance.customers,\ncrm,", [("crm", "payarc_customers"), ("billing", "finance.customers")]),
    ],
)
def test_ledgers_are_read_from_the_configuration(monkeypatch, given, names):
    monkeypatch.setenv("AIRFLOW__PAYARC__LEDGERS", given)

    assert configured() == [LedgerName(*name) for name in names]


def test_without_configured_ledgers_the_page_explains_how_to_configure_them(pages, monkeypatch):
    monkeypatch.setenv("AIRFLOW__PAYARC__LEDGERS", "")

    assert "AIRFLOW__PAYARC__LEDGERS" in pages.get("/")


def test_several_ledgers_are_listed(pages, monkeypatch):
    pages.created("1")
    monkeypatch.setenv("AIRFLOW__PAYARC__LEDGERS", f"other, crm:{pages.table}")

    page = pages.get("/")

    assert link(page, "other: payarc_customers") == "/payarc/other/payarc_customers"
    assert numbers(pages.follow(page, f"crm: {pages.table}")) == [1, 0, 0]


def test_several_accounts_are_listed(pages):
    pages.created("1", "2")
    pages.created("1", account="live/other")
    pages.claim("3", account="live/other")

    page = pages.get("/")

    assert numbers(pages.follow(page, ACCOUNT)) == [2, 0, 0]
    assert numbers(pages.follow(page, "live/other")) == [1, 0, 1]


def test_an_unknown_account_is_a_404(pages):
    pages.created("1")

    assert "no such account" in pages.get(f"/crm/{pages.table}/account", 404, account="live/nobody")


# ---- an account ------------------------------------------------------------------------------------------------------


def test_an_account_shows_its_counts_and_the_age_of_its_oldest_pending_record(pages):
    pages.database.stop_clock()
    pages.claim("1")
    pages.database.move_clock(3 * 3600)
    pages.claim("2", owner="b" * 32)
    pages.created("3", "4", owner="b" * 32)
    pages.rejected("5", owner="b" * 32)

    page = pages.get("/")  # one ledger with one account: the first page redirects to the account

    assert numbers(page) == [2, 1, 2]
    assert "2030-01-01 00:00:00 UTC" in page
    assert "3 h 0 min" in page
    assert "1 held" in page
    assert "1 open" in page
    assert "held" in pages.follow(page, "pending")


RUN = (
    r"(run_\d)</a>.*?"
    + r'class="number">(\d+)</td><td[^>]*' * 3
    + r'class="number">(\d+)</td><td[^>]*>\s*(.*?)\s*</td>'
)
"""Of a row of the table of runs: its run, how many were created, updated, known and rejected, and how it ended."""


def runs_table(page: str) -> list[tuple[str, ...]]:
    found = re.findall(RUN, page, flags=re.DOTALL)
    return [(*numbers, re.sub("<.*?>", "", end).strip()) for *numbers, end in found]


def test_each_dag_run_has_a_bar_and_a_table_row(pages):
    pages.database.stop_clock()
    pages.ran("run_0", records=3, created=1, adopted=1, known=1)
    pages.ran("run_1", records=9, known=9)  # it has created nothing
    pages.ran("run_2", ending="stopped", records=8, created=3, updated=2, rejected=1, known=2)
    pages.ran("run_3", ending=None)

    page = pages.page("account")

    assert runs_table(page) == [
        ("run_3", "0", "0", "0", "0", "not yet"),
        ("run_2", "3", "2", "2", "1", "stopped"),
        ("run_1", "0", "0", "9", "0", "after 1 min 0 s"),
        ("run_0", "2", "0", "1", "0", "after 1 min 0 s"),
    ]
    assert "table people of crm" in page
    wide = page.partition("</svg>")[0]
    assert re.findall(r"<g><title>sync (run_\d: .*?)</title>", wide) == [
        "run_0: 2 created, 0 updated, 0 rejected",
        "run_1: 0 created, 0 updated, 0 rejected",
        "run_2: 3 created, 2 updated, 1 rejected",
        "run_3: 0 created, 0 updated, 0 rejected",
    ]
    assert len(re.findall("<rect ", wide)) == 4
    assert page.count('role="img"') == 2  # one for wide windows, one for narrow ones


def test_the_tasks_of_a_dag_run_are_added_up(pages):
    pages.database.stop_clock()
    log = RunLog(pages.ledger, ACCOUNT)
    for index in range(3):
        begun = log.begin(TaskRunFact("sync", "run_1", "create", index, "table people of crm"))
        if index:
            pages.database.move_clock(10)
            log.end(dataclasses.replace(begun, ending="finished", counts={"created": index, "known": 1}))

    assert runs_table(pages.page("account")) == [("run_1", "3", "0", "2", "0", "not yet")]

    log.end(dataclasses.replace(begun, map_index=0, ending="finished", counts={"created": 4}))

    assert runs_table(pages.page("account")) == [("run_1", "7", "0", "2", "0", "after 10 s")]


def test_another_try_of_a_task_takes_the_place_of_the_first(pages):
    pages.database.stop_clock()
    pages.ran("run_1", ending="stopped", created=5)
    pages.ran("run_1", created=8)

    assert runs_table(pages.page("account")) == [("run_1", "8", "0", "0", "0", "after 1 min 0 s")]


def test_paging_shows_every_run_even_if_many_have_the_same_time(pages, monkeypatch):
    monkeypatch.setattr("payarc_provider.plugins.app.PAGE", 4)
    pages.database.stop_clock()
    for number in range(24):
        if number % 8 == 0:
            pages.database.move_clock(1)
        pages.ran(f"run_{number:02}", ending=None)
        pages.database.move_clock(-60)

    seen, page = [], pages.follow(pages.page("account"), "All runs")
    while page:
        seen += re.findall(r"(run_\d+)</a>", page)
        page = pages.follow(page, "Next page") if "Next page" in page else ""

    assert seen == [f"run_{number:02}" for number in reversed(range(24))]


# ---- rejected records ------------------------------------------------------------------------------------------------


def test_rejected_records_are_paged_in_natural_order_of_their_keys(pages):
    names = [*(f"c-{number}" for number in range(1, 121)), "B", "a", "a b", "c", "ä", "日本"]
    pages.rejected(*names)

    seen, page = [], pages.follow(pages.page("account"), "All rejected records")
    while page:
        assert len(keys(page)) <= 50
        seen += keys(page)
        page = pages.follow(page, "Next page") if "Next page" in page else ""

    assert seen == ["B", "a", "a b", "c", *(f"c-{number}" for number in range(1, 121)), "ä", "日本"]


def test_rejected_records_are_grouped_by_reason(pages):
    short, taken = ["must have at least 3 characters (it has 2): fix it at the source"], ["has been taken"]
    pages.rejected(*(f"c-{number}" for number in range(1, 13)), errors={"name": short})
    pages.rejected("d-1", "d-2", errors={"name": short, "email": taken}, owner="b" * 32)

    page = pages.page("account")

    groups = re.findall(r'class="count">(\d+)</td><td[^>]*><a [^>]*>(.*?)</a></td><td[^>]*>(.*?)</td>', page)
    assert [(count, reason, re.sub("<.*?>", "", shown)) for count, reason, shown in groups] == [
        ("14", "name must have at least 3 characters", "c-1, c-2, c-3, c-4, c-5, …"),
        ("2", "email has been taken", "d-1, d-2"),
    ]
    of_one = pages.follow(page, "email has been taken")
    assert keys(of_one) == ["d-1", "d-2"]
    assert "2 records by key" in of_one
    assert len(keys(pages.follow(of_one, "All reasons"))) == 14


def test_a_group_of_more_than_a_page_is_paged(pages):
    pages.rejected(*(f"c-{number}" for number in range(60)), errors={"name": ["is short"]})
    pages.rejected("d", owner="b" * 32)

    first = pages.follow(pages.page("account"), "name is short")
    second = pages.follow(first, "Next page")

    assert keys(first) + keys(second) == [f"c-{number}" for number in range(60)]
    assert keys(pages.follow(second, "First page")) == keys(first)


def test_rejected_records_can_be_downloaded_as_csv(pages):
    pages.database.stop_clock()
    pages.rejected("c-10", "c-2", '=HYPERLINK("x")', "-1", 'say "hi", b', errors={"name": ["is short"], "zip": ["bad"]})
    pages.rejected("zoe@example.com", errors={"@field": ["+is wrong"]}, owner="b" * 32)

    response, [head, *lines] = pages.csv()

    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="rejected-20300101-000000.csv"'
    assert response.headers["cache-control"] == "no-store"
    assert head[:4] == ["account", "key", "field", "reason"]
    assert [line[1:4] for line in lines if line[2] != "zip"] == [
        ["'-1", "name", "is short"],
        ['\'=HYPERLINK("x")', "name", "is short"],
        ["c-2", "name", "is short"],
        ["c-10", "name", "is short"],
        ['say "hi", b', "name", "is short"],
        ["(a key that looks like an email)", "'@field", "'+is wrong"],
    ]
    assert lines[0][4:] == ["", "2030-01-01T00:00:00Z", "table people of crm", "sync", "scheduled__1", "create"]


def test_more_rejected_records_than_are_listed_are_announced(pages, monkeypatch):
    monkeypatch.setattr("payarc_provider.sync.ledger.snapshot.LISTED", 3)
    pages.rejected("a", "b", "c")
    assert "There are more" not in pages.page("rejected")

    pages.rejected("d", owner="b" * 32)

    assert "There are more" in pages.page("rejected")
    assert "There are more" in pages.page("account")


def test_counts_stop_at_a_limit(pages, monkeypatch):
    for module in ("sync.ledger.snapshot", "plugins.app"):
        monkeypatch.setattr(f"payarc_provider.{module}.COUNTED", 3)
    pages.created("1", "2", "3", "4", "5")

    assert "<strong>&gt; 3</strong> <span>created" in pages.page("account")


def test_a_record_shows_payarcs_reasons_its_rules_and_the_source(pages):
    words = {"email": ["The email has already been taken."], "zip": ["is wrong", "is long"], "record": ["Invalid."]}
    pages.rejected("a/b ?&#1", errors=words, run_id="scheduled__2030-01-01T00:00:00+00:00")

    page = pages.follow(pages.page("rejected"), "a/b ?&#1")

    assert "The email has already been taken." in page
    assert "up to 40 characters: letters, digits and special characters" in page
    assert "up to 10 characters: digits and hyphens" in page
    assert "PayArc has rejected this record" in page
    assert "is wrong" in page
    assert "is long" in page
    assert "concerns the record as a whole" in page
    assert "table people of crm" in page
    run = "/dags/sync/runs/scheduled__2030-01-01T00%3A00%3A00%2B00%3A00"
    assert f'href="{run}" target="_top"' in page
    assert link(page, "create") == f"{run}/tasks/create"
    assert "retry &#39;a/b ?&amp;#1&#39;" in page


def test_a_record_that_a_check_before_the_request_holds_back_shows_what_payarcs_guide_allows(pages):
    reader = RecordReader("id", None, pages.ledger.ledger_id)
    record = reader.read(0, {"id": "1", "name": "Zo", "zip": 1.5})
    pages.ledger.claim(ME, ME.owner, [record], {}, EPOCH)

    page = pages.follow(pages.page("rejected"), "1")

    assert "was not sent" in page
    assert "must have at least 3 characters" in page
    assert "3 to 50 characters: letters and white space" in page
    assert "up to 10 characters: digits and hyphens" in page


def test_a_record_that_is_no_longer_rejected_has_no_page(pages):
    pages.rejected("1")
    page = pages.page("rejected")
    pages.database.execute(f"UPDATE {pages.database.quoted(pages.table)} SET state = 'pending'")

    address = link(page, "1").removeprefix("/payarc")

    assert "no longer rejected" in pages.get(address, 404)


def test_a_key_that_looks_like_an_email_is_masked_in_pages_and_addresses(pages):
    personal = [f"zoe.{number:03}@example.com" for number in range(60)]
    pages.rejected(*personal)
    pages.claim("ann@example.org")

    first = pages.page("rejected")
    read = [pages.page("account"), first, pages.follow(first, "Next page"), pages.page("pending")]
    addresses = re.findall(r'href="([^"]*)"', "".join(read))
    record = next(address for address in addresses if "/record?" in address)
    read.append(pages.get(html.unescape(record).removeprefix("/payarc")))

    read += [pages.search("zoe."), pages.follow(pages.page("account"), "email is taken")]

    assert "(a key that looks like an email)" in read[4]
    assert not [text for text in read if "@" in text or "example" in text]
    addresses += re.findall(r'href="([^"]*)"', "".join(read))
    for address in addresses:
        assert "@" not in unquote(html.unescape(address))


def test_text_from_a_ledger_is_escaped(pages):
    evil = "<img src=x onerror=alert(1)>"
    pages.rejected(evil, errors={evil: [evil]}, source=evil, dag_id=evil, run_id=evil, account=evil)

    read = [pages.page(name, account=evil) for name in ("account", "rejected", "runs")]
    read.append(pages.follow(read[0], evil) if read[0].count(f">{html.escape(evil)}</a>") == 1 else read[1])

    assert not [text for text in read if evil in text]


@pytest.mark.parametrize("position", ["", "nonsense", "é"])
@pytest.mark.parametrize(
    ("name", "parameter"),
    [("rejected", "after"), ("rejected", "reason"), ("runs", "after"), ("record", "at"), ("search", "key")],
)
def test_a_position_that_this_ledger_did_not_issue_is_a_404(pages, name, parameter, position):
    pages.rejected("1")

    text = pages.get(f"/crm/{pages.table}/{name}", 404, account=ACCOUNT, **{parameter: position})

    assert "not valid for this ledger" in text


def test_control_and_direction_characters_of_a_key_are_escaped(pages):
    pages.rejected("a\u202etxt.exe", "b\u0085c")

    page = pages.page("rejected")

    assert keys(page) == [r"a\u202etxt.exe", r"b\x85c"]
    assert "retry KEY" in pages.follow(page, r"a\u202etxt.exe")
    assert pages.csv()[1][1][1] == r"a\u202etxt.exe"


# ---- search ----------------------------------------------------------------------------------------------------------


def test_a_search_finds_records_in_every_state_by_the_beginning_of_their_key(pages):
    pages.created("c-1", "c-10", "c-2", "d")
    pages.rejected("c-3", owner="b" * 32)
    pages.claim("c-4", "C-5", owner="c" * 32)

    page = pages.search(" c- ")

    found = re.findall(r'<td data-label="Key">(.*?)</td><td data-label="State">(\w+)', page)
    assert [(re.sub("<.*?>", "", key), state) for key, state in found] == [
        ("c-1", "created"),
        ("c-2", "created"),
        ("c-3", "rejected"),
        ("c-4", "pending"),
        ("c-10", "created"),
    ]
    assert keys(page) == ["c-3"]
    assert f"{ACCOUNT}-c-10" in page  # its customer


@pytest.mark.parametrize("wanted", ["%", "_", "' OR '1'='1", "\\", "c\x00", "🙂" * 200])
def test_a_search_takes_every_character_as_it_is(pages, wanted):
    pages.created("c-1")

    assert "no record with such a key" in pages.search(wanted)


def test_erased_keys_are_counted_and_found_only_by_their_whole_key(pages):
    pages.created("c-1", "c-2", "person@example.com")
    assert "erased" not in pages.page("account")

    for key in ("c-1", "person@example.com"):
        Erasure(pages.ledger, ACCOUNT).begin(key, [])
    Erasure(pages.ledger, ACCOUNT).finish("c-1")

    account = pages.page("account")
    assert numbers(account) == [1, 0, 0]
    assert "2 keys are <strong>erased</strong>" in account
    assert "1 of the erasures is not finished" in account
    assert "This key was erased" in pages.search("c-1")
    assert "This key is being erased" in pages.search("person@example.com")
    assert "person@example.com" not in pages.search("person@example.com")
    assert "erased" not in pages.search("c-")


def test_a_search_that_finds_too_much_says_so(pages):
    pages.created(*(f"c-{number}" for number in range(60)))

    assert "The first 50" in pages.search("c")
    assert "60 records" not in pages.search("c")


def test_an_empty_search_leads_back_to_the_account(pages):
    pages.created("1")

    assert numbers(pages.search("  ")) == [1, 0, 0]


def test_what_is_searched_for_is_in_no_address(pages):
    pages.created("secret-1")

    page = pages.search("secret")

    assert "Records whose key begins with secret" in page
    assert not [address for address in re.findall(r'(?:href|action)="([^"]*)"', page) if "secret" in address]


def test_a_key_is_not_accepted_as_the_position_of_a_run(pages):
    pages.rejected("1")
    at = parse_qs(urlsplit(link(pages.page("rejected"), "1")).query)["at"][0]

    pages.get(f"/crm/{pages.table}/runs", 404, account=ACCOUNT, after=at)


def test_viewing_pages_changes_nothing(pages):
    pages.created("1")
    pages.rejected("2")
    pages.claim("3")
    tables = (pages.table, f"{pages.table}_facts")
    before = [pages.database.rows(pages.database.quoted(table)) for table in tables]

    for name in ("account", "rejected", "pending", "runs"):
        pages.page(name)
    pages.follow(pages.page("rejected"), "2")
    pages.search("2")
    pages.csv()

    assert [pages.database.rows(pages.database.quoted(table)) for table in tables] == before


# ---- ledgers that cannot be shown ------------------------------------------------------------------------------------


@pytest.fixture
def real(browser: Any, tokens: dict[str, str], sqlite_database: Any, monkeypatch: pytest.MonkeyPatch) -> Pages:
    """The page with Airflow's own connections."""
    monkeypatch.setattr(ledgers, "sql_engine", sql_engine)
    monkeypatch.setattr(page_app.cache, "seconds", 0)
    return Pages(browser, tokens["ada"], sqlite_database)


@pytest.mark.parametrize(
    ("connection", "status", "text"),
    [
        (None, 503, "connection &#34;here&#34; cannot be used"),
        ({"conn_type": "payarc", "password": "hunter2"}, 503, "is not a SQL database"),
        ({"conn_type": "nonsense"}, 503, "connection &#34;here&#34; cannot be used"),
        ({"conn_type": "sqlite", "host": "{folder}/missing.db"}, 404, "has no ledger"),
        ({"conn_type": "sqlite", "host": "{folder}/no/such/folder.db"}, 404, "has no ledger"),
        ({"conn_type": "sqlite", "host": "{folder}/broken.db"}, 503, "cannot be read"),
        (
            {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "login": "a", "password": "hunter2"},
            503,
            "reached",
        ),
    ],
)
def test_a_ledger_that_cannot_be_shown_has_a_page_that_says_why(real, tmp_path, monkeypatch, connection, status, text):
    if connection and connection["conn_type"] == "postgres":
        pytest.importorskip("airflow.providers.postgres", reason="the PostgreSQL provider is not installed")
    (tmp_path / "broken.db").write_text("this is a text of some length, not a database" * 100)
    monkeypatch.setenv("AIRFLOW__PAYARC__LEDGERS", "here")
    if connection:
        filled = json.dumps(connection).replace("{folder}", str(tmp_path))
        monkeypatch.setenv("AIRFLOW_CONN_HERE", filled)

    page = real.get("/here/payarc_customers", status)

    assert text in page
    assert "hunter2" not in page
    assert not Path(tmp_path / "missing.db").exists()


def test_a_ledger_is_opened_through_its_airflow_connection(real, tmp_path, monkeypatch):
    real.created("1")
    monkeypatch.setenv("AIRFLOW__PAYARC__LEDGERS", f"here:{real.table}, here:other")
    monkeypatch.setenv("AIRFLOW_CONN_HERE", json.dumps({"conn_type": "sqlite", "host": f"{tmp_path}/test.db"}))

    assert numbers(real.get(f"/here/{real.table}")) == [1, 0, 0]
    assert "has no ledger" in real.get("/here/other", 404)
    assert "not listed" in real.get("/here/third", 404)
    assert "not listed" in real.get("/elsewhere/other", 404)


# ---- many visitors, many rows ----------------------------------------------------------------------------------------


@pytest.fixture
def cached(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The page with its cache; gets an entry each time a ledger is opened."""
    opened: list[float] = []
    monkeypatch.setattr(page_app, "cache", Cache(60))
    monkeypatch.setattr(ledgers, "sql_engine", lambda *_, **__: opened.append(0.0) or pages.database.engine())
    return opened


def test_many_visitors_read_the_ledger_once(pages, cached):
    pages.rejected("1")

    for name in ("account", "rejected", "pending", "runs"):
        for _ in range(3):
            pages.page(name)

    assert len(cached) == 1


def test_a_ledger_that_cannot_be_read_is_not_asked_by_every_visitor(pages, cached, monkeypatch):
    monkeypatch.setenv("AIRFLOW__PAYARC__LEDGERS", "crm:missing")

    for _ in range(3):
        assert "has no ledger" in pages.get("/crm/missing/account", 404, account=ACCOUNT)

    assert len(cached) == 1


def test_a_ledger_that_is_taken_from_the_configuration_is_not_shown_from_the_cache(pages, cached, monkeypatch):
    pages.created("1")
    pages.page("account")
    monkeypatch.setenv("AIRFLOW__PAYARC__LEDGERS", "other")

    assert "not listed" in pages.get(f"/crm/{pages.table}/account", 404, account=ACCOUNT)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_rejected_records_are_read_through_their_index(pages):
    """And not by reading all rows of an account until enough are found."""
    pages.created("1")
    seen: list[str] = []
    sa.event.listen(pages.ledger.database.engine, "before_cursor_execute", lambda *given: seen.append(given[2:4]))
    Overview(pages.ledger, ACCOUNT).rejected(10)

    with pages.ledger.database.read() as connection:
        if pages.database.kind == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # a table of one row needs no index
        explain = "EXPLAIN" if pages.database.kind == "postgresql" else "EXPLAIN QUERY PLAN"
        for statement, parameters in [one for one in seen if "LIMIT" in one[0]]:
            plan = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
            assert f"{pages.table}_rejected" in str(plan)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_a_statement_that_takes_too_long_is_given_up(pages, monkeypatch):
    slow = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
        "postgresql": "SELECT pg_sleep(60)",
    }
    monkeypatch.setattr(ledgers, "STATEMENT_SECONDS", 1)
    monkeypatch.setattr(page_app, "take_snapshot", lambda ledger, _: _execute(ledger, slow[pages.database.kind]))

    assert "takes longer than 1 s" in pages.get(f"/crm/{pages.table}/account", 503, account=ACCOUNT)


def _execute(ledger: Ledger, statement: str) -> None:
    with ledger.database.read() as connection:
        connection.exec_driver_sql(statement)
