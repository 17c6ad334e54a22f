"""The command line, and nothing of what it does."""

from __future__ import annotations

import argparse

_SUMMARY = "Show a ledger, and do by hand what no run may do by itself. Nothing personal is shown."
_END = "exit status: 0 done, 1 refused or nothing to do (the reason is one line on stderr), 2 wrong usage"
_SOURCE = "the rows' source, as runs name it: 'task DAG.TASK', 'table TABLE of CONN', 'query of DAG.TASK on CONN'"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments, checked.

    :raises SystemExit: with status 2, or 0 after the help
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.ledger_conn_id:
        parser.error("give --ledger-conn-id, the Airflow connection of the ledger's database")
    if given.command == "retry" and bool(given.keys) == given.all:
        parser.error("retry: give keys, or --all")
    if given.command == "rebuild":
        _check_rebuild(parser, given)
    return given


def _check_rebuild(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if bool(given.keys_from) == bool(given.table):
        parser.error("rebuild: give the keys with --keys-from, or with --table")
    if given.keys_from and not given.source:
        parser.error(f"rebuild: with --keys-from, also give --source, {_SOURCE}")
    given.sql_conn_id = given.sql_conn_id or given.ledger_conn_id
    given.source = given.source or f"table {given.table} of {given.sql_conn_id}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m payarc_provider.ledger", description=_SUMMARY, epilog=_END, formatter_class=_Help
    )
    _add_common(parser, inherited=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, *, explanation: str = "") -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}. {explanation}".strip()
        one = commands.add_parser(name, help=summary, description=text, epilog=_END, formatter_class=_Help)
        _add_common(one, inherited=True)
        return one

    _add_listing(command("status", "count the rows of each account by state"), paged=False)
    _add_listing(command("pending", "list what is pending: since when, in whose hands, and until when"))
    _add_listing(command("rejected", "list what was refused: since when, and why"))
    command("ddl", "print the statements that create the tables", explanation="For where tasks may not create them.")
    _add_resolve(
        command(
            "resolve",
            "decide by hand what became of a pending row",
            explanation="Refused while a run has it, and until nothing that was sent can reach PayArc any more.",
        )
    )
    _add_retry(command("retry", "let refused records be tried again by the next run"))
    forget = command(
        "forget",
        "forget a key on purpose",
        explanation="A run that reads its record then creates a new customer. The old one stays at PayArc, and no "
        "record ever gets it again. Refused while the key is pending.",
    )
    forget.add_argument("key", metavar="KEY")
    _add_rebuild(
        command(
            "rebuild",
            "rebuild a lost or restored ledger from PayArc's list",
            explanation="Rows are made for those of the keys whose references PayArc's customers bear; PayArc's whole "
            "list is read for it. Run it when no run has been at work for longer than `settle`.",
        )
    )
    return parser


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def _add_common(parser: argparse.ArgumentParser, *, inherited: bool) -> None:
    """The options that may stand before or after the command."""

    def default(value: str | None) -> str | None:
        return argparse.SUPPRESS if inherited else value

    parser.add_argument(
        "--ledger-conn-id", metavar="CONN", default=default(None), help="Airflow connection of the ledger's database"
    )
    parser.add_argument(
        "--ledger-table", metavar="TABLE", default=default("payarc_customers"), help="its table (payarc_customers)"
    )
    parser.add_argument("--account", default=default(None), help="whose rows, where the ledger has several accounts")


def _add_listing(parser: argparse.ArgumentParser, *, paged: bool = True) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    if paged:
        parser.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many rows (%(default)s)")
        parser.add_argument("--offset", type=_count, default=0, metavar="N", help="leave out the first N (%(default)s)")


def _add_resolve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--customer-id", metavar="ID", help="its customer is this one, which PayArc must have")
    how.add_argument("--absent", action="store_true", help="PayArc has no customer for it: the next run sends it again")
    parser.add_argument("--yes", action="store_true", help="do not ask whether you are sure")
    _add_payarc(parser)


def _add_retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", nargs="*", metavar="KEY")
    parser.add_argument("--all", action="store_true", help="all refused records of the account")


def _add_rebuild(parser: argparse.ArgumentParser) -> None:
    _add_payarc(parser)
    parser.add_argument("--keys-from", metavar="FILE", help="a file with a key on each line; - for stdin")
    parser.add_argument("--table", metavar="TABLE", help="or: the table that the records come from")
    parser.add_argument("--sql-conn-id", metavar="CONN", help="the table's connection (the ledger's)")
    parser.add_argument("--key", nargs="+", default=["id"], metavar="COLUMN", help="the table's key columns (id)")
    parser.add_argument("--source", metavar="TEXT", help=_SOURCE)
    parser.add_argument("--ledger-id", metavar="ID", help="the lost ledger's id, as `status` showed it")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_payarc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--payarc-conn-id", metavar="CONN", default="payarc_default", help="Airflow connection of PayArc (%(default)s)"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number
