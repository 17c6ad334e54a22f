"""What Airflow itself logs at DEBUG, which tests of the logs leave out."""

from __future__ import annotations

import re

_MESSAGES = re.compile(r"^.*\b(?:Sending request|Received message).*\bmsg=.*\n", re.MULTILINE)


def without_internal_messages(text: str) -> str:
    """A log without the messages that pass between Airflow's own parts, with all XComs and secrets in them.

    `dag.test()` runs these parts in one process and logs their messages; Airflow 3.0 does so at any level.
    """
    return _MESSAGES.sub("", text)
