"""``python -m payarc_provider.sandbox``: a sandbox in the foreground, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from typing import get_args

from payarc_provider.sandbox.server import SandboxServer
from payarc_provider.sandbox.settings import IdStyle, RateLimitPer, SandboxSettings, TimeStyle


def main(arguments: list[str] | None = None) -> None:
    """Run a sandbox as the command line says; prints where it is once it can be used."""
    options = vars(_parser().parse_args(arguments))
    try:
        server = SandboxServer(**options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"The sandbox cannot start: {error}") from None
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(lambda: _greet(server))


def _greet(server: SandboxServer) -> None:
    lines = [
        f"PayArc sandbox: {server.url}",
        f"  token:   {server.token}",
        f"  Airflow: export AIRFLOW_CONN_PAYARC_DEFAULT={shlex.quote(server.connection_json())}",
        f"  control: {server.origin}/_sandbox/stats (no token; see payarc_provider.sandbox.control)",
    ]
    print("\n".join(lines), flush=True)


def _parser() -> argparse.ArgumentParser:
    default = SandboxSettings()
    parser = argparse.ArgumentParser(prog="python -m payarc_provider.sandbox", description="A stand-in for PayArc.")
    parser.add_argument("--port", type=int, default=8765, help="0 for a free one (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="keep it on the loopback interface (%(default)s)")
    parser.add_argument("--state", metavar="FILE", help="SQLite file that keeps the customers (memory only)")
    parser.add_argument("--seed", type=int, help="makes ids, chance and shuffling repeatable")
    parser.add_argument("--latency", type=float, default=default.latency, help="seconds per request (%(default)s)")
    parser.add_argument("--rate-limit", type=int, help="requests per window (none)")
    parser.add_argument(
        "--rate-limit-per", choices=get_args(RateLimitPer), default=default.rate_limit_per, help="(%(default)s)"
    )
    parser.add_argument("--rate-window", type=float, default=default.rate_window, help="its seconds (%(default)s)")
    parser.add_argument("--id-style", choices=get_args(IdStyle), default=default.id_style, help="(%(default)s)")
    parser.add_argument("--time-style", choices=get_args(TimeStyle), default=default.time_style, help="(%(default)s)")
    return parser


if __name__ == "__main__":
    main()
