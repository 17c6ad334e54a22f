"""Tables of Airflow's metadata database that 3.4 has renamed."""

from __future__ import annotations

from airflow import __version__ as airflow_version

_OLD = airflow_version.startswith(("2.", "3.0.", "3.1.", "3.2.", "3.3."))
_TASK = "" if _OLD else " JOIN task_instance ON task_instance.id = task_instance_id"
XCOMS = "xcom" if _OLD else "xcom_v2"
XCOMS_OF_TASKS = XCOMS + _TASK
"""For FROM: XComs with the columns ``dag_id`` and ``task_id``."""
RENDERED_FIELDS = "rendered_task_instance_fields" if _OLD else "rtif_v2"
RENDERED_FIELDS_OF_TASKS = RENDERED_FIELDS + _TASK
