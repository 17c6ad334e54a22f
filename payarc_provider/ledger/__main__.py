"""``python -m payarc_provider.ledger``."""

from __future__ import annotations

import os
import sys

from payarc_provider.ledger.arguments import parse


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says, and return the exit status."""
    try:
        given = parse(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    from payarc_provider.ledger.commands import run  # noqa: PLC0415 - Airflow, for which the help need not wait

    return run(given)


if __name__ == "__main__":
    # As in Airflow's own commands: without it, Airflow 3 looks for connections in the environment only.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    sys.exit(main())
