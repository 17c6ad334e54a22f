"""`@task.payarc_customers`: a function returns the records, and its task creates the customers."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import DecoratedOperator, task_decorator_factory

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.customer import CreateCustomerOperator
from payarc_provider.operators.failures import no_retry_if_useless
from payarc_provider.operators.options import is_output
from payarc_provider.operators.private import NamesAndTypes, Private, revealed
from payarc_provider.operators.records import returned_records, set_upstream

try:
    from airflow.providers.common.compat.sdk import determine_kwargs
except ImportError:  # common-compat before 1.14.1
    from airflow.utils.operator_helpers import determine_kwargs  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskDecorator


class _DecoratedCustomerOperator(DecoratedOperator, CreateCustomerOperator):
    """Calls the function once in each try. Its arguments and what it returns are neither stored nor shown."""

    template_fields: Sequence[str] = ("op_args", "op_kwargs", *CreateCustomerOperator.template_fields)
    template_fields_renderers = CreateCustomerOperator.template_fields_renderers | {
        "op_args": "json",
        "op_kwargs": "json",
    }
    custom_operator_name = "@task.payarc_customers"

    def __init__(self, *, multiple_outputs: bool = False, deferrable: bool = False, **kwargs: Any) -> None:
        super().__init__(records=[], multiple_outputs=False, deferrable=False, **kwargs)
        with no_retry_if_useless():
            if multiple_outputs:
                raise PayarcConfigError(
                    "multiple_outputs: the task returns a list of ids, as CreateCustomerOperator does"
                )
            if deferrable:
                raise PayarcConfigError(
                    "deferrable: the function would be called again after each wait. Return the records from a @task, "
                    "and pass its output to CreateCustomerOperator(records=...)"
                )
            if self._is_expanded and (outputs := [name for name, value in self.options.items() if is_output(value)]):
                raise PayarcConfigError(
                    f"{outputs[0]}: with expand, this cannot be a task's output. Write a template with ti.xcom_pull"
                )
        set_upstream(self, {"args": self._op_args.value, "kwargs": self._op_kwargs.value})

    @property
    def op_args(self) -> Any:
        """The function's arguments by position, in a form in which Airflow renders the values and shows only types."""
        return NamesAndTypes(self._op_args.value)

    @op_args.setter
    def op_args(self, op_args: Collection[Any]) -> None:
        self._op_args = Private(revealed(op_args))

    @property
    def op_kwargs(self) -> Any:
        """The function's arguments by name; likewise."""
        return NamesAndTypes(self._op_kwargs.value)

    @op_kwargs.setter
    def op_kwargs(self, op_kwargs: Mapping[str, Any]) -> None:
        self._op_kwargs = Private(revealed(op_kwargs))

    def execute(self, context: Context) -> Any:
        """Call the function and create the customers."""
        self._records = Private(returned_records(self._call(context), self.task_id))
        return CreateCustomerOperator.execute(self, context)

    def _call(self, context: Context) -> Any:
        named = ChainMap(self._op_kwargs.value, cast("Any", context))
        args = self._op_args.value
        returned = self.python_callable(*args, **determine_kwargs(self.python_callable, args, named))
        return list(returned) if isinstance(returned, Iterator) else returned


def payarc_customers_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Turn a function that returns records into a task that creates their customers.

    :param python_callable: The function: returns a list of dicts, or yields dicts.
    :param kwargs: The parameters of `CreateCustomerOperator`, without its sources and ``deferrable``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_DecoratedCustomerOperator, **kwargs
    )
