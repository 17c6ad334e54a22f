"""``airflow payarc ledger``: the same command line as a command of Airflow, from Airflow 3.2 on.

Airflow imports this module for each of its own commands, so nothing heavy is imported before the command runs.
"""

from __future__ import annotations

import argparse
import functools
import sys
from typing import TYPE_CHECKING

from payarc_provider.ledger.arguments import SUMMARY, add_arguments, check

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand


def get_commands() -> list[CLICommand]:
    """The commands that this provider adds to Airflow's."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand  # noqa: PLC0415

    class Arguments(Arg):
        """All commands and arguments, which are more than Airflow's own `Arg` can describe."""

        def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
            """Add them."""
            add_arguments(parser)
            parser.set_defaults(check=functools.partial(check, parser))

    ledger = ActionCommand("ledger", SUMMARY, _run, [Arguments(("COMMAND",))])  # type: ignore[no-untyped-call]
    return [GroupCommand("payarc", "Manage the ledgers of PayArc customers", [ledger])]


def _run(given: argparse.Namespace) -> None:
    from payarc_provider.ledger.__main__ import execute, look_up_connections  # noqa: PLC0415

    given.check(given)
    look_up_connections()
    sys.exit(execute(given))
