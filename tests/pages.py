"""The pages of the documentation and their code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((CHECKOUT / "docs").glob("*.md")))]
_BLOCK = re.compile(r"(?:^<!-- not run: (.+?) -->\n)?^```(\S*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\S+\.py)\n")


@dataclass(frozen=True)
class Block:
    """A code block.

    :param reason: why the tests do not run it, from the comment before it; None if they do
    """

    language: str
    text: str
    reason: str | None

    @property
    def file(self) -> str | None:
        """The path in its first line, to which it is saved; None if there is none."""
        named = _FILE.match(self.text) if self.language == "python" else None
        return named[1] if named else None


def text(page: str) -> str:
    """Return the text of a page."""
    return (CHECKOUT / page).read_text()


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page in order. The language of a Sphinx directive is its name in braces."""
    return [Block(language, code, reason or None) for reason, language, code in _BLOCK.findall(text(page))]


def to_run(page: str, *languages: str) -> list[Block]:
    """Return the blocks in these languages that the tests run."""
    return [block for block in blocks(page) if block.language in languages and block.reason is None]


def save_files(page: str, folder: Path) -> None:
    """Save the blocks that are files to a folder."""
    for block in to_run(page, "python"):
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)


def script(page: str) -> str:
    """Return the commands of a page and the files to save, in their order, as a script for bash."""
    return "".join(_step(block) for block in to_run(page, "bash", "python"))


def _step(block: Block) -> str:
    if block.file is None:
        return block.text
    return f"mkdir -p $(dirname {block.file})\ncat > {block.file} <<'END OF FILE'\n{block.text}END OF FILE\n"
