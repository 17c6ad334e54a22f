"""Profiles: each possible PayArc, setting by setting, and how a profile is chosen."""

import json
import re
import subprocess
import sys

import pages
import pytest
from sandbox_client import JOHN, Client

from payarc_provider.sandbox import SandboxServer, profiles
from payarc_provider.sandbox.profiles import PROFILES, read_profile

LETTERS = "The name format is invalid."


@pytest.mark.parametrize("profile", PROFILES)
def test_the_server_has_the_settings_of_its_profile_unless_others_are_given(profile):
    with SandboxServer(profile=profile, rate_limit=7) as server:
        shown = json.loads(json.dumps(server.settings()))

    assert shown | {"rate_limit": 7} == shown
    wanted = json.loads(json.dumps(read_profile(profile))) | {"rate_limit": 7}
    assert {name: shown[name] for name in wanted} == wanted


@pytest.mark.parametrize("payarc_sandbox", PROFILES, indirect=True)
def test_a_test_chooses_a_profile_by_a_parameter(payarc_sandbox):
    assert payarc_sandbox.settings()["rate_limit"] in {30, 40, 60, 90, 300}


def test_without_a_profile_the_next_test_has_the_default_settings(payarc_sandbox, pytestconfig):
    if pytestconfig.getoption("--payarc-profile"):
        pytest.skip("a profile was chosen for all tests")
    assert payarc_sandbox.settings()["rate_limit"] is None


def test_an_option_chooses_the_profile_of_all_tests(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["payarc_provider.sandbox.pytest_plugin"]')
    test = "def test_it(payarc_sandbox):\n    assert payarc_sandbox.settings()['names'] == 'letters'\n"
    (tmp_path / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--payarc-profile", "strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout


def test_every_profile_is_described():
    described = re.findall(r"^- ``(\w+)``: \w", pages.text("payarc_provider/sandbox/profiles.py"), re.MULTILINE)

    assert described == list(PROFILES)
    assert profiles.__doc__


def test_a_file_is_a_profile(tmp_path, client, sandbox):
    file = tmp_path / "ours.json"
    file.write_text(json.dumps({"required": ["email"], "page_cap": 10}))

    with SandboxServer(profile=file) as server, Client(server) as there:
        assert there.create({"name": "John Smith"}).status_code == 422
        assert there.get("").json()["meta"]["pagination"]["per_page"] == 10


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read (No such file or directory); give a file or one of observed, guide"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"page_caps": 1}', "Unknown setting: page_caps"),
        ('{"page_cap": 0}', "page_cap must be at least 1"),
        ('{"rate_limit": "many"}', "not supported between"),
        ('{"names": "digits"}', "names must be one of any, letters"),
    ],
)
def test_a_profile_that_cannot_be_used_says_why(tmp_path, text, reason):
    file = tmp_path / "ours.json"
    if text is not None:
        file.write_text(text)

    with pytest.raises(ValueError, match=r"ours\.json'") as raised:
        SandboxServer(profile=file)

    assert reason in str(raised.value)


def test_the_command_reports_an_unknown_profile():
    command = [sys.executable, "-m", "payarc_provider.sandbox", "--port", "0", "--profile", "unheard-of"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "'unheard-of': cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_page_has_at_most_page_cap_customers(client, sandbox):
    sandbox.settings(page_cap=3)
    sandbox.seed([{}] * 7)

    assert [len(client.rows(limit=100, page=page)) for page in (1, 2, 3)] == [3, 3, 1]
    assert client.get("", params={"limit": 100}).json()["meta"]["pagination"]["per_page"] == 3


def test_names_may_be_limited_to_letters(client, sandbox):
    sandbox.settings(names="letters")

    for name, errors in {"Zoë van Dam": None, "O'Brien": [LETTERS], "Ann 3rd": [LETTERS]}.items():
        assert client.create(JOHN | {"name": name}).json().get("errors", {}).get("name") == errors


def test_a_shared_email_may_be_refused(client, sandbox):
    sandbox.settings(shared_email="refused")
    client.create()

    again = client.create()

    assert again.json()["errors"] == {"email": ["The email has already been taken."]}
    assert sandbox.stats()["posts"]["rejected"] == 1
    assert client.create(JOHN | {"email": "other@example.com"}).status_code == 201


def test_a_list_can_be_searched_by_the_parameter_of_the_setting_only(client, sandbox):
    sandbox.seed([{"email": "a@example.com"}, {"email": "b@example.com"}] * 2)
    sandbox.settings(search="email")

    found = client.get("", params={"email": "a@example.com", "limit": 1}).json()

    assert found["meta"]["pagination"]["total"] == 2
    assert [row["email"] for row in found["data"]] == ["a@example.com"]
    assert len(client.rows(search="a@example.com")) == 4
    sandbox.settings(search=None)
    assert len(client.rows(email="a@example.com")) == 4


def test_listed_customers_embed_cards_if_asked_to(client, sandbox):
    created = client.create().json()["data"]
    assert client.rows()[0]["card"] == {"data": []}

    sandbox.settings(embed_cards=True)

    [row] = client.rows()
    assert row["card"]["data"][0]["card_holder_name"] == "John Smith"
    assert row["charge"]["data"]
    assert row["bank_account"]["data"]
    assert client.get(f"/{created['customer_id']}").json()["data"]["card"] == {"data": []}


def test_a_patch_may_show_what_was_sent_although_it_was_ignored(client, sandbox):
    path = f"/{client.create().json()['data']['customer_id']}"
    sandbox.settings(empty_values="ignored", patch_echo="sent")

    assert client.patch(path, json={"phone": "", "city": "Boston"}).json()["data"]["phone"] is None

    shown = client.get(path).json()["data"]
    assert (shown["phone"], shown["city"]) == (JOHN["phone"], "Boston")


def test_a_404_may_be_a_message_alone(client, sandbox):
    assert client.get("/unknown").json()["status_code"] == 404

    sandbox.settings(not_found="message")

    for method in ("GET", "PATCH", "DELETE"):
        response = client.request(method, "/unknown")
        assert (response.status_code, list(response.json())) == (404, ["message"])
