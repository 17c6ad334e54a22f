"""The page "PayArc customers" in Airflow's own API server application, with every kind of ledger database."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from payarc_provider.hooks.sql import sql_engine
from payarc_provider.plugins import ledgers
from payarc_provider.plugins.ledgers import LedgerName, configured
from payarc_provider.sync.ledger import EPOCH, Claimant, Ledger, Resolution
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

    paths = {route.path for route in router.routes}
    assert len(paths) == 7
    return sorted(path.format(connection_id="crm", table="t") for path in paths)


@pytest.mark.parametrize("path", _addresses())
@pytest.mark.parametrize(("user", "status"), [(None, 401), ("nobody", 403), ("vera", 403), ("ada", 0), ("olga", 0)])
@pytest.mark.parametrize("credential", ["cookie", "header"])
def test_every_route_asks_airflow_whether_the_user_may_see_it(browser, tokens, path, user, status, credential):
    token = tokens.get(user, "eyJhbGciOiJIUzI1NiJ9.e30.nobody") if user else None
    names = {"cookie": ("Cookie", f"_token={token}"), "header": ("Authorization", f"Bearer {token}")}
    headers = dict([names[credential]]) if token else {}

    response = browser.get(f"/payarc{path}?account=x&at=y", headers=headers, follow_redirects=False)

    if status:
        assert response.status_code == status
        assert "configuration" not in response.text
    else:
        assert response.status_code == (200 if path == "/" else 404)
        assert "configuration" in response.text  # this user sees that no ledger is configured


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_no_route_accepts_a_write(browser, tokens, method):
    headers = {"Authorization": f"Bearer {tokens['ada']}"}

    assert browser.request(method, "/payarc/", headers=headers).status_code == 405


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


def test_an_account_shows_where_its_records_come_from(pages):
    pages.created("1", "2")
    pages.created("3", source="table a<b> of crm", owner="b" * 32)

    page = pages.page("account")

    assert '<td>table a&lt;b&gt; of crm</td><td class="number">1</td>' in page
    assert '</td><td class="number">2</td>' in page


def test_each_dag_run_has_a_bar_and_a_table_row(pages):
    pages.database.stop_clock()
    for number in range(3):
        pages.database.move_clock(60)
        pages.created(*[f"{number}-{one}" for one in range(number + 1)], run_id=f"run_{number}", owner=f"{number}" * 32)
    pages.rejected("bad", run_id="run_2", owner="2" * 32)
    pages.claim("open", run_id="run_2", owner="2" * 32)

    page = pages.page("account")

    rows = re.findall(r"run_(\d)</a></td>" + r'<td class="number">(\d+)</td>' * 3, page)
    assert rows == [("2", "3", "1", "1"), ("1", "2", "0", "0"), ("0", "1", "0", "0")]
    titles = re.findall(r"<g><title>sync (run_\d: .*?)</title>", page)
    assert titles == [
        "run_0: 1 created, 0 rejected, 0 pending",
        "run_1: 2 created, 0 rejected, 0 pending",
        "run_2: 3 created, 1 rejected, 1 pending",
    ]
    assert len(re.findall("<rect ", page)) == 5
    assert 'role="img"' in page


def test_paging_shows_every_run_even_if_many_have_the_same_time(pages, monkeypatch):
    monkeypatch.setattr("payarc_provider.plugins.app.PAGE", 4)
    pages.database.stop_clock()
    for number in range(24):
        if number % 8 == 0:
            pages.database.move_clock(1)
        pages.created(str(number), run_id=f"run_{number:02}", owner=f"{number:032}")

    seen, page = [], pages.follow(pages.page("account"), "All runs")
    while page:
        seen += re.findall(r"(run_\d+)</a>", page)
        page = pages.follow(page, "Next page") if "Next page" in page else ""

    assert seen == [f"run_{block + number:02}" for block in (16, 8, 0) for number in range(8)]


# ---- rejected records ------------------------------------------------------------------------------------------------


def test_rejected_records_are_paged_by_key(pages):
    names = [*(f"{number:04}" for number in range(120)), "B", "a", "a b", "ä", "日本"]
    pages.rejected(*names)

    seen, page = [], pages.follow(pages.page("account"), f"All {len(names)} rejected records")
    while page:
        assert len(keys(page)) <= 50
        seen += keys(page)
        page = pages.follow(page, "Next page") if "Next page" in page else ""

    assert seen == sorted(names, key=str.encode)


def test_a_record_shows_payarcs_reasons_its_rules_and_the_source(pages):
    words = {"email": ["The email has already been taken."], "zip": ["is wrong", "is long"], "record": ["Invalid."]}
    pages.rejected("a/b ?&#1", errors=words, run_id="scheduled__2030-01-01T00:00:00+00:00")

    page = pages.follow(pages.page("account"), "a/b ?&#1")

    assert "The email has already been taken." in page
    assert "at most 40 characters without white space" in page
    assert "at most 10 digits and hyphens" in page
    assert "is wrong" in page
    assert "is long" in page
    assert "concerns the record as a whole" in page
    assert "table people of crm" in page
    run = "/dags/sync/runs/scheduled__2030-01-01T00%3A00%3A00%2B00%3A00"
    assert f'href="{run}" target="_top"' in page
    assert link(page, "create") == f"{run}/tasks/create"
    assert "retry &#39;a/b ?&amp;#1&#39;" in page


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

    assert "(a key that looks like an email)" in read[-1]
    assert not [text for text in read if "@" in text or "example" in text]
    for address in addresses:
        assert "@" not in unquote(html.unescape(address))


def test_text_from_a_ledger_is_escaped(pages):
    evil = "<img src=x onerror=alert(1)>"
    pages.rejected(evil, errors={evil: [evil]}, source=evil, dag_id=evil, run_id=evil, account=evil)

    read = [pages.page(name, account=evil) for name in ("account", "rejected", "runs")]
    read.append(pages.follow(read[0], evil) if read[0].count(f">{html.escape(evil)}</a>") == 1 else read[1])

    assert not [text for text in read if evil in text]


@pytest.mark.parametrize("position", ["", "nonsense", "é"])
@pytest.mark.parametrize(("name", "parameter"), [("rejected", "after"), ("runs", "after"), ("record", "at")])
def test_a_position_that_this_ledger_did_not_issue_is_a_404(pages, name, parameter, position):
    pages.rejected("1")

    text = pages.get(f"/crm/{pages.table}/{name}", 404, account=ACCOUNT, **{parameter: position})

    assert "not valid for this ledger" in text


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

    assert [pages.database.rows(pages.database.quoted(table)) for table in tables] == before


# ---- ledgers that cannot be shown ------------------------------------------------------------------------------------


@pytest.fixture
def real(browser: Any, tokens: dict[str, str], sqlite_database: Any, monkeypatch: pytest.MonkeyPatch) -> Pages:
    """The page with Airflow's own connections."""
    monkeypatch.setattr(ledgers, "sql_engine", sql_engine)
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
