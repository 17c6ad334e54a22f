"""OpenLineage: what the operator's task reads and writes. Loaded only by the OpenLineage provider's asking."""

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

from payarc_provider.assets import customers_uri, openlineage_name
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.sync.account import Identity, token_user
from payarc_provider.sync.sources import split_table_name

if TYPE_CHECKING:
    from payarc_provider.operators.customer import CreateCustomerOperator

_PLACEHOLDER = re.compile(r"%\(\w+\)s|%s")
Origins = dict[str, list[tuple[Dataset, str]]]
"""Column → the columns of the inputs that it comes from."""


def lineage_of(operator: CreateCustomerOperator) -> OperatorLineage[Any, Any]:
    """The task's inputs and output; once it has run, with what was counted and the columns that were met."""
    inputs, origins = _inputs(operator)
    return OperatorLineage(inputs=inputs, outputs=[_output(operator, inputs, origins)])


# ---- the output -----------------------------------------------------------------------------------------------------


def _output(operator: CreateCustomerOperator, inputs: list[Dataset], origins: Origins) -> OutputDataset:
    seen = operator.seen
    uri = seen.uri if seen else _uri_by_connection(operator)
    mapping = seen.reader.met_mapping if seen else dict(operator.fields or {})
    facets: dict[str, Any] = {}
    if mapping:
        fields = [SchemaDatasetFacetFields(name=name, type="string") for name in mapping]
        facets["schema"] = SchemaDatasetFacet(fields=fields)
    if columns := _column_lineage(mapping, inputs, origins):
        facets["columnLineage"] = columns
    namespace, name = openlineage_name(uri)
    counted: dict[str, Any] = {}
    if seen and not operator.settings.dry_run:
        made = seen.counts["created"] + seen.counts["adopted"]
        counted["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=made)
    return OutputDataset(namespace=namespace, name=name, facets=facets, outputFacets=counted)


def _uri_by_connection(operator: CreateCustomerOperator) -> str:
    hook = PayarcHook(operator.payarc_conn_id)
    place, account = hook.settings.place, hook.settings.account
    identity = Identity(place, account, token_user(hook.claims.sub, hook.token()))
    return customers_uri(place, identity.account or identity.user)


def _column_lineage(
    mapping: Mapping[str, str], inputs: list[Dataset], origins: Origins
) -> ColumnLineageDatasetFacet | None:
    """PayArc field ← input column, as far as it is certain which input a column comes from."""
    fields = {}
    for name, column in mapping.items():
        known = origins.get(column) or [(one, column) for one in inputs if len(inputs) == 1]
        if known:
            origin = [InputField(namespace=one.namespace, name=one.name, field=field) for one, field in known]
            fields[name] = Fields(inputFields=origin, transformationType="", transformationDescription="")
    return ColumnLineageDatasetFacet(fields=fields) if fields else None


# ---- the inputs -----------------------------------------------------------------------------------------------------


def _inputs(operator: CreateCustomerOperator) -> tuple[list[Dataset], Origins]:
    if operator.sql_conn_id is None or operator.records is not None:
        return list(_upstream(operator)), {}
    database = _Database(operator.sql_conn_id)
    if operator.table is not None:
        return [database.dataset(*split_table_name(operator.table))], {}
    sql = operator.sql or ""
    if operator.parameters is not None:  # OpenLineage's parser knows no placeholders of this style
        sql = _PLACEHOLDER.sub("NULL", sql)
    return database.of_query(sql)


def _upstream(operator: CreateCustomerOperator) -> Iterator[Dataset]:
    """The XComs that the records come from, named by the job that made them."""
    given = [operator.records]
    dag = operator.get_dag()
    task = dag.task_dict.get(operator.task_id) if dag else None
    if (partial := getattr(task, "partial_kwargs", None)) is not None:  # a mapped task's records are plain data by now
        given = [partial.get("records"), *_expanded(task)]
    met = set()
    for upstream, key in XComArg.iter_xcom_references(given):
        name = f"{upstream.dag_id}.{upstream.task_id}.{key}"
        if name not in met:
            met.add(name)
            yield Dataset(namespace=f"xcom://{job_namespace()}", name=name)


def _expanded(task: Any) -> list[Any]:
    value = getattr(getattr(task, "expand_input", None), "value", None)
    return [value.get("records")] if isinstance(value, Mapping) else [value]


class _Database:
    """A source's database, named as OpenLineage prescribes where its hook knows how."""

    def __init__(self, conn_id: str) -> None:
        self._hook: Any = BaseHook.get_hook(conn_id)
        self._connection = BaseHook.get_connection(conn_id)
        self._info = self._hook.get_openlineage_database_info(self._connection)

    @cached_property
    def _default_schema(self) -> str | None:
        """Asked of the database, and so only where no schema is named; None where there are no schemas."""
        return self._hook.get_openlineage_default_schema() if self._info else None

    @property
    def _namespace(self) -> str:
        if self._info is None:  # SQLite: the file
            return f"{self._connection.conn_type}://{self._connection.host or ''}"
        return f"{self._info.scheme}://{self._info.authority}" if self._info.authority else str(self._info.scheme)

    def dataset(self, schema: str | None, table: str, database: str | None = None) -> Dataset:
        """A table: ``database.schema.table`` where databases have schemas, else ``database.table``."""
        if self._info is None:
            parts = [schema, table]
        elif self._info.database is None:
            parts = [schema or self._default_schema or self._connection.schema, table]
        else:
            parts = [database or self._info.database, schema or self._default_schema, table]
        return Dataset(namespace=self._namespace, name=".".join(part for part in parts if part))

    def of_query(self, sql: str) -> tuple[list[Dataset], Origins]:
        """The tables that a query reads, and where its columns come from."""
        from airflow.providers.openlineage.sqlparser import SQLParser

        dialect = self._hook.get_openlineage_database_dialect(self._connection)
        meta = SQLParser(dialect=dialect, default_schema=self._default_schema).parse([sql])
        if meta is None:
            return [], {}
        tables = [self.dataset(one.schema, one.name, one.database) for one in meta.in_tables]
        origins: Origins = {}
        for column in meta.column_lineage:
            known = [
                (self.dataset(one.origin.schema, one.origin.name, one.origin.database), one.name)
                for one in column.lineage
                if one.origin is not None
            ]
            origins.setdefault(column.descendant.name, []).extend(known)
        return tables, origins
