"""``python docs/release_notes.py v1.2.3``: print what the changelog says of this version, for its release on GitHub."""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"


def notes(version: str, changelog: str) -> str:
    """Return the version's section, one line per paragraph, because GitHub shows every line break of a release.

    :raises SystemExit: if there is no section, or if it has no date
    """
    heading, *lines = _section(version, changelog)
    if not re.fullmatch(r"## \[\S+\] - \d{4}-\d\d-\d\d", heading):
        raise SystemExit(f"CHANGELOG.md needs the date of {version} in its heading, not {heading!r}")
    text = "\n".join(lines).strip()
    return re.sub(r"(?<=\S)\n(?! *- |#|\n) *", " ", text) + "\n"


def _section(version: str, changelog: str) -> list[str]:
    """Return the version's heading and the lines up to the next version's."""
    for section in re.split(r"\n(?=## )", changelog):
        if section.startswith(f"## [{version}] "):
            return section.splitlines()
    raise SystemExit(f"CHANGELOG.md has no section for {version}")


if __name__ == "__main__":
    print(notes(sys.argv[1].removeprefix("v"), CHANGELOG.read_text(encoding="utf-8")), end="")
