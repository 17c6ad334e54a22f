"""The commands and their arguments."""

from __future__ import annotations

import argparse

SUMMARY = "Show a ledger, and make the decisions that runs leave to a person. Prints no personal data."
_END = "exit status: 0 done, 1 not done (the reason is one line on stderr), 2 wrong usage"
_KEY_FILE = "a file with one key per line; - for stdin"
_SOURCE = (
    "the source of the rows: the task's argument `source`, or else 'task DAG.TASK', 'table TABLE of CONN' or "
    "'query of DAG.TASK on CONN'"
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse and check the arguments.

    :raises SystemExit: with status 2, or 0 after the help
    """
    parser = argparse.ArgumentParser(prog="python -m payarc_provider.ledger")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    check(parser, given)
    return given


def check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Check what the parser itself cannot.

    :raises SystemExit: with status 2
    """
    if not given.ledger_conn_id:
        parser.error("--ledger-conn-id is required: the Airflow connection of the ledger's database")
    if given.command in ("retry", "release") and bool(given.keys) == given.all:
        parser.error(f"{given.command}: give either keys or --all")
    if given.command == "erase" and bool(given.keys) == bool(given.keys_from):
        parser.error("erase: give either keys or --keys-from")
    if given.command == "erase" and given.keys_from == "-" and not given.yes:
        parser.error("erase: --keys-from - also needs --yes, because stdin cannot answer a question then")
    if given.command == "rebuild":
        _check_rebuild(parser, given)


def _check_rebuild(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if bool(given.keys_from) == bool(given.table):
        parser.error("rebuild: give either --keys-from or --table")
    if given.keys_from and not given.source:
        parser.error(f"rebuild: --keys-from also needs --source, {_SOURCE}")
    given.sql_conn_id = given.sql_conn_id or given.ledger_conn_id
    given.source = given.source or f"table {given.table} of {given.sql_conn_id}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands and their arguments to a parser."""
    parser.description, parser.epilog, parser.formatter_class = SUMMARY, _END, _Help
    _add_common(parser, inherited=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, *, explanation: str = "") -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}. {explanation}".strip()
        subparser = commands.add_parser(name, help=summary, description=text, epilog=_END, formatter_class=_Help)
        _add_common(subparser, inherited=True)
        return subparser

    _add_listing(command("status", "count the rows of each account by state"), paged=False)
    _add_listing(
        command("pending", "list the pending rows, the runs that claimed them, and when another run may take them over")
    )
    rejected = command(
        "rejected", "count the rejected records by reason, or list them all"
    ).add_mutually_exclusive_group()
    rejected.add_argument("--csv", action="store_true", help="print CSV with a line for each reason of each record")
    rejected.add_argument("--json", action="store_true", help="print JSON with all records")
    show = command("show", "print the row of a key: its customer, and when that was last changed")
    show.add_argument("key", metavar="KEY")
    command(
        "ddl",
        "print the SQL statements that create the tables",
        explanation="For databases in which tasks may not create tables.",
    )
    _add_resolve(
        command(
            "resolve",
            "record by hand how a pending row ended",
            explanation="Rejected while a run owns the row, and while a request for it may still reach PayArc.",
        )
    )
    _add_keys(command("retry", "let the next run try rejected records again"), "all rejected records of the account")
    release = command(
        "release",
        "shorten leases that lie too far in the future",
        explanation="For leases taken before the clock of the ledger's database was set back. A run that still owns "
        "such a row loses it. Rejected for every other lease, which ends by itself.",
    )
    _add_keys(release, "all such rows of the account")
    release.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    forget = command(
        "forget",
        "forget a key",
        explanation="The next run that reads its record creates a new customer. The old one stays at PayArc, and no "
        "record ever gets it again. Rejected while the key is pending, and while a change of its customer may still "
        "reach PayArc.",
    )
    forget.add_argument("key", metavar="KEY")
    _add_erase(
        command(
            "erase",
            "delete the customers of keys at PayArc, and never create them again",
            explanation="Prints a receipt. A keyed hash of the key takes the place of its row, and records with it are "
            "rejected from then on. Rejected while a run holds the row, and while it is unknown whether PayArc has a "
            "customer. May be repeated after an interruption.",
        )
    )
    rename = command(
        "rename-source",
        "rename a source of records",
        explanation="For records whose DAG, task, table or connection was renamed, in all accounts or in --account. "
        "No customer changes. Safe while runs are under way, and may be repeated.",
    )
    rename.add_argument("old", metavar="OLD", help="the name that the rows have, as `status` prints it")
    rename.add_argument("new", metavar="NEW", help="the name that the task has now")
    rename.add_argument("--yes", action="store_true", help="do not ask for confirmation if NEW has rows already")
    rename.add_argument("--json", action="store_true", help="print JSON")
    _add_rebuild(
        command(
            "rebuild",
            "rebuild a lost or restored ledger from PayArc's list",
            explanation="Reads PayArc's whole list and restores the rows of the keys whose references it finds. "
            "Wait until the last run ended longer ago than `settle`.",
        )
    )


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def _add_common(parser: argparse.ArgumentParser, *, inherited: bool) -> None:
    """Add the options that are accepted before and after the command."""

    def default(value: str | None) -> str | None:
        return argparse.SUPPRESS if inherited else value

    parser.add_argument(
        "--ledger-conn-id", metavar="CONN", default=default(None), help="Airflow connection of the ledger's database"
    )
    parser.add_argument(
        "--ledger-table",
        metavar="TABLE",
        default=default("payarc_customers"),
        help="the ledger's table (payarc_customers)",
    )
    parser.add_argument("--account", default=default(None), help="the account, if the ledger has several")


def _add_listing(parser: argparse.ArgumentParser, *, paged: bool = True) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    if paged:
        parser.add_argument("--limit", type=_count, default=50, metavar="N", help="print at most N rows (%(default)s)")
        parser.add_argument("--offset", type=_count, default=0, metavar="N", help="skip the first N rows (%(default)s)")


def _add_resolve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--customer-id", metavar="ID", help="the row's customer is this one; PayArc must have it")
    how.add_argument("--absent", action="store_true", help="PayArc has no customer for the row; the next run sends it")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    _add_payarc(parser)


def _add_erase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", nargs="*", metavar="KEY")
    parser.add_argument("--keys-from", metavar="FILE", help=f"{_KEY_FILE}, so that no key is in the shell's history")
    parser.add_argument("--undo", action="store_true", help="let runs create customers for these erased keys again")
    parser.add_argument(
        "--search",
        action="store_true",
        help="also delete other customers in PayArc's list that carry a key's reference",
    )
    parser.add_argument(
        "--without-row", action="store_true", help="erase keys of which the ledger has no row, after a loss for example"
    )
    parser.add_argument(
        "--accept-soft-deletion",
        action="store_true",
        help="call it done if PayArc still returns a deleted customer by its id, and no longer lists it",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON")
    _add_payarc(parser)


def _add_keys(parser: argparse.ArgumentParser, all_of_them: str) -> None:
    parser.add_argument("keys", nargs="*", metavar="KEY")
    parser.add_argument("--all", action="store_true", help=all_of_them)


def _add_rebuild(parser: argparse.ArgumentParser) -> None:
    _add_payarc(parser)
    parser.add_argument("--keys-from", metavar="FILE", help=_KEY_FILE)
    parser.add_argument("--table", metavar="TABLE", help="the table that the records come from")
    parser.add_argument("--sql-conn-id", metavar="CONN", help="the table's connection (default: the ledger's)")
    parser.add_argument("--key", nargs="+", default=["id"], metavar="COLUMN", help="the table's key columns (id)")
    parser.add_argument("--source", metavar="TEXT", help=_SOURCE)
    parser.add_argument(
        "--accept-loss",
        action="store_true",
        help="let runs continue even if no customer is found, or some belong to other keys: records without a row get "
        "a new customer",
    )
    parser.add_argument("--ledger-id", metavar="ID", help="the lost ledger's id, as `status` printed it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_payarc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--payarc-conn-id", metavar="CONN", default="payarc_default", help="Airflow connection of PayArc (%(default)s)"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number
