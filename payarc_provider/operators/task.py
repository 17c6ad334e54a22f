"""One run of the operator's task: opens what its arguments name, runs the engine and hands the results to Airflow."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from payarc_provider.assets import customers_uri
from payarc_provider.exceptions import PayarcConfigError, PayarcLedgerError, PayarcSourceError
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.hooks.sql import sql_engine
from payarc_provider.operators.private import revealed
from payarc_provider.operators.records import resolve_records
from payarc_provider.operators.reporting import TaskReporter, opening_line, report_hook_lineage
from payarc_provider.operators.results import check_mapped_ids, hand_over
from payarc_provider.sync.account import find_account, new_account
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.deferral import Deferral
from payarc_provider.sync.keys import check_key
from payarc_provider.sync.ledger import Ledger, LedgerLost
from payarc_provider.sync.patience import wait_for_ledger
from payarc_provider.sync.records import check_fields
from payarc_provider.sync.runner import run
from payarc_provider.sync.settings import TaskIdentity
from payarc_provider.sync.sources import PAGE, ListSource, Source
from payarc_provider.sync.wording import clock_time

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from payarc_provider.operators.customer import CreateCustomerOperator
    from payarc_provider.operators.options import Options
    from payarc_provider.sync.results import Results
    from payarc_provider.sync.settings import Settings

T = TypeVar("T")


class TaskRun:
    """One run of the task, to the end of its input or until it is deferred.

    ``reporter`` knows the customers' asset and the run's progress; None before everything has been opened.
    """

    def __init__(self, operator: CreateCustomerOperator, context: Context, options: Options) -> None:
        self.reporter: TaskReporter | None = None
        self._operator = operator
        self._context = context
        self._options = options
        self._terminate: Callable[[], None] | None = None
        self._stopped = False

    def execute(self, *, resumed: bool) -> Any:
        """Run, push the XComs and return the task's return value.

        :raises TaskDeferred: the rate limit allows no request for a while
        :raises PayarcError: see CreateCustomerOperator.execute
        """
        try:
            with contextlib.ExitStack() as stack:
                results = self._run(stack, resumed=resumed)
        except Deferral as deferral:
            seconds = deferral.seconds
        except (PayarcLedgerError, LedgerLost) as error:
            raise error.about(self._ledger_conn_id) from None
        except PayarcSourceError as error:
            raise error.about(self._operator.sql_conn_id) from None
        else:
            return hand_over(self._operator, self._context, self._options, results)
        return self._defer(seconds)

    def terminate(self) -> None:
        """Make the run leave within seconds. May be called from any thread, and from a signal handler."""
        self._stopped = True
        if self._terminate is not None:
            self._terminate()

    def _run(self, stack: contextlib.ExitStack, *, resumed: bool) -> Results:
        hook = PayarcHook(self._operator.payarc_conn_id)
        settings = self._settings(hook.settings.timeout)
        client = hook.get_client()
        stack.callback(client.close)
        ledger = self._open_ledger(stack)
        source = self._open_source(stack)
        account = new_account(hook.identity)
        if ledger is not None:
            known, remember = ledger, not settings.dry_run
            try:
                account = self._patiently(
                    lambda: find_account(known, hook.identity, client.get_customer, remember=remember)
                )
            except PayarcConfigError as error:
                raise error.about(None if isinstance(error, LedgerLost) else hook.payarc_conn_id) from None
        check_mapped_ids(self._operator, self._context, self._options, source)
        self.reporter = self._make_reporter(source, account, resumed=resumed)
        return run(
            source,
            client,
            ledger,
            settings,
            account=account,
            task=self._identity(),
            reporter=self.reporter,
            resumed=resumed,
            on_start=self._on_start,
        )

    def _settings(self, timeout: float) -> Settings:
        chosen = self._options.settings
        can_defer = self._options.deferrable and not chosen.dry_run
        settings = dataclasses.replace(
            chosen,
            timeout=timeout,
            defer_after=chosen.defer_after if can_defer else None,
            batch_size=min(chosen.batch_size, PAGE),  # a stopped task has to release its claims within seconds
        )
        settings.check_timing(f"connection {self._operator.payarc_conn_id}")
        return settings

    def _identity(self) -> TaskIdentity:
        instance = self._context["ti"]
        map_index = -1 if instance.map_index is None else instance.map_index
        return TaskIdentity(instance.dag_id, instance.run_id, instance.task_id, map_index, instance.try_number)

    def _on_start(self, terminate: Callable[[], None]) -> None:
        self._terminate = terminate
        if self._stopped:
            terminate()

    def _patiently(self, call: Callable[[], T]) -> T:
        return wait_for_ledger(call, self._options.settings.ledger_patience, lambda: self._stopped)

    @property
    def _ledger_conn_id(self) -> str:
        return self._operator.ledger_conn_id or self._operator.sql_conn_id or ""

    def _open_ledger(self, stack: contextlib.ExitStack) -> Ledger | None:
        """The ledger; None for a dry run if it does not exist yet."""
        operator = self._operator
        engine = sql_engine(self._ledger_conn_id, "ledger_conn_id", ledger=True)
        stack.callback(engine.dispose)
        ledger = Ledger(engine, operator.ledger_table)
        create = not self._options.settings.dry_run
        return ledger if self._patiently(lambda: ledger.open(create=create)) else None

    def _open_source(self, stack: contextlib.ExitStack) -> Source:
        operator, instance = self._operator, self._context["ti"]
        if operator.records is not None:
            rows = resolve_records(operator, operator.records, self._context)
            return ListSource(rows, f"task {instance.dag_id}.{instance.task_id}")
        engine = sql_engine(operator.sql_conn_id or "", "sql_conn_id")
        stack.callback(engine.dispose)
        name = f"table {operator.table} of {operator.sql_conn_id}"
        if operator.sql is not None:
            name = f"query of {instance.dag_id}.{instance.task_id} on {operator.sql_conn_id}"
        columns = check_fields(operator.fields)
        return DatabaseSource(
            engine,
            check_key(operator.key),
            list(columns.values()) if columns is not None else None,
            name=name,
            table_name=operator.table,
            sql=operator.sql,
            parameters=revealed(operator.parameters),
            version=self._options.settings.version,
            write_back=self._options.settings.write_back,
            page_size=max(PAGE, self._options.settings.batch_size),
        )

    def _make_reporter(self, source: Source, account: str, *, resumed: bool) -> TaskReporter:
        operator, instance, settings = self._operator, self._context["ti"], self._options.settings
        dry_run = settings.dry_run
        uri = customers_uri(*account.split("/", 1))
        report_hook_lineage(operator, source, uri, dry_run=dry_run)
        what = "Creating and updating customers" if settings.on_changed == "update" else "Creating customers"
        operator.log.info(
            "%s",
            opening_line(
                "Dry run, nothing is created or changed" if dry_run else f"Resuming: {what}" if resumed else what,
                conn_id=operator.payarc_conn_id,
                account=account,
                source=f'"{settings.source}" ({source.name})' if settings.source else source.name,
                ledger=f"{operator.ledger_table} in {self._ledger_conn_id}",
            ),
        )
        return TaskReporter(
            cast("logging.Logger", operator.log),
            uri=uri,
            tags={"dag_id": instance.dag_id, "task_id": instance.task_id},
            dry_run=dry_run,
        )

    def _defer(self, seconds: float) -> None:
        from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger

        self._operator.log.info(
            "Deferring until %s, when PayArc's rate limit allows requests again", clock_time(seconds)
        )
        self._operator.defer(trigger=TimeDeltaTrigger(datetime.timedelta(seconds=seconds)), method_name="resume")
