"""``python -m payarc_provider.sandbox``: run a sandbox in the foreground until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sqlite3
from typing import get_args

from payarc_provider.sandbox.profiles import PROFILES
from payarc_provider.sandbox.server import SandboxServer
from payarc_provider.sandbox.settings import IdStyle, RateLimitPer, SandboxSettings, TimeStyle


def main(arguments: list[str] | None = None) -> None:
    """Run a sandbox with the options of the command line; prints its address as soon as it accepts requests."""
    options = vars(_parser().parse_args(arguments))
    try:
        server = SandboxServer(**options)
    except OSError as error:
        address = f"{options['host']}:{options['port']}"
        raise SystemExit(f"Cannot listen on {address}: {error.strerror}. Choose another --host or --port.") from None
    except sqlite3.Error as error:
        raise SystemExit(f"Cannot use the state file {options['state']} ({error}). Check its path.") from None
    except ValueError as error:
        raise SystemExit(f"Invalid option: {error}.") from None
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(lambda: _print_address(server))


def _print_address(server: SandboxServer) -> None:
    lines = [
        f"PayArc sandbox: {server.url}",
        f"  token:   {server.token}",
        f"  Airflow: export AIRFLOW_CONN_PAYARC_DEFAULT={shlex.quote(server.connection_json())}",
        f"  control: {server.origin}/_sandbox/stats (needs no token)",
    ]
    print("\n".join(lines), flush=True)


def _parser() -> argparse.ArgumentParser:
    default = SandboxSettings()
    parser = argparse.ArgumentParser(
        prog="python -m payarc_provider.sandbox",
        description="Run a stand-in for PayArc's customer API on this machine, until Ctrl+C.",
        argument_default=argparse.SUPPRESS,  # an option that is not given must not override the profile
    )
    parser.add_argument(
        "--port", type=int, default=8765, help="port to bind; 0 for any free port (default: %(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to bind (default: %(default)s)")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        dest="allow_hosts",
        help="host name by which clients may address it, besides localhost and IP addresses; can be repeated",
    )
    parser.add_argument("--state", metavar="FILE", help="SQLite file that keeps the customers (default: memory only)")
    parser.add_argument("--seed", type=int, help="make ids, probabilities and shuffling repeatable")
    parser.add_argument(
        "--profile",
        metavar="PROFILE",
        help=f"be another PayArc: {', '.join(PROFILES)}, or a file from the probe; other options override it",
    )
    parser.add_argument("--latency", type=float, help=f"seconds per request (default: {default.latency})")
    parser.add_argument("--rate-limit", type=int, help="requests per window (default: no limit)")
    parser.add_argument(
        "--rate-limit-per",
        choices=get_args(RateLimitPer),
        help=f"count requests per endpoint and token, or per user (default: {default.rate_limit_per})",
    )
    parser.add_argument("--rate-window", type=float, help=f"seconds per window (default: {default.rate_window})")
    parser.add_argument(
        "--id-style",
        choices=get_args(IdStyle),
        help=f"ids as observed at PayArc, or as in its guide (default: {default.id_style})",
    )
    parser.add_argument(
        "--time-style",
        choices=get_args(TimeStyle),
        help=f"times as observed at PayArc, or as in its guide (default: {default.time_style})",
    )
    return parser


if __name__ == "__main__":
    main()
