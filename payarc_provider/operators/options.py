"""Options: the operator's arguments that are one number, switch or choice, and may be templates or task outputs.

Airflow renders them together, as the template field ``options``, because ``dry_run`` is a method of every operator and
cannot be a field. The rendered values are parsed strictly, since ``bool("False")`` is true.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.keys import check_key, check_partition
from payarc_provider.sync.records import check_fields
from payarc_provider.sync.settings import Settings, is_limit

_SWITCH: tuple[str, tuple[type, ...]] = ("true or false", (bool,))
_COUNT: tuple[str, tuple[type, ...]] = ("a whole number", (int,))
_NUMBER: tuple[str, tuple[type, ...]] = ("a number", (int, float))
_CHOICE: tuple[str, tuple[type, ...]] = ("text", (str,))
KINDS = {
    "source": _CHOICE,
    "match_existing": _CHOICE,
    "version": _CHOICE,
    "on_changed": _CHOICE,
    "on_empty": _CHOICE,
    "on_conflict": _CHOICE,
    "validation": _CHOICE,
    "max_rejected": _NUMBER,
    "tolerate_known_rejected": _SWITCH,
    "approved_plan": _CHOICE,
    "max_new": _NUMBER,
    "max_changed": _NUMBER,
    "min_records": _COUNT,
    "concurrency": _COUNT,
    "batch_size": _COUNT,
    "deferrable": _SWITCH,
    "defer_after": _NUMBER,
    "dry_run": _SWITCH,
    "write_back": _CHOICE,
    "reference": _SWITCH,
    "settle": _NUMBER,
    "lease": _NUMBER,
    "retry_rejected": _SWITCH,
    "push_ids": _SWITCH,
    "group_ids": _COUNT,
}
"""Option → what it takes: in words, and as types."""
_MAY_BE_NONE = (
    *("source", "match_existing", "version", "write_back", "group_ids"),
    *("approved_plan", "max_new", "max_changed", "min_records"),
)
_OF_THE_TASK = ("max_rejected", "tolerate_known_rejected", "deferrable", "push_ids", "group_ids")


@dataclass(frozen=True)
class Options:
    """The options of one task run. ``settings`` has those of the engine; the operator documents the others."""

    settings: Settings
    max_rejected: int | float = 0
    tolerate_known_rejected: bool = False
    deferrable: bool = False
    push_ids: bool = True
    group_ids: int | None = None


def set_options(**given: Any) -> dict[str, Any]:
    """The options as Airflow renders them, without those that are None and may be.

    A template or a task that gives None is therefore an error, and does not silently turn off a guard.
    """
    return {name: value for name, value in given.items() if value is not None or name not in _MAY_BE_NONE}


def read_options(
    options: Mapping[str, Any],
    *,
    key: str | Sequence[str],
    fields: Mapping[str, str] | None,
    partition: tuple[int, int] | None,
    rendered: bool,
) -> Options:
    """Parse and check the options.

    :param rendered: False leaves out those whose value is known only when the task runs
    :raises PayarcConfigError: naming the argument and what it takes
    """
    refuse_templates({"key": key, "fields": fields, "partition": partition})
    check_key(key)
    check_fields(fields)
    check_partition(partition)
    values = {name: _parse(name, value) for name, value in options.items() if rendered or not is_set_later(value)}
    own = {name: values.pop(name) for name in _OF_THE_TASK if name in values}
    settings = Settings(key=key, fields=fields, partition=partition, keep_results=own.get("push_ids", True), **values)
    settings.check_values()
    read = Options(settings, **own)
    if read.group_ids is not None and read.group_ids < 1:
        raise PayarcConfigError("group_ids: set a whole number of at least 1, or None for a flat list of ids")
    if not is_limit(read.max_rejected):
        raise PayarcConfigError("max_rejected: set a whole number of records, or a share between 0.0 and 1.0")
    return read


def is_output(value: Any) -> bool:
    """Whether Airflow resolves this when the task runs: a task's output, or an argument of a mapped task group."""
    return callable(getattr(value, "iter_references", None)) and callable(getattr(value, "resolve", None))


def is_template(value: Any) -> bool:
    """Whether this is text with Jinja's marks."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def is_set_later(value: Any) -> bool:
    """Whether the value is known only when the task runs."""
    return is_output(value) or is_template(value)


def refuse_templates(arguments: Mapping[str, Any]) -> None:
    """Refuse what Airflow would not render in these arguments.

    :raises PayarcConfigError: naming the argument and what to do
    """
    for name, value in arguments.items():
        if _holds(value):
            raise PayarcConfigError(
                f"{name}: cannot be a template or a task's output. Write its value in the DAG file, or map the task: "
                f".expand({name}=...)"
            )


def _holds(value: Any) -> bool:
    if isinstance(value, str) or is_output(value):
        return is_set_later(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, Collection) else ()
    return any(map(_holds, parts))


def _parse(name: str, value: Any) -> Any:
    words, types = KINDS[name]
    parsed = value
    if isinstance(value, str) and str not in types:
        try:
            parsed = json.loads(value.strip().lower())
        except (ValueError, RecursionError):
            parsed = value
    if type(parsed) not in types:
        raise PayarcConfigError(f"{name}: give {words}, not {_shown(value)}")
    return parsed


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'the text "{value}"' if len(value) <= 20 else "this text"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number of this size"
    return repr(value) if value is None or isinstance(value, bool | int | float) else f"a {type(value).__name__}"
