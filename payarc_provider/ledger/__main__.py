"""``python -m payarc_provider.ledger``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings

from payarc_provider.exceptions import PayarcError
from payarc_provider.ledger.arguments import parse
from payarc_provider.tracebacks import raised_at


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status."""
    try:
        given = parse(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return execute(given)


def execute(given: argparse.Namespace) -> int:
    """Run a command whose arguments have been parsed, and return the exit status."""
    # Airflow takes seconds to import, for which the help should not wait, and may print logs and warnings to stdout.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from airflow.providers.common.compat.sdk import AirflowException  # noqa: PLC0415

        from payarc_provider.ledger.commands import run  # noqa: PLC0415

        status = 0
        try:
            text = run(given)
        except (PayarcError, AirflowException) as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            text, status = getattr(error, "report", ""), 1
        except Exception as error:  # noqa: BLE001 - its text may quote a value
            print(f"Unexpected {type(error).__name__}. Please report this line. {raised_at(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
    if text:
        print(text)
    return status


def look_up_connections() -> None:
    """Let Airflow 3 look for connections in its database, as in its own commands, and not in the environment only."""
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")


if __name__ == "__main__":
    look_up_connections()
    sys.exit(main())
