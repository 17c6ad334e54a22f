"""The operator that creates PayArc customers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator, XComArg, conf

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.failures import fails_as_task, no_retry_if_useless
from payarc_provider.operators.links import PayarcDashboardLink
from payarc_provider.operators.options import KINDS, Options, is_set_later, read_options, refuse_templates, set_options
from payarc_provider.operators.private import NamesAndTypes, Private, revealed
from payarc_provider.operators.records import check_records, set_upstream, set_upstream_of_partial
from payarc_provider.operators.task_docs import task_doc

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from payarc_provider.operators.task import TaskRun

_REQUIRED = ("payarc_conn_id", "ledger_table")
_TEXTS = (*_REQUIRED, "table", "sql", "sql_conn_id", "ledger_conn_id")


class CreateCustomerOperator(BaseOperator):
    """
    Create a PayArc customer for every record, exactly once, and return the customer ids.

    Records come from upstream tasks (``records``) or from a database (``table``, or ``sql`` with ``parameters``). A
    ledger, one table in a SQL database, keeps track of every request. Retries, cleared tasks, backfills and concurrent
    runs therefore never create a second customer for a record.

    XComs: ``return_value``, the customer ids in input order; ``customers``,
    ``[{"key", "customer_id", "status", "changed"}]`` with the status ``created``, ``adopted``, ``updated`` or
    ``known``;
    ``rejected``, ``[{"key", "errors": {field: [text]}}]``; ``summary``, counts, requests and seconds; and for dry runs
    ``plan``, ``[{"key", "action", "fields": [name]}]`` with the action ``create``, ``update`` or ``reject``.

    Connections, tables, ``sql``, ``parameters`` and all numbers, switches and choices may be templates, outputs of
    tasks or arguments of a mapped task group; ``key``, ``fields`` and ``partition`` may not.

    :param payarc_conn_id: The connection of type ``payarc``.
    :param records: A list of dicts, the output of an upstream task, a list of such outputs, or a template that renders
        to a list or to JSON. Values that come from data are never rendered as templates.
    :param table: The table to read, as ``table`` or ``schema.table``. Taken literally.
    :param sql: The query to read, with the placeholders of the database's driver as in ``SQLExecuteQueryOperator``.
    :param sql_conn_id: The connection that ``table`` or ``sql`` is read from.
    :param parameters: Parameters for ``sql``, as a mapping or a sequence.
    :param key: The column, or columns, that identify a record at its source.
    :param version: The column by which newer data is told from older data, such as ``updated_at``: numbers, dates or
        times. With it, a run with older data never overwrites newer data.
    :param source: A name for where the records come from. The default consists of the names of the table and its
        connection, or of the DAG and the task, and changes with them.
    :param fields: PayArc field to source column. By default, the columns named like PayArc's fields.
    :param ledger_conn_id: The connection of the ledger's database (SQLite, PostgreSQL, MySQL or MariaDB). By default
        ``sql_conn_id``.
    :param ledger_table: The ledger's table, optionally with its schema.
    :param match_existing: ``"email"`` adopts a customer that PayArc already has under the record's email address.
    :param on_changed: ``"update"`` brings changed records to PayArc; ``"report"`` only counts them.
    :param on_empty: What happens to a field that had a value and has none any more: ``"keep"`` leaves PayArc's value,
        ``"clear"`` clears it, ``"reject"`` rejects the record.
    :param on_conflict: What happens if a field to be changed was edited at PayArc: ``"overwrite"`` sends it,
        ``"keep"`` leaves PayArc's value, ``"reject"`` rejects the record. The latter two cost one GET per change.
    :param validation: ``"guide"`` rejects values that break the lengths and characters of PayArc's guide without
        sending them; ``"payarc"`` leaves these rules to PayArc, which answers 422 to what it does not take.
    :param max_rejected: How many records (int), or which share of them (float), may be rejected before the task fails.
    :param tolerate_known_rejected: Count only records that no earlier run has rejected toward ``max_rejected``.
    :param approved_plan: The ``plan`` of a dry run's summary. The run stops before its first request if its own plan
        differs, and sends nothing that was not planned.
    :param max_new: Stop before the first request if more than this many customers (int), or more than this share of the
        records (float), would be created, including those that an earlier try of the DAG run has created.
    :param max_changed: Likewise for customers whose data has changed.
    :param min_records: Stop before the first request if the source has fewer records.
    :param concurrency: The maximum number of requests in flight.
    :param batch_size: The number of records that are claimed at a time, at most 2,000. A larger one makes the pages
        larger in which a database is read.
    :param deferrable: Release the worker slot during long waits for the rate limit.
    :param defer_after: With ``deferrable``, defer if the wait is at least this many seconds.
    :param dry_run: Validate the records and compare them with the ledger without sending or writing anything. The
        summary's ``plan`` can be approved and given to another task as ``approved_plan``.
    :param reference: Add a short code to the customer's description, by which the customer can be found again.
    :param settle: Seconds after which PayArc has either applied a request or never will.
    :param lease: Seconds for which a run holds the records it has claimed, unless it renews the lease.
    :param retry_rejected: Try all rejected records again, not only those whose data has changed.
    :param write_back: A column of ``table`` that receives the id of each record's customer.
    :param push_ids: False pushes only ``summary``, which keeps memory use constant.
    :param group_ids: Return a list of lists with at most this many ids each.
    :param partition: ``(i, n)`` processes only share ``i`` (from 0) of ``n``, by a hash of the key.
    """

    template_fields: Sequence[str] = (
        "payarc_conn_id",
        "table",
        "sql",
        "sql_conn_id",
        "parameters",
        "ledger_conn_id",
        "ledger_table",
        "options",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers = {"sql": "sql", "parameters": "json", "options": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#d7ecd9"
    operator_extra_links = (PayarcDashboardLink(),)

    def __init__(
        self,
        *,
        payarc_conn_id: str = "payarc_default",
        records: XComArg | Sequence[Mapping[str, Any] | XComArg] | str | None = None,
        table: str | None = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        key: str | Sequence[str] = "id",
        version: str | None = None,
        fields: Mapping[str, str] | None = None,
        source: str | None = None,
        ledger_conn_id: str | None = None,
        ledger_table: str = "payarc_customers",
        match_existing: Literal["email"] | None = None,
        on_changed: Literal["report", "update"] = "report",
        on_empty: Literal["keep", "clear", "reject"] = "keep",
        on_conflict: Literal["overwrite", "keep", "reject"] = "overwrite",
        validation: Literal["guide", "payarc"] = "guide",
        max_rejected: int | float = 0,
        tolerate_known_rejected: bool = False,
        approved_plan: str | None = None,
        max_new: int | float | None = None,
        max_changed: int | float | None = None,
        min_records: int | None = None,
        concurrency: int = 8,
        batch_size: int = 500,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: float = 20,
        dry_run: bool = False,
        reference: bool = True,
        settle: float = 60,
        lease: float = 120,
        retry_rejected: bool = False,
        write_back: str | None = None,
        push_ids: bool = True,
        group_ids: int | None = None,
        partition: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.payarc_conn_id = payarc_conn_id
        self._records = Private(records)
        self.table = table
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.parameters = parameters
        self.key = key
        self.fields = fields
        self.partition = partition
        self.ledger_conn_id = ledger_conn_id
        self.ledger_table = ledger_table
        self.options = set_options(
            source=source,
            match_existing=match_existing,
            validation=validation,
            max_rejected=max_rejected,
            tolerate_known_rejected=tolerate_known_rejected,
            approved_plan=approved_plan,
            max_new=max_new,
            max_changed=max_changed,
            min_records=min_records,
            concurrency=concurrency,
            batch_size=batch_size,
            version=version,
            on_changed=on_changed,
            on_empty=on_empty,
            on_conflict=on_conflict,
            deferrable=deferrable,
            defer_after=defer_after,
            dry_run=dry_run,
            reference=reference,
            settle=settle,
            lease=lease,
            retry_rejected=retry_rejected,
            write_back=write_back,
            push_ids=push_ids,
            group_ids=group_ids,
        )
        self._given = [name for name in _TEXTS if getattr(self, name) is not None or name in _REQUIRED]
        if not self._is_expanded:  # a mapped task is created when it runs, by frames that hold its records
            with no_retry_if_useless():
                self._check_sources()
                self.check_texts(rendered=False)
                self.read_options(rendered=False)
                check_records(records)
            # Template fields are stored and shown, so `records` is not one and Airflow does not derive this relation.
            set_upstream(self, records)
            set_upstream(self, revealed(parameters))
        self.doc_md = task_doc({**vars(self), "records": records})

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Like any operator's ``partial``; ``records`` and the options may be outputs of tasks here, too."""
        refuse_templates({name: kwargs[name] for name in ("key", "fields", "partition") if name in kwargs})
        if "parameters" in kwargs:
            kwargs["parameters"] = NamesAndTypes(kwargs["parameters"])
        partial = super().partial(**kwargs)
        partial.kwargs["doc_md"] = task_doc(partial.kwargs)
        return set_upstream_of_partial(partial, {"records", "parameters", *KINDS})

    @property
    def records(self) -> Any:
        """The argument ``records``. It is no attribute, because OpenLineage may send all attributes."""
        return self._records.value

    @property
    def parameters(self) -> NamesAndTypes | None:
        """The argument ``parameters``, in a form in which Airflow renders the values and shows only names and types."""
        return None if self._parameters.value is None else NamesAndTypes(self._parameters.value)

    @parameters.setter
    def parameters(self, parameters: Any) -> None:
        self._parameters = Private(revealed(parameters))

    @property
    def _is_expanded(self) -> bool:
        """Whether Airflow has created this from a mapped task, with arguments that may be data."""
        return bool(getattr(self, "_BaseOperator__from_mapped", False))

    def _check_sources(self) -> None:
        given = [name for name in ("records", "table", "sql") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise PayarcConfigError(f"records, table, sql: set exactly one of them; {found} set")
        if given != ["records"] and not self.sql_conn_id:
            raise PayarcConfigError(f"{given[0]}: also set sql_conn_id, the connection that it is read from")
        if given == ["records"] and not self.ledger_conn_id:
            raise PayarcConfigError("ledger_conn_id: set the connection of the ledger's database, as records has none")
        if "write_back" in self.options and self.table is None:
            raise PayarcConfigError(
                "write_back: only a table can receive ids. Read one with table, or remove write_back"
            )
        if self._parameters.value is not None and self.sql is None:
            raise PayarcConfigError("parameters: only sql takes parameters; remove them")

    def check_texts(self, *, rendered: bool = True) -> None:
        """Check the names of connections and tables, and that ``sql`` is not empty.

        A ledger's name that a template leaves empty must not fall back to a default: another ledger knows no customers.

        :param rendered: False leaves out those whose value is known only when the task runs
        :raises PayarcConfigError: naming the argument
        """
        for name in self._given:
            value = getattr(self, name)
            if not rendered and is_set_later(value):
                continue
            if not isinstance(value, str) or value.strip() in ("", "None"):
                raise PayarcConfigError(
                    f"{name}: is {_described(value)}; check its template, or the task that gives it"
                )
            if name != "sql" and value != value.strip():
                raise PayarcConfigError(f"{name}: has spaces or line breaks around it; remove them")

    def read_options(self, *, rendered: bool = True) -> Options:
        """The options, parsed and checked.

        :param rendered: False leaves out those whose value is known only when the task runs
        :raises PayarcConfigError: naming the argument and what it takes
        """
        return read_options(self.options, key=self.key, fields=self.fields, partition=self.partition, rendered=rendered)

    def execute(self, context: Context) -> Any:
        """Create the customers; see the class for what is returned and pushed.

        :raises PayarcRecordsRejected: more records were rejected than ``max_rejected`` allows; all others have their
            customer
        :raises PayarcGuardStopped: a guard or the approved plan does not allow the run
        :raises PayarcError: the run could not finish; running it again sends nothing twice
        """
        return self._start(context, resumed=False)

    def resume(self, context: Context, event: Any = None) -> Any:
        """Continue after a deferral. All that is needed for it is in the ledger, not in ``event``."""
        return self._start(context, resumed=True)

    @fails_as_task
    def _start(self, context: Context, *, resumed: bool) -> Any:
        from payarc_provider.operators.task import TaskRun

        if self._is_expanded:
            self._check_sources()
        self.check_texts()
        self._run = TaskRun(self, context, self.read_options())
        return self._run.execute(resumed=resumed)

    def on_kill(self) -> None:
        """Stop within seconds: record the responses that have arrived and release all other records."""
        if self._run is not None:
            self._run.terminate()

    _run: TaskRun | None = None

    @fails_as_task  # the OpenLineage provider logs the exception and its text
    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """For the OpenLineage provider: what the task will read and write."""
        from payarc_provider.operators.openlineage import lineage_of

        return lineage_of(self, None)

    @fails_as_task
    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """For the OpenLineage provider: what the task has read and written, even if it failed."""
        from payarc_provider.operators.openlineage import lineage_of

        return lineage_of(self, self._run.reporter if self._run else None)


def _described(value: object) -> str:
    return f'"{value.strip()}"' if isinstance(value, str) else f"a {type(value).__name__}, not text"
