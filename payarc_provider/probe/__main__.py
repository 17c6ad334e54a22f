"""``python -m payarc_provider.probe``: find out how the PayArc of a test connection behaves."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from payarc_provider.api.http import is_loopback
from payarc_provider.exceptions import PayarcConfigError, PayarcError
from payarc_provider.probe.findings import Finding, profile, report
from payarc_provider.probe.people import FakePeople
from payarc_provider.probe.questions import ask_about_the_limit, ask_all
from payarc_provider.probe.session import MAX_REQUESTS, Interrupted, ProbeSession

if TYPE_CHECKING:
    from payarc_provider.hooks.payarc import PayarcHook

SANDBOX_SIGNATURE = "c2FuZGJveC1zaWduYXR1cmU"
"""How the tokens end that only sandboxes accept."""

_SUMMARY = (
    "Find out how PayArc behaves where its guides say nothing, with a test account. Sends at most "
    f"{MAX_REQUESTS} requests, creates fake customers and deletes them again."
)
_END = "exit status: 0 done, 1 not done or not all deleted (the reason is on stderr), 2 wrong usage, 130 or 143 stopped"


def main(arguments: list[str] | None = None, *, minute: float = 60.0) -> int:
    """Run the probe and return the exit status.

    :param minute: see `ProbeSession`
    """
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    # Airflow takes seconds to import, for which the help should not wait, and may print logs and warnings to stdout.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from airflow.providers.common.compat.sdk import AirflowException  # noqa: PLC0415

        from payarc_provider.hooks.payarc import PayarcHook  # noqa: PLC0415

        try:
            hook = PayarcHook(given.payarc_conn_id)
            check_is_test(hook)
            file = None if given.profile is None else _writable(given.profile)
            status, text = _run(hook, file, minute)
        except (PayarcError, AirflowException) as error:
            _say(str(error))
            return 1
    if text:
        print(text)
    return status


def check_is_test(hook: PayarcHook) -> None:
    """Make sure that a connection is for PayArc's test environment, or for a sandbox on this machine.

    :raises PayarcConfigError: it is for the live environment, or for another host, which may lead there
    """
    settings, environment = hook.settings, hook.get_connection(hook.payarc_conn_id).extra_dejson.get("environment")
    is_test = settings.environment == "test"  # the host is PayArc's test host
    if is_loopback(urlsplit(settings.base_url).hostname or ""):  # a sandbox, or a tunnel to anywhere
        is_test = environment == "test" or hook.token().endswith(f".{SANDBOX_SIGNATURE}")
    if environment == "live" or not is_test:
        raise PayarcConfigError(
            "the probe creates and deletes customers, so it needs environment test with PayArc's test host, or a "
            "sandbox on localhost. Nothing was sent; give --payarc-conn-id another connection"
        ).about(hook.payarc_conn_id)


def _run(hook: PayarcHook, file: Path | None, minute: float) -> tuple[int, str]:
    """Ask, delete and report; returns the exit status and what to print."""
    people = FakePeople()
    findings: list[Finding] = []
    with _signals() as received:
        client, count = hook.get_client(), lambda: len(received)
        session = ProbeSession(client, people, signals=count, say=_say, minute=minute)
        _say(f"probing {hook.settings.base_url} with at most {MAX_REQUESTS} requests; Ctrl+C stops and cleans up")
        try:
            try:
                ask_all(session, people, findings)
            finally:
                remaining = _clean_up(session, people)
            ask_about_the_limit(session, findings)
        except Interrupted:
            _say("stopped by a signal")
            return 128 + received[0], report(findings)
        except PayarcError as error:
            _say(str(error))
            return 1, report(findings)
    text = f"PayArc at {hook.settings.base_url}, as {session.requests} requests showed it\n\n{report(findings)}"
    if file is not None:
        file.write_text(json.dumps(profile(findings), indent=2) + "\n")
        text += f"\n\nProfile for the sandbox: {file}"
    return int(remaining), text


def _clean_up(session: ProbeSession, people: FakePeople) -> bool:
    """Delete what was created; says and returns whether anything may remain."""
    remaining = session.clean_up()
    for line in remaining:
        _say(line)
    if remaining:
        _say(f'Delete them in PayArc\'s dashboard: all have the word "{people.marker}" in name and email')
    elif session.created:
        _say(f"all {session.created} customers that were created have been deleted")
    return bool(remaining)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect signals instead of raising: a request in flight ends first, so that its customer is known."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    stopping = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        stopping.append(signal.SIGHUP)
    before = {one: signal.signal(one, lambda number, _: received.append(number)) for one in stopping}
    try:
        yield received
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _writable(path: str) -> Path:
    """The file, if it can be written: found out before the first request."""
    file = Path(path)
    is_new = not file.exists()
    try:
        with file.open("a"):
            pass
        if is_new:
            file.unlink()
    except OSError as error:
        raise PayarcConfigError(f"--profile {path}: {error.strerror}. Choose another file. Nothing was sent") from None
    return file


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more, but the clean-up must go on
        print(" ".join(line.split()), file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m payarc_provider.probe", description=_SUMMARY, epilog=_END)
    conn: dict[str, Any] = {"metavar": "CONN", "default": "payarc_default"}
    parser.add_argument(
        "--payarc-conn-id", help="Airflow connection of PayArc's test environment (%(default)s)", **conn
    )
    parser.add_argument("--profile", metavar="FILE", help="write a profile for the sandbox to this file")
    return parser


if __name__ == "__main__":
    # As in Airflow's own commands: without it, Airflow 3 looks for connections in the environment only.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    sys.exit(main())
