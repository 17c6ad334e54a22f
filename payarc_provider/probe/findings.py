"""Findings: what the probe has found out, how sure that is, and what it means for the operator."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Certainty = Literal["certain", "likely", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One question and its answer. No text contains anything that PayArc has written, other than numbers.

    :param topic: the question, in a word or two
    :param found: what was found, one sentence
    :param certainty: ``certain`` if PayArc's responses leave no other explanation, ``likely`` if they do
    :param meaning: what it means for the operator's arguments
    :param settings: the sandbox's settings that behave so
    """

    topic: str
    found: str
    certainty: Certainty = "certain"
    meaning: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def report(findings: Iterable[Finding]) -> str:
    """The findings as text for a terminal."""
    return "\n".join(line for finding in findings for line in _lines(finding))


def profile(findings: Iterable[Finding]) -> dict[str, Any]:
    """The sandbox's settings with which it behaves as PayArc was found to behave; what is unknown is left out."""
    return {name: value for finding in findings for name, value in sorted(finding.settings.items())}


def _lines(finding: Finding) -> list[str]:
    wrapped = textwrap.wrap(
        f"{finding.topic}: {finding.found}. ({finding.certainty})", width=100, subsequent_indent="  "
    )
    indent = "  → "
    meaning = textwrap.wrap(finding.meaning, width=100, initial_indent=indent, subsequent_indent=" " * len(indent))
    return [*wrapped, *meaning]
