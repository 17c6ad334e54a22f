"""Airflow's UI in a real browser: the connection form and its test, a task's page, and the page "PayArc customers".

With ``PAYARC_SCREENSHOTS=docs/images`` it makes the pictures of the documentation.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import Airflow

from payarc_provider.sandbox.server import SandboxServer
from payarc_provider.sandbox.tokens import make_token

if tuple(map(int, version("apache-airflow").split(".")[:2])) < (3, 3):
    pytest.skip("the browser test knows Airflow 3.3's UI", allow_module_level=True)
pytest.importorskip("selenium", reason="selenium is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
if not (CHROMIUM and CHROMEDRIVER):
    pytest.skip("no Chromium with chromedriver: as root, `make browser` installs Debian's", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support import expected_conditions as ec  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

PATIENCE = 60  # seconds, on a machine that is busy with other things; nothing waits longer than it must
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --lang=en-US --window-size=1200,860"
)
TASK = """
    CreateCustomerOperator(
        task_id="create_customers", records=extract(), ledger_conn_id="ledger", max_rejected=2,
    )
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    """A sandbox that rejects one email address."""
    server = SandboxServer()
    server.start()
    server.settings(taken={"email": ["taken@example.com"]})
    yield server
    server.stop()


@dataclass(frozen=True)
class Dags:
    """What Airflow has run.

    :param dag_id: of the DAG that has succeeded
    :param failed: the failed task's page
    :param connections: Airflow's, as environment variables
    """

    dag_id: str
    failed: str
    connections: dict[str, str]


@pytest.fixture(scope="module")
def dags(_migrated: Path, sandbox: SandboxServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dags]:
    """A DAG that has run three times, and one whose task has failed because its token had expired."""
    folder = tmp_path_factory.mktemp("browser")
    connections = {
        "AIRFLOW_CONN_PAYARC_DEFAULT": json.dumps(
            json.loads(sandbox.connection_json()) | {"extra": {"account": "shop"}}
        ),
        "AIRFLOW_CONN_LEDGER": json.dumps({"conn_type": "sqlite", "host": str(folder / "ledger.db")}),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (connections | {"TEST_DATA": str(folder)}).items():
            patch.setenv(name, value)
        airflow = Airflow(_migrated, folder)
        dag = airflow.dag(TASK.strip())
        for run in range(3):
            airflow.records([_record(number) for number in range(100 * run, 100 * run + 40 + 20 * run)])
            assert airflow.test(dag).state == "success"
        expired = {"conn_type": "payarc", "password": make_token(expires_in=-1)}
        patch.setenv("AIRFLOW_CONN_PAYARC_EXPIRED", json.dumps(expired))
        ended = airflow.run(TASK.replace("max_rejected=2", "payarc_conn_id='payarc_expired'").strip())
        assert ended.state == "failed"
        task = ended["create_customers"]._instance
        yield Dags(dag.dag_id, f"/dags/{task.dag_id}/runs/{quote(task.run_id)}/tasks/{task.task_id}", connections)
        airflow.close()


def _record(number: int) -> dict[str, Any]:
    record = {"id": f"C-{number:04}", "name": "Zoë Smith", "email": f"person{number}@example.com"}
    return record | {10: {"email": "taken@example.com"}, 110: {"zip": "1234567890123"}}.get(number, {})


@pytest.fixture(scope="module")
def server(dags: Dags, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Airflow's API server with a login, as a process of its own; where it is."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "passwords.json").write_text(json.dumps({"ada": "ada-pass"}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | dags.connections | {
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"{address}/",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ada:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__PAYARC__LEDGERS": "ledger",
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "api-server"],
            env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for(f"{address}/api/v2/monitor/health", process, folder / "log")
        yield address
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"Airflow's API server does not answer:\n{log.read_text()[-3000:]}")


class Browser:
    """Chromium, logged in to Airflow."""

    def __init__(self, address: str, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
        self.address = address
        self.open("/")
        self.find("input[name=username]").send_keys("ada")
        self.find("input[name=password]").send_keys("ada-pass")
        self.find("button[type=submit]").click()
        self.find("button[aria-label=Browse]")

    def open(self, path: str) -> None:
        """Go there."""
        self.driver.get(self.address + path)

    def find(self, selector: str) -> Any:
        """What CSS (or XPath, from ``//`` on) selects, once it is there."""
        by = By.XPATH if selector.startswith("//") else By.CSS_SELECTOR
        return WebDriverWait(self.driver, PATIENCE).until(ec.element_to_be_clickable((by, selector)))

    def click(self, selector: str) -> None:
        """Click it, once it is there and nothing lies before it; Airflow may draw it anew meanwhile."""

        def clicked(_: object) -> bool:
            self.find(selector).click()
            return True

        passing = [StaleElementReferenceException, ElementClickInterceptedException]
        WebDriverWait(self.driver, PATIENCE, ignored_exceptions=passing).until(clicked)

    def text(self, selector: str, contains: str) -> str:
        """Its text, once it contains this."""
        WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[StaleElementReferenceException]).until(
            lambda _: contains in self.find(selector).text
        )
        found: str = self.find(selector).text
        return found

    def picture(self, name: str) -> None:
        """A picture for the documentation."""
        if folder := os.environ.get("PAYARC_SCREENSHOTS"):
            time.sleep(2)  # for fonts and fading; nothing is tested by it
            self.driver.save_screenshot(f"{folder}/{name}.png")


@pytest.fixture(scope="module")
def browser(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(server, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.driver.quit()


def test_the_page_is_in_the_menu_and_leads_to_the_task(browser, dags):
    browser.open("/")
    browser.click("button[aria-label=Browse]")
    browser.click("//*[@role='menuitem'][contains(., 'PayArc customers')]")
    browser.driver.switch_to.frame(browser.find("iframe"))

    assert "178\ncreated" in browser.text("main", "created")
    assert "2\nrejected" in browser.text("main", "rejected")
    assert len(browser.driver.find_elements(By.CSS_SELECTOR, "svg.chart.wide > g")) == 3
    browser.picture("page")
    browser.click("//a[text()='C-0010']")
    assert "up to 40 characters" in browser.text("main", "What to fix")
    browser.picture("record")
    browser.find("input[type=search]").send_keys("C-01", Keys.ENTER)
    assert {"C-0100", "C-0110", "C-0149"} <= set(browser.text("main", "whose key begins with C-01").split())
    browser.click("//a[text()='C-0110']")
    browser.click("//a[text()='create_customers']")
    browser.driver.switch_to.default_content()

    WebDriverWait(browser.driver, PATIENCE).until(ec.url_contains(f"/dags/{dags.dag_id}/runs/"))
    assert browser.driver.current_url.endswith("/tasks/create_customers")


def test_the_page_offers_rejected_records_as_a_file(browser, tmp_path):
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.open("/plugin/payarc-customers")
    browser.driver.switch_to.frame(browser.find("iframe"))
    browser.click("//a[text()='Download as CSV']")
    browser.driver.switch_to.default_content()

    WebDriverWait(browser.driver, PATIENCE).until(lambda _: list(tmp_path.glob("rejected-*.csv")))
    [file] = tmp_path.glob("rejected-*.csv")
    assert [line["key"] for line in csv.DictReader(file.open())] == ["C-0010", "C-0110"]


def test_the_page_fits_into_a_narrow_window(browser):
    size = {"width": 400, "height": 860, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.open("/payarc/ledger/payarc_customers")
        for page in ("DAG runs", "Rejected records", "What to fix", "whose key begins"):
            assert page in browser.text("main", page)
            assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 400
            match page:
                case "DAG runs":
                    browser.picture("page-narrow")
                    browser.click("//a[text()='All rejected records']")
                case "Rejected records":
                    browser.click("//a[text()='C-0010']")
                case "What to fix":
                    browser.find("input[type=search]").send_keys("C-0", Keys.ENTER)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_wears_airflows_theme(browser):
    browser.open("/plugin/payarc-customers")
    frame = browser.find("iframe")
    seen = []
    for theme in ("dark", "light"):
        browser.driver.execute_script(f"document.documentElement.className = '{theme}'")
        browser.driver.switch_to.frame(frame)
        browser.find(f"html[data-theme={theme}] main")
        seen.append(browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
        browser.driver.switch_to.default_content()

    assert seen == ["rgb(24, 24, 27)", "rgb(255, 255, 255)"]


def test_a_task_shows_its_documentation(browser, dags):
    browser.open(f"/dags/{dags.dag_id}/tasks/create_customers")
    browser.click("button[aria-label=Documentation]")

    assert browser.find("//h3[contains(., 'each created exactly once')]")  # what was Markdown is a heading and a table
    assert browser.find("//table//td[contains(., 'upstream tasks, through XCom')]")
    browser.picture("task")


def test_an_ended_task_links_to_payarcs_dashboard(browser, dags):
    browser.open(f"{dags.failed}/details")

    assert browser.find("a[href='https://testdashboard.payarc.net/']").text == "PayArc dashboard"


def test_the_connection_form_and_its_test(browser, sandbox):
    connection = json.loads(sandbox.connection_json())
    host, _, port = connection["host"].removesuffix("/v1").rpartition(":")
    for name, token in (("good", connection["password"]), ("wrong", "not-a-real-token")):
        browser.open("/connections")
        browser.click("//button[contains(., 'Add Connection')]")
        browser.find("[role=dialog] input[role=combobox]").send_keys("PayArc", Keys.ENTER)
        browser.find("input[name=connection_id]").send_keys(f"payarc_{name}")
        assert {"Base URL", "Access token", "Port"} <= set(browser.text("[role=dialog]", "Access token").splitlines())
        if name == "good":
            browser.picture("connection")
        assert browser.find("input[name=password]").get_attribute("type") == "password"
        browser.find("input[name=host]").send_keys(host)
        browser.find("input[name=port]").send_keys(port)
        browser.find("input[name=password]").send_keys(token)
        browser.click("//button[contains(., 'Extra Fields')]")
        said = browser.text("[role=dialog]", "Verify TLS")
        assert {"Environment", "Account", "Timeout (seconds)", "Verify TLS"} <= set(said.splitlines())
        assert "A token is valid in one of them only." in said  # the help text
        browser.find("//label[contains(., 'Environment')]/following::input[@role='combobox'][1]").send_keys(
            Keys.ARROW_DOWN
        )
        assert browser.text("[role=listbox]", "live").splitlines() == ["test", "live"]
        if name == "good":
            browser.picture("connection-extra")
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)  # takes "test"
        browser.click("//*[@role='dialog']//button[contains(., 'Save')]")
        browser.find(f"//td[contains(., 'payarc_{name}')]")

    for name, said in (("good", "PayArc accepts the token"), ("wrong", "PayArc does not accept")):
        browser.open("/connections")
        browser.click(f"//tr[contains(., 'payarc_{name}')]//button[@aria-label='Test Connection']")
        assert said in browser.text("//*[@data-scope='toast'][@data-part='root']", said)
        browser.picture(f"test-{name}")
