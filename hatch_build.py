"""The README as the package index shows it, where links to other files of the repository lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# [text](target) and ![text](target), where the target is a file of the repository
RELATIVE_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def with_absolute_links(text: str, source: str, tag: str) -> str:
    """The text with links to this tag of the repository at `source`; without a source with the words alone."""

    def absolute(link: re.Match[str]) -> str:
        is_picture, words, target = link.groups()
        if not source:
            return "" if is_picture else words
        return f"{is_picture}[{words}]({source}/{'raw' if is_picture else 'blob'}/{tag}/{target})"

    return RELATIVE_LINK.sub(absolute, text)


class Readme(MetadataHookInterface):
    """Sets the field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Read README.md, and the address of the repository from `Source` in [project.urls]."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source", "").rstrip("/")
        text = with_absolute_links(text, source, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
