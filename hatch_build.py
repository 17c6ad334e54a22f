"""Metadata that depends on the repository: the project's URLs, and a readme that renders on a package index.

GitHub sets ``GITHUB_REPOSITORY``. Where it is not set, the package has no URLs, and links to files are plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

SERVER = "https://github.com"
FILES = "https://raw.githubusercontent.com"
RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")
"""A link or an image of Markdown whose target is a file of this repository."""


class ReadmeAndUrls(MetadataHookInterface):
    """Adds ``readme`` and ``urls``; an sdist has them in its PKG-INFO already."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Hatchling calls this with the ``[project]`` table."""
        repository, tag = os.environ.get("GITHUB_REPOSITORY"), f"v{metadata['version']}"
        if "readme" not in metadata:
            text = Path(self.root, "README.md").read_text(encoding="utf-8")
            metadata["readme"] = {"content-type": "text/markdown", "text": rendered_anywhere(text, repository, tag)}
        if repository and "urls" not in metadata:
            metadata["urls"] = urls(repository, tag)


def rendered_anywhere(text: str, repository: str | None, tag: str) -> str:
    """Return the text with absolute links and images, or without them if the repository is unknown."""

    def absolute(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        if not repository:
            return words
        base = f"{FILES}/{repository}/{tag}" if mark else f"{SERVER}/{repository}/blob/{tag}"
        return f"{mark}[{words}]({base}/{target})"

    return RELATIVE.sub(absolute, text)


def urls(repository: str, tag: str) -> dict[str, str]:
    """Return the project's URLs, by the names that package indexes give an icon."""
    owner, _, name = repository.partition("/")
    source = f"{SERVER}/{repository}"
    return {
        "Homepage": source,
        "Documentation": f"https://{owner.lower()}.github.io/{name}/",
        "Changelog": f"{source}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{source}/issues",
        "Source": source,
    }
