"""Keys that would change the text around them: escaped in logs, on the command line and on the page."""

from __future__ import annotations

import datetime
import logging
import re
from importlib.resources import files
from unittest.mock import Mock

import pytest

from payarc_provider.ledger import output
from payarc_provider.ledger.rejected_csv import as_csv
from payarc_provider.operators.reporting import TaskReporter
from payarc_provider.plugins.html import _environment
from payarc_provider.sync.ledger.overview import PendingRow, RejectedRow
from payarc_provider.sync.ledger.rows import Hold, State
from payarc_provider.sync.rejections import Rejections
from payarc_provider.sync.results import Progress

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
ERRORS = {"name": ["must have at least 3 characters (it has 1): fix it at the source"]}
RUN = {"dag_id": "dag", "run_id": "run", "task_id": "task"}
HOSTILE = [
    "a\u202egnp.exe",
    "a\u2028b",
    "a\x85b",
    "\u2066a",
    "a\u200bb",
    "a\u3164b",
    "a\ufe0f",
    "\U000e0041a",
    "a\xadb",
]
PERSONAL = ["john@example.com", "+15417543010", "123-45-6789"]


def texts(key):
    """All texts that show a key."""
    pending = PendingRow("test/1", key, State.PENDING, NOW, Hold.OPEN, NOW, None, "table", 1, **RUN)
    rejected = RejectedRow("test/1", key, None, NOW, "table", ERRORS, sent=False, retried=False, **RUN)
    rejections = Rejections()
    rejections.add(ERRORS, key)
    yield "log", str(rejections.groups()[0])
    yield "pending", output.pending([pending])
    yield "rejected", output.rejected([rejected])
    yield "json", output.as_json([pending, rejected])
    yield "csv", "".join(as_csv([rejected]))
    yield "page", _environment.from_string("{{ key|display_key }}").render(key=key)


@pytest.mark.parametrize("key", HOSTILE, ids=ascii)
def test_what_cannot_be_seen_or_turns_the_direction_of_writing_is_escaped_everywhere(key):
    for where, text in texts(key):
        assert text.replace("\n", "").isprintable(), where
        assert not any(char in text for char in "\u3164\ufe0f"), where
        assert "\\" in text, where


@pytest.mark.parametrize("key", PERSONAL)
def test_what_looks_like_personal_data_is_shown_nowhere(key):
    for where, text in texts(key):
        assert key not in text, where
        assert "(a key that looks like a" in text, where


def test_the_name_of_a_column_that_comes_from_data_is_escaped():
    logger = Mock(spec=logging.Logger)
    progress = Progress(lookalikes={"e\u202email": "email"})
    TaskReporter(logger, uri="payarc://test/1", tags={}, dry_run=False).ended(progress, deferred=False)
    ((text, *words),) = (call.args for call in logger.warning.call_args_list)
    assert r"e\u202email" in text % tuple(words)


@pytest.mark.parametrize(
    "template", [one.name for one in files("payarc_provider.plugins").joinpath("templates").iterdir()]
)
def test_every_key_in_a_template_is_displayed_safely(template):
    text = files("payarc_provider.plugins").joinpath("templates", template).read_text(encoding="utf-8")
    shown = [re.sub(r'"[^"]*"', "", one) for one in re.findall(r"\{\{(.*?)\}\}", text)]
    shown = [one for one in shown if re.search(r"\bkey\b", one) and "links." not in one]
    assert [one for one in shown if "display_key" not in one] == []
