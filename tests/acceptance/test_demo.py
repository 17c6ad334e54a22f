"""``make demo``: its people, its processes, its picture, and the whole of it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace
from xml.etree import ElementTree

import pages
import psutil
import pytest

from payarc_provider.api.fields import clean
from payarc_provider.sandbox.fields import known_fields, validation_errors
from payarc_provider.sandbox.settings import SandboxSettings

FIELDS = {"name": "full_name", "email": "email", "description": "company", "phone": "phone", "country": "country"}
MODULES = ("airflow_api", "people", "picture", "run", "services", "story")
# Starts the demo's two programs, with one that keeps running and ignores SIGTERM in place of Airflow.
STUBBORN = """
import sys
import services

services.PROGRAMS, services.GRACE = services.HOME, 0.5
services.HOME.mkdir(exist_ok=True)
(services.HOME / "airflow").write_text(
    f"#!{sys.executable}\\nimport signal, time\\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\\ntime.sleep(600)\\n"
)
(services.HOME / "airflow").chmod(0o755)
with services.home(empty=False):
    ports = services.ports()
    with services.services(ports, services.settings(ports)) as processes:
        print(*processes.pids(), flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def demo(monkeypatch):
    """The modules of the demo."""
    monkeypatch.syspath_prepend(str(pages.CHECKOUT / "demo"))
    yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture
def copy(tmp_path):
    """A copy of the demo, which has a home of its own."""
    shutil.copytree(pages.CHECKOUT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "demo"


def rejections(person):
    """What our own rules and what PayArc's rules find wrong with a person."""
    fields, errors = clean({field: person[column] for field, column in FIELDS.items()})
    return errors, validation_errors(known_fields(fields), SandboxSettings(), creating=True)


def test_the_people_are_the_same_every_time(demo):
    people = demo.people.people()

    assert people == demo.people.people()
    assert people == demo.people.people(201)[:200]
    assert len({person["email"] for person in people}) == 200
    assert {"'", "-", "é"} <= set("".join(person["full_name"] for person in people))


def test_only_payarc_finds_the_three_mistakes(demo):
    found = {person["id"]: rejections(person) for person in demo.people.people(201)}

    assert [number for number, (own, _) in found.items() if own] == []
    assert {number for number, (_, payarc) in found.items() if payarc} == set(demo.people.MISTAKES)
    assert len(demo.people.MISTAKES) == 3


def test_the_picture_shows_what_the_demo_prints(demo):
    story = demo.story
    common = {"log": ["what the task says"], "twice": 0}
    first = story.Run(tries=2, posts=205, patches=0, customers=197, **common)
    second = story.Run(tries=1, posts=1, patches=1, customers=198, **common)
    printed = [
        *story.introduction(200),
        *story.airflow_started("http://localhost:40000"),
        *story.first_run(),
        *story.kill_report(story.Kill(4711, 104, 96)),
        *story.run_report(first),
        *story.second_run(demo.people.people()[demo.people.MOVED - 1]["full_name"]),
        *story.run_report(second),
        *story.closing(40),
    ]

    expected, shown = (
        lines_of(svg, demo) for svg in (demo.picture.draw("\n".join(printed)), demo.picture.PICTURE.read_text())
    )
    assert shown == expected
    assert len(shown) > 15


def lines_of(svg, demo):
    """The lines of a picture, without those of the task's log and what differs from run to run."""
    lines = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter() if "text" in text.tag]
    changing = re.compile(r"localhost:\d+|kill -9 \d+|\d+ customers;|ids of \d+|create \d+|\d+ POSTs")
    logged = demo.picture._text(demo.story.LOGGED)
    return [changing.sub("…", line) for line in lines if not line.startswith(logged)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_its_processes_end_with_it(how, copy):
    command, pipe = [sys.executable, "-c", STUBBORN], subprocess.PIPE
    with subprocess.Popen(command, cwd=copy, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as demo:
        pids = [int(pid) for pid in demo.stdout.readline().split()]
        other = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        demo.send_signal(how)
        demo.send_signal(how)  # somebody is impatient

    assert "Another demo or its UI is running" in other.stderr
    assert len(pids) == 2
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


@pytest.mark.skipif(tuple(map(int, version("apache-airflow").split(".")[:2])) < (3, 3), reason="needs Airflow 3.3")
def test_all_of_it(copy):
    command = [sys.executable, str(copy / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"kill -9 \d+ ", done.stdout)
    assert re.findall(r"PayArc has (\d+) customers, (\d+) of them twice", done.stdout) == [("197", "0"), ("198", "0")]
    assert "1 POST, 1 PATCH." in done.stdout
    assert len(re.findall(r"20[01] records in [^;]* 3 rejected", " ".join(done.stdout.split()))) == 2
    folders = [one.info["cwd"] for one in psutil.process_iter(["cwd"])]
    assert [one for one in folders if one and one.startswith(str(copy.parent))] == []
