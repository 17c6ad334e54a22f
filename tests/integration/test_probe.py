"""The probe: it reports each possible PayArc as it is, within 60 requests, and leaves no customer behind."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pages
import pytest

from payarc_provider.api.http import Transport
from payarc_provider.probe.__main__ import SANDBOX_SIGNATURE, main
from payarc_provider.probe.people import FakePeople
from payarc_provider.probe.session import MAX_REQUESTS, ProbeSession
from payarc_provider.sandbox import SandboxServer, make_token
from payarc_provider.sandbox.profiles import PROFILES
from payarc_provider.sandbox.settings import SandboxSettings

DEFAULTS = json.loads(json.dumps({name: getattr(SandboxSettings(), name) for name in SandboxSettings.__slots__}))
# What no response can show: they only matter after a 429 that did not come, or for rows that nobody can tell apart.
NOT_SHOWN = {"rate_window", "shuffle_same_second"}
OLD = [{"email": f"old{number}@example.com", "created_at": 1_700_000_000 + number} for number in range(30)]
EVERY_SETTING = [
    {"rate_limit": 50, "rate_limit_per": "user", "rate_window": 60},
    {"rate_limit": 50, "rate_limit_per": "endpoint", "rate_window": 60},
    {"rate_limit": 50, "rate_limit_per": "user", "rate_headers": False, "rate_window": 60},
    {"rate_limit": 20, "rate_limit_per": "endpoint", "rate_headers": False, "rate_window": 60},
    {"page_cap": 10},
    {"search": "search"},
    {"search": "filter[email]"},
    {"empty_values": "cleared"},
    {"empty_values": "ignored", "patch_echo": "sent"},
    {"deletion": "soft"},
    {"shared_email": "merged"},
    {"shared_email": "refused"},
    {"shared_email": "merged", "idempotency": "replay"},
    {"names": "letters"},
    {"idempotency": "replay"},
    {"time_style": "guide"},
    {"id_style": "guide"},
    {"create_status": 200},
    {"list_order": "oldest"},
    {"list_order": "random"},
    {"list_order": "id"},
    {"list_order": "oldest", "page_cap": 10},
    {"embed_cards": True},
    {"required": ["email"]},
    {"not_found": "message"},
    {"names": "letters", "envelope": "409-list"},
    {"names": "letters", "envelope": "409-message"},
    {"alter": {"phone": "drop"}},
]


class Probe:
    """Runs the probe against the test's sandbox, and keeps what it printed and wrote."""

    def __init__(self, sandbox, capsys, folder):
        self.sandbox = sandbox
        self.file = folder / "profile.json"
        self._capsys = capsys
        self.status, self.out, self.err = None, "", ""

    def run(self, minute=1.0):
        self._capsys.readouterr()
        self.status = main(["--profile", str(self.file)], minute=minute)
        self.out, self.err = self._capsys.readouterr()
        return self

    @property
    def profile(self):
        return json.loads(self.file.read_text())

    @property
    def received(self):
        return sum(self.sandbox.stats()["requests"].values())

    def remaining(self):
        """Customers that the probe has left behind."""
        return [one for one in self.sandbox.customers() if one["created_by_request"] is not None]


@pytest.fixture
def probe(payarc_sandbox, capsys, tmp_path):
    return Probe(payarc_sandbox, capsys, tmp_path)


def prove(probe, settings):
    """Assert that the probe has reported these settings, and that the sandbox accepts its profile."""
    wanted = {name: value for name, value in settings.items() if name not in NOT_SHOWN}
    assert probe.status == 0, probe.err
    assert {name: probe.profile.get(name) for name in wanted} == wanted
    others = {name: value for name, value in probe.profile.items() if name not in settings}
    assert {name: DEFAULTS[name] for name in others} == others, "nothing else was changed"
    with SandboxServer(profile=probe.file) as server:
        assert server.settings()["page_cap"] == probe.profile["page_cap"]
    assert probe.remaining() == []
    assert probe.received <= MAX_REQUESTS


@pytest.mark.parametrize("customers", [[], OLD], ids=["new-account", "old-account"])
@pytest.mark.parametrize("payarc_sandbox", PROFILES, indirect=True)
def test_each_profile_is_reported_as_it_is(probe, customers, request):
    probe.sandbox.seed(customers)

    probe.run()

    prove(probe, json.loads(json.dumps(PROFILES[request.node.callspec.params["payarc_sandbox"]])))
    assert len(probe.sandbox.customers()) == len(customers)


@pytest.mark.parametrize("settings", EVERY_SETTING, ids=lambda one: " ".join(f"{k}={v}" for k, v in one.items()))
def test_each_setting_is_reported_as_it_is(probe, settings):
    probe.sandbox.seed(OLD)
    probe.sandbox.settings(**settings)

    probe.run()

    prove(probe, {"rate_headers": False} | settings if "rate_limit" not in settings else settings)


@pytest.mark.parametrize("payarc_sandbox", PROFILES, indirect=True)
def test_the_profile_that_it_wrote_is_reported_the_same_way(probe):
    first = probe.run().profile
    with SandboxServer(profile=probe.file) as copy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", copy.connection_json())
        assert probe.run().profile == first


@pytest.mark.parametrize("settings", [{"rate_limit": 5}, {"rate_limit": 12, "rate_limit_per": "user"}])
def test_a_small_limit_is_waited_out_and_its_window_measured(probe, settings):
    probe.sandbox.settings(**settings, rate_window=2)

    probe.run()

    assert probe.status == 0, probe.err
    assert probe.profile["rate_limit"] == settings["rate_limit"]
    assert probe.profile["rate_window"] in (2, 3)
    assert probe.sandbox.stats()["rate_limited"] > 0
    assert probe.remaining() == []
    assert probe.received <= MAX_REQUESTS


def test_without_any_sign_of_a_limit_it_says_how_many_requests_passed(probe):
    probe.run()

    assert re.search(r"no rate-limit headers, and no 429 for (\d\d) requests\. \(unknown\)", probe.out)
    assert probe.received > 40


def test_a_customer_with_every_field_may_be_rejected(probe):
    probe.sandbox.settings(taken={"phone": ["2025550100"]})

    probe.run()

    assert probe.status == 0, probe.err
    assert "a customer with a value in every field was rejected because of phone" in probe.out
    assert probe.remaining() == []


@pytest.mark.parametrize("how", ["no_hash", "upper", "drop", "cut"])
def test_a_description_that_is_altered_makes_references_useless(probe, how):
    probe.sandbox.settings(alter={"description": how})

    probe.run()

    assert "PayArc shows other values than were sent in description" in probe.out
    assert "reference=False" in probe.out
    assert probe.profile["alter"] == ({"description": "drop"} if how == "drop" else {})
    assert probe.remaining() == []


def test_a_list_that_lags_is_noticed(probe):
    probe.sandbox.settings(list_lag=60)
    probe.sandbox.seed(OLD)

    probe.run()

    assert re.search(r"Delay of the list: (\d) of \1 new customers were not listed at once", probe.out)
    assert probe.remaining() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"list_times": "missing"},
        {"list_times": "unreadable"},
        {"list_seeded": "null"},
        {"list_seeded": "no_id"},
        {"list_only": 0},
        {"list_only": 3},
        {"list_cache": 60},
        {"list_shift": 18_000},
        {"list_lag": 60, "page_cap": 1},
        {"retry_after": "date", "rate_limit": 20, "rate_limit_per": "user", "rate_window": 1},
        {"retry_after": "none", "rate_limit": 20, "rate_limit_per": "user", "rate_window": 1},
        {"alter": {"name": "upper", "email": "upper", "description": "drop"}},
        {"alter": {"email": "drop", "description": "alphanumeric"}},
    ],
    ids=str,
)
def test_it_survives_an_odd_payarc(probe, settings):
    probe.sandbox.seed(OLD)
    probe.sandbox.settings(**settings)

    probe.run()

    assert probe.status == 0, probe.err
    assert probe.remaining() == []
    assert probe.received <= MAX_REQUESTS
    assert SandboxSettings().changed(probe.profile)


@pytest.mark.parametrize("requests", [8, 12, 16, 20, 24])
def test_it_stops_in_time_to_delete_everything_with_the_requests_left(probe, monkeypatch, requests):
    monkeypatch.setattr("payarc_provider.probe.session.MAX_REQUESTS", requests)
    probe.sandbox.settings(rate_limit=90)

    probe.run()

    assert (probe.status, probe.remaining()) == (1, [])
    assert "has used all its requests" in probe.err
    assert probe.received <= requests


def test_it_needs_no_sandbox_installed():
    check = (
        "import sys, payarc_provider.probe.__main__; assert not {'starlette', 'uvicorn', 'airflow'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", check], check=True)


def test_it_counts_its_requests(probe):
    probe.run()

    assert f"as {probe.received} requests showed it" in probe.out


def test_the_page_shows_what_it_prints(probe, monkeypatch):
    probe.sandbox.settings(**PROFILES["observed"])
    command, report = (block.text for block in pages.to_run("docs/probe.md", "bash", "text"))
    monkeypatch.chdir(probe.file.parent)
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, env=with_python_on_path()
    )

    assert done.stdout.replace(probe.sandbox.url, "https://testapi.payarc.net/v1") == report
    assert json.loads((probe.file.parent / "ours.json").read_text())["rate_limit"] == 90


def with_python_on_path():
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


# ---- only a test environment ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "connection",
    [
        {"extra": {"environment": "live"}},
        {"host": "https://api.payarc.net/v1", "extra": {"environment": "live"}},
        {"host": "https://api.payarc.net/v1"},
        {"host": "https://api.payarc.net./v1"},
        {"host": "https://API.payarc.net:443"},
        {"host": "https://api.payarc.net/v1", "extra": {"environment": "test"}},
        {"host": "https://testapi.payarc.net/v1", "extra": {"environment": "live"}},
        {"host": "https://gateway.example.com/v1"},
        {"host": "https://gateway.example.com/v1", "extra": {"environment": "test"}},
        {"host": "https://gateway.example.com/v1", "extra": {"environment": "live"}},
        {"host": "http://127.0.0.1:9/v1", "extra": {"environment": "live"}},
        {"host": "http://localhost:9/v1", "password": "a.real.token"},
        {"host": "https://[::1]:9/v1", "password": "opaque"},
    ],
    ids=str,
)
def test_it_refuses_anything_but_a_test_environment_before_the_first_request(probe, monkeypatch, connection):
    monkeypatch.setattr(Transport, "send", lambda *arguments: pytest.fail("a request was sent"))
    whole = {"conn_type": "payarc", "password": probe.sandbox.token} | connection
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", json.dumps(whole))

    probe.run()

    assert (probe.status, probe.out) == (1, "")
    assert "environment" in probe.err or "is not a base URL" in probe.err
    assert not probe.file.exists()


@pytest.mark.parametrize("extra", [{}, {"environment": "test"}])
def test_it_accepts_the_test_environment_and_localhost_if_the_connection_says_test(probe, monkeypatch, extra):
    sent = []
    monkeypatch.setattr(Transport, "send", lambda self, request, *rest: sent.append(request) or 1 / 0)
    host = "http://127.0.0.1:9/v1" if extra else ""
    whole = {"conn_type": "payarc", "password": "a.real.token", "host": host, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", json.dumps(whole))

    with pytest.raises(ZeroDivisionError):
        probe.run()

    assert sent


def test_it_knows_how_the_tokens_of_sandboxes_end():
    assert make_token().endswith(f".{SANDBOX_SIGNATURE}")


def test_a_profile_that_cannot_be_written_is_noticed_before_the_first_request(probe, tmp_path):
    assert main(["--profile", str(tmp_path)]) == 1
    assert main(["--profile", str(tmp_path / "none" / "file.json")]) == 1
    assert probe.received == 0


# ---- nothing is left behind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_and_everything_is_deleted(payarc_sandbox, number, tmp_path):
    payarc_sandbox.settings(latency=0.1)
    command = [sys.executable, "-m", "payarc_provider.probe", "--profile", str(tmp_path / "profile.json")]
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and payarc_sandbox.stats()["posts"]["created"] < 2:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 128 + number, err
    assert payarc_sandbox.customers() == []
    assert payarc_sandbox.stats()["posts"]["received"] < 6, "it did not go on"
    assert "customers that were created have been deleted" in err
    assert "Traceback" not in err
    assert "New customer: " in out, "what was found so far"
    assert not (tmp_path / "profile.json").exists()


def test_after_a_second_signal_it_says_what_remains(client_and_people):
    client, people = client_and_people
    received = []
    session = ProbeSession(client, people, signals=lambda: len(received))
    customer = session.create(people.person("a")).customer

    received += [signal.SIGTERM, signal.SIGTERM]

    assert session.clean_up() == [
        f"{customer['customer_id']} ({people.person('a')['email']}) was not deleted: the probe was interrupted"
    ]


@pytest.fixture
def client_and_people(payarc_sandbox):
    from payarc_provider.hooks.payarc import PayarcHook

    return PayarcHook().get_client(), FakePeople()


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ([{"kind": "unauthorized", "method": "PATCH"}], "does not accept the access token (401)"),
        ([{"kind": "forbidden", "method": "PATCH"}], "forbids this request (403)"),
    ],
)
def test_an_error_stops_it_and_everything_is_deleted(probe, faults, reason):
    probe.sandbox.faults(faults)

    probe.run()

    assert probe.status == 1
    assert reason in probe.err
    assert probe.remaining() == []
    assert not probe.file.exists()


def test_customers_that_cannot_be_deleted_are_named(probe):
    probe.sandbox.faults([{"kind": "status_before", "method": "DELETE", "times": None}])

    probe.run()

    assert probe.status == 1
    left = probe.remaining()
    assert len(left) > 3
    assert [one["customer_id"] for one in left if f"{one['customer_id']} (" not in probe.err] == []
    assert "Delete them in PayArc's dashboard" in probe.err
    assert probe.received <= MAX_REQUESTS


@pytest.mark.parametrize("settings", [{}, {"list_order": "oldest", "page_cap": 10}])
def test_a_customer_whose_creation_got_no_response_is_found_in_the_list_and_deleted(probe, settings):
    probe.sandbox.seed(OLD)
    probe.sandbox.settings(**settings)
    probe.sandbox.faults([{"kind": "lost_after", "skip": 1, "times": 3}])

    probe.run()

    assert probe.remaining() == []
    assert probe.status == 0


@pytest.mark.parametrize("kind", ["lost_after", "lost_before", "not_found"])
def test_a_deletion_without_a_usable_response_is_repeated(probe, kind):
    probe.sandbox.faults([{"kind": kind, "method": "DELETE", "every": 2}])

    probe.run()

    assert probe.remaining() == []
    assert probe.status == 0, probe.err


def test_a_customer_that_may_exist_is_named(probe):
    probe.sandbox.faults([{"kind": "lost_before", "skip": 3}])

    probe.run()

    assert probe.status == 1
    assert re.search(r"probe-[a-z]{8}-n1@example\.com may exist: PayArc did not confirm", probe.err)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_goes_wrong_it_keeps_to_its_requests_and_names_what_remains(probe, seed):
    numbers = random.Random(f"{os.environ['PAYARC_SEED']}/{seed}")
    kinds = ("lost_before", "lost_after", "status_after", "html_before", "cut_after", "garbage_after", "foreign_after")
    for kind in numbers.sample(kinds, 3):
        rule = {"kind": kind, "method": "*", "skip": 2, "probability": 0.2, "times": numbers.randint(1, 8)}
        # With PayArc's headers, which JSON responses get, a 429 or 422 means that PayArc has done nothing.
        shows_headers = kind in ("status_after", "garbage_after")
        status = numbers.choice([404, 500] if shows_headers else [429, 422, 404, 500])
        probe.sandbox.faults([rule | {"status": status}])
    probe.sandbox.settings(**PROFILES[numbers.choice(sorted(PROFILES))], rate_window=1)
    probe.sandbox.seed(OLD)

    probe.run()

    assert probe.received <= MAX_REQUESTS
    assert {one["email"] for one in OLD} <= {one["email"] for one in probe.sandbox.customers()}
    left = probe.remaining()
    unnamed = [
        one for one in left if one["customer_id"] not in probe.err and (one["email"] or one["name"]) not in probe.err
    ]
    assert unnamed == [], probe.err
    assert probe.status == 1 or not left


def test_it_never_deletes_a_customer_that_it_has_not_created(probe):
    """PayArc answers each creation with a customer who was there before."""
    [old] = probe.sandbox.seed([{"name": "Zebediah Quux", "email": "zeb@example.com"}])
    body = json.dumps({"data": {"customer_id": old["customer_id"], "name": "Zebediah Quux"}})
    probe.sandbox.faults([{"kind": "garbage_before", "body": body, "times": None}])

    probe.run()

    assert [one["customer_id"] for one in probe.sandbox.customers()] == [old["customer_id"]]
    assert probe.sandbox.stats()["requests"].get("DELETE /customers/{id}", 0) == 0
    assert "PATCH /customers/{id}" not in probe.sandbox.stats()["requests"]
    assert probe.status == 1


# ---- privacy --------------------------------------------------------------------------------------------------------


def test_it_prints_neither_the_token_nor_anything_that_payarc_has_written(probe):
    probe.sandbox.settings(embed_cards=True)
    probe.sandbox.seed([{"name": "Zebediah Quux", "email": "zeb@example.com", "phone": "2025559876"}])
    said = {"message": "Zebediah \x1b[31m token", "status": "error", "errors": {"Zebediah": ["Quux \x1b[31m"]}}
    page = {"body": json.dumps(said), "status": 422}
    probe.sandbox.faults([{"kind": "status_before", "skip": 1, "times": 3, **page}])
    probe.sandbox.faults([{"kind": "status_before", "method": "PATCH", **page}])

    probe.run()

    text = probe.out + probe.err + (probe.file.read_text() if probe.file.exists() else "")
    for hidden in ("Zebediah", "Quux", "zeb@", "2025559876", "400000", "\x1b", probe.sandbox.token):
        assert hidden not in text
    assert "Values: " in probe.out


@pytest.mark.parametrize("customer_id", ["../../admin", "a\x1b[31mb", "x" * 4000, "9" * 4000, 10**30])
def test_an_id_that_is_none_is_never_sent_or_printed(probe, customer_id):
    def body(request):
        return json.dumps({"data": {"customer_id": customer_id, "name": "probe"}})

    probe.sandbox.faults([{"kind": "garbage_after", "body": body(None), "times": None}])

    probe.run()

    assert probe.status == 1
    assert str(customer_id)[:200] not in probe.err + probe.out
    assert "Traceback" not in probe.err
