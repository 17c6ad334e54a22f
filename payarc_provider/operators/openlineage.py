"""The task's lineage for OpenLineage. Imported only when the OpenLineage provider asks for it.

Queries are parsed by OpenLineage's own parser. Its provider's ready-made helpers are not used: they send the query's
text, find no column lineage for a SELECT, and cannot name a table in SQLite or, without its schema, in MySQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.openlineage.facet import (
    ColumnLineageDatasetFacet,
    Dataset,
    Fields,
    InputField,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    SchemaDatasetFacet,
    SchemaDatasetFacetFields,
)
from airflow.providers.common.compat.sdk import BaseHook, XComArg
from airflow.providers.openlineage.conf import namespace as job_namespace
from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.sqlparser import SQLParser

from payarc_provider.assets import customers_uri, openlineage_name
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.sync.queries import split_table_name

if TYPE_CHECKING:
    from payarc_provider.operators.customer import CreateCustomerOperator
    from payarc_provider.operators.reporting import TaskReporter

_PLACEHOLDER = re.compile(r"%\(\w+\)s|%s")
ColumnOrigins = dict[str, list[tuple[Dataset, str]]]
"""Source column → the input columns it is derived from."""


def lineage_of(operator: CreateCustomerOperator, run: TaskReporter | None) -> OperatorLineage[Any, Any]:
    """The task's inputs and output.

    :param run: the reporter of the task's run, which adds its counts and the columns it found; None before a run
    """
    inputs, origins = _inputs(operator)
    return OperatorLineage(inputs=inputs, outputs=[_output(operator, run, inputs, origins)])


def _output(
    operator: CreateCustomerOperator, run: TaskReporter | None, inputs: list[Dataset], origins: ColumnOrigins
) -> OutputDataset:
    uri = run.uri if run else _uri_of_connection(operator)
    columns = run.latest.columns if run else operator.fields or {}
    facets: dict[str, Any] = {}
    if columns:
        fields = [SchemaDatasetFacetFields(name=name, type="string") for name in columns]
        facets["schema"] = SchemaDatasetFacet(fields=fields)
    if lineage := _column_lineage(columns, inputs, origins):
        facets["columnLineage"] = ColumnLineageDatasetFacet(fields=lineage)
    statistics: dict[str, Any] = {}
    if run and not run.is_dry_run:
        rows = sum(run.latest.counts[name] for name in ("created", "adopted", "updated"))
        statistics["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=rows)
    namespace, name = openlineage_name(uri)
    return OutputDataset(namespace=namespace, name=name, facets=facets, outputFacets=statistics)


def _uri_of_connection(operator: CreateCustomerOperator) -> str:
    identity = PayarcHook(operator.payarc_conn_id).identity
    return customers_uri(identity.environment, identity.account or identity.user)


def _column_lineage(columns: Mapping[str, str], inputs: list[Dataset], origins: ColumnOrigins) -> dict[str, Fields]:
    """PayArc field → its input columns, where it is certain which input a column comes from."""
    lineage = {}
    for field, column in columns.items():
        known = origins.get(column) or [(one, column) for one in inputs if len(inputs) == 1]
        if known:
            inputs_of_field = [InputField(namespace=one.namespace, name=one.name, field=name) for one, name in known]
            lineage[field] = Fields(inputFields=inputs_of_field, transformationType="", transformationDescription="")
    return lineage


def _inputs(operator: CreateCustomerOperator) -> tuple[list[Dataset], ColumnOrigins]:
    if operator.sql_conn_id is None or operator.records is not None:
        return list(_upstream_xcoms(operator)), {}
    database = _Database(operator.sql_conn_id)
    if operator.table is not None:
        name = split_table_name(operator.table)
        return [database.dataset(name.schema, name.table, name.database)], {}
    sql = operator.sql or ""
    if operator.parameters is not None:  # the parser does not know the placeholders of every driver
        sql = _PLACEHOLDER.sub("NULL", sql)
    return database.query_lineage(sql)


def _upstream_xcoms(operator: CreateCustomerOperator) -> Iterator[Dataset]:
    """The XComs that the records come from, named after the tasks that push them."""
    given = [operator.records]
    dag = operator.get_dag()
    task = dag.task_dict.get(operator.task_id) if dag else None
    if (partial := getattr(task, "partial_kwargs", None)) is not None:  # a mapped task's records are plain data by now
        expanded = getattr(getattr(task, "expand_input", None), "value", None)
        given = [partial.get("records"), expanded.get("records") if isinstance(expanded, Mapping) else expanded]
    names = (f"{upstream.dag_id}.{upstream.task_id}.{key}" for upstream, key in XComArg.iter_xcom_references(given))
    for name in dict.fromkeys(names):
        yield Dataset(namespace=f"xcom://{job_namespace()}", name=name)


class _Database:
    """Names a source's tables as OpenLineage prescribes, where the connection's hook supports it."""

    def __init__(self, conn_id: str) -> None:
        self._hook: Any = BaseHook.get_hook(conn_id)
        self._connection = BaseHook.get_connection(conn_id)
        self._info = self._hook.get_openlineage_database_info(self._connection)

    @cached_property
    def _default_schema(self) -> str | None:
        """Queried from the database, so only read when a table is named without a schema."""
        return self._hook.get_openlineage_default_schema() if self._info else None

    def dataset(self, schema: str | None, table: str, database: str | None = None) -> Dataset:
        """A table: ``database.schema.table``, or ``database.table`` where databases have no schemas."""
        if self._info is None:  # SQLite
            namespace = f"{self._connection.conn_type}://{self._connection.host or ''}"
            parts = [schema, table]
        else:
            namespace = SQLParser.create_namespace(self._info)
            parts = [schema or self._default_schema or self._connection.schema, table]
            if self._info.database is not None:
                parts = [database or self._info.database, schema or self._default_schema, table]
        return Dataset(namespace=namespace, name=".".join(part for part in parts if part))

    def query_lineage(self, sql: str) -> tuple[list[Dataset], ColumnOrigins]:
        """The tables that a query reads, and the origins of its columns."""
        dialect = self._hook.get_openlineage_database_dialect(self._connection)
        parsed = SQLParser(dialect=dialect, default_schema=self._default_schema).parse([sql])
        if parsed is None:
            return [], {}
        origins: ColumnOrigins = {}
        for column in parsed.column_lineage:
            for source in column.lineage:
                if source.origin is not None:
                    origins.setdefault(column.descendant.name, []).append((self._dataset(source.origin), source.name))
        return [self._dataset(table) for table in parsed.in_tables], origins

    def _dataset(self, table: Any) -> Dataset:
        return self.dataset(table.schema, table.name, table.database)
