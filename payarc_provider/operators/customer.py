"""CreateCustomerOperator: records in, PayArc customers out, each exactly once."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator, XComArg, conf

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.doc import task_doc
from payarc_provider.operators.link import PayarcDashboardLink
from payarc_provider.sync.settings import Settings

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from payarc_provider.operators.observing import Seen
    from payarc_provider.operators.run import Outcome


class CreateCustomerOperator(BaseOperator):
    """
    Create a PayArc customer for each record, exactly once, and hand the ids downstream.

    Records come from XCom (``records``) or from a database (``table``, or ``sql`` with ``parameters``). What has been
    sent is kept in a ledger, one table in a SQL database, so that retries, cleared tasks, backfills and runs side by
    side never make a second customer.

    XComs: ``return_value``, the customer ids in input order; ``customers``,
    ``[{"key", "customer_id", "status", "changed"}]`` with the status ``created``, ``adopted`` or ``known``;
    ``rejected``, ``[{"key", "errors": {field: [text]}}]``; ``summary``, counts, requests spent and seconds.

    :param payarc_conn_id: the connection of type ``payarc``
    :param records: an upstream task's output, a list of dicts, or a template written in the DAG file that gives JSON
        or a list. No value that comes from data is ever rendered as a template.
    :param table: ``table`` or ``schema.table``, taken literally
    :param sql: a query, with the placeholders of its database's driver as in SQLExecuteQueryOperator
    :param sql_conn_id: the connection that ``table`` or ``sql`` is read from
    :param parameters: for ``sql``: a mapping or a sequence
    :param key: the column, or columns, that identify a record at its source
    :param fields: PayArc field → source column; by default the columns that bear PayArc's field names
    :param ledger_conn_id: the database of the ledger (SQLite, PostgreSQL, MySQL or MariaDB); by default ``sql_conn_id``
    :param ledger_table: the ledger's table, ``payarc_customers`` or with a schema
    :param match_existing: ``"email"``: adopt a customer that PayArc already has under the record's email
    :param max_rejected: how many (int), or which share (float), of the records may be refused before the task fails
    :param tolerate_known_rejected: count only refusals that no earlier run has reported against ``max_rejected``
    :param max_new: brake: create no more than this many customers in one DAG run, and fail if there are more
    :param concurrency: requests that are open at once
    :param batch_size: records that are claimed at once
    :param deferrable: give the worker slot back during long waits for the rate limit
    :param defer_after: seconds of waiting from which ``deferrable`` defers
    :param dry_run: check the records and compare them with the ledger; send and write nothing
    :param reference: carry a short code in the customer's description, by which it is recognised
    :param settle: seconds within which PayArc has committed a request or never will
    :param lease: seconds for which a run holds the records it is working on, without renewing
    :param retry_rejected: try all refused records again, not only those whose data has changed
    :param push_ids: False pushes only ``summary``, so that memory stays constant
    :param group_ids: make ``return_value`` a list of lists of at most this many ids
    :param partition: ``(i, n)``, i from 0: only the records whose key hashes to share i of n
    """

    template_fields: Sequence[str] = (
        "payarc_conn_id",
        "table",
        "sql",
        "sql_conn_id",
        "parameters",
        "ledger_conn_id",
        "ledger_table",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers = {"sql": "sql", "parameters": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#d7ecd9"
    operator_extra_links = (PayarcDashboardLink(),)

    def __init__(
        self,
        *,
        payarc_conn_id: str = "payarc_default",
        records: XComArg | Sequence[Mapping[str, Any]] | str | None = None,
        table: str | None = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        key: str | Sequence[str] = "id",
        fields: Mapping[str, str] | None = None,
        ledger_conn_id: str | None = None,
        ledger_table: str = "payarc_customers",
        match_existing: Literal["email"] | None = None,
        max_rejected: int | float = 0,
        tolerate_known_rejected: bool = False,
        max_new: int | None = None,
        concurrency: int = 8,
        batch_size: int = 500,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: float = 20,
        dry_run: bool = False,
        reference: bool = True,
        settle: float = 60,
        lease: float = 120,
        retry_rejected: bool = False,
        push_ids: bool = True,
        group_ids: int | None = None,
        partition: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.payarc_conn_id = payarc_conn_id
        self.records = records
        self.table = table
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.parameters = parameters
        self.key = key
        self.fields = fields
        self.ledger_conn_id = ledger_conn_id
        self.ledger_table = ledger_table
        self.max_rejected = max_rejected
        self.tolerate_known_rejected = tolerate_known_rejected
        self.push_ids = push_ids
        self.deferrable = deferrable
        self.defer_after = defer_after
        self.settings = Settings(
            concurrency=concurrency,
            batch_size=batch_size,
            reference=reference,
            retry_rejected=retry_rejected,
            max_new=max_new,
            match_existing=match_existing,
            dry_run=dry_run,
            defer_after=defer_after,
            settle=settle,
            lease=lease,
        )
        self.group_ids = group_ids
        self.partition = partition
        self._check()
        if isinstance(records, XComArg):
            # `records` is no template field, because those are stored and shown; so the relation is made here.
            XComArg.apply_upstream_relationship(self, records)
        self.doc_md = task_doc(vars(self))

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """As any operator's, and `records` may be another task's output here too."""
        from payarc_provider.operators.partial import relating_records

        partial = super().partial(**kwargs)
        partial.kwargs["doc_md"] = task_doc(partial.kwargs)
        return relating_records(partial)

    def _check(self) -> None:
        from payarc_provider.sync.records import check_fields, check_key, check_partition

        given = [name for name in ("records", "table", "sql") if getattr(self, name) is not None]
        if len(given) != 1:
            named = f"{' and '.join(given)} are given" if given else "none is given"
            raise PayarcConfigError(f"give one source of records: records, table or sql ({named})")
        if given != ["records"] and not self.sql_conn_id:
            raise PayarcConfigError(f"{given[0]}: also give sql_conn_id, the connection that it is read from")
        if given == ["records"] and not self.ledger_conn_id:
            raise PayarcConfigError(
                'ledger_conn_id: records from XCom need a database for the ledger; give ledger_conn_id="..."'
            )
        if self.parameters is not None and self.sql is None:
            raise PayarcConfigError("parameters: they belong to sql; leave them out")
        check_key(self.key)
        check_fields(self.fields)
        check_partition(self.partition)
        if self.group_ids is not None and (type(self.group_ids) is not int or self.group_ids < 1):
            raise PayarcConfigError("group_ids: give a whole number from 1, or None for a flat list of ids")
        self.settings.check_counts()
        share = self.max_rejected
        if (
            isinstance(share, bool)
            or not isinstance(share, int | float)
            or not share >= 0
            or (isinstance(share, float) and share > 1)
        ):
            raise PayarcConfigError("max_rejected: give a whole number of records, or a share between 0.0 and 1.0")

    def execute(self, context: Context) -> Any:
        """Run; see the class for what is pushed.

        :raises PayarcRecordsRejected: more records were refused than ``max_rejected`` allows; all others are done
        :raises PayarcError: the run could not go on; run again, nothing is sent twice
        """
        return self._slice(context, resumed=False)

    def resume(self, context: Context, event: Any = None) -> Any:
        """Go on after a deferral. What is to be known for it stands in the ledger, not in ``event``."""
        return self._slice(context, resumed=True)

    def _slice(self, context: Context, *, resumed: bool) -> Any:
        from payarc_provider.operators.observing import fill_assets
        from payarc_provider.operators.run import run
        from payarc_provider.sync.deferral import Deferral

        try:
            outcome = run(self, context, resumed=resumed)
        except Deferral as deferral:
            seconds = deferral.seconds
        else:
            self._push(context, outcome)
            fill_assets(self, context, outcome.summary)
            outcome.raise_if_too_many_rejected(self.max_rejected, tolerate_known=self.tolerate_known_rejected)
            return self._ids(outcome) if self.push_ids else None
        return self._give_slot_back(seconds)

    def _give_slot_back(self, seconds: float) -> None:
        from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger

        self.log.info("The worker slot is given back: PayArc's rate limit lets nothing through for %.0f s", seconds)
        self.defer(trigger=TimeDeltaTrigger(datetime.timedelta(seconds=seconds)), method_name="resume")

    def on_kill(self) -> None:
        """Airflow stops the task: record what is answered, release the rest, within seconds."""
        if self._terminate is not None:
            self._terminate()

    _terminate: Callable[[], None] | None = None
    seen: Seen | None = None

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """For the OpenLineage provider: what the task is going to read and write."""
        from payarc_provider.operators.lineage import lineage_of

        return lineage_of(self)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """For the OpenLineage provider: what the task has read and written, also when it failed in the end."""
        from payarc_provider.operators.lineage import lineage_of

        return lineage_of(self)

    def _push(self, context: Context, outcome: Outcome) -> None:
        if not self.do_xcom_push:
            return
        instance = context["ti"]
        instance.xcom_push(key="summary", value=outcome.summary)
        if self.push_ids:
            instance.xcom_push(key="customers", value=outcome.customers)
            instance.xcom_push(key="rejected", value=outcome.rejected)
            if outcome.too_many_rejected(self.max_rejected, tolerate_known=self.tolerate_known_rejected):
                instance.xcom_push(key="return_value", value=self._ids(outcome))

    def _ids(self, outcome: Outcome) -> list[Any]:
        ids, size = outcome.customer_ids, self.group_ids
        return [ids[start : start + size] for start in range(0, len(ids), size)] if size else list(ids)
