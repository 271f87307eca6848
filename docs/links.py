"""Hooks of mkdocs: files of the repository that pages link to, outside of docs/, become files of the site."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds each linked file as text."""
    docs = Path(config.docs_dir)
    for page in list(files.documentation_pages()):
        for match in LINK.finditer(page.content_string):
            outside = _outside(page.src_uri, match[1])
            source = docs.parent / outside if outside else None
            if source is not None and source.is_file() and files.get_file_from_path(_place(outside)) is None:
                content = source.read_bytes()
                files.append(File.generated(config, _place(outside), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Points links that leave docs/ to these files. A link to a file that is not there stays, and fails the build."""

    def moved(match: re.Match[str]) -> str:
        outside = _outside(page.file.src_uri, match[1])
        if not outside or files.get_file_from_path(_place(outside)) is None:
            return match[0]
        return f"]({posixpath.relpath(_place(outside), posixpath.dirname(page.file.src_uri) or '.')})"

    return LINK.sub(moved, markdown)


def _place(outside: str) -> str:
    return f"files/{outside}.txt"


def _outside(page: str, target: str) -> str:
    """Path from the repository's root of a target outside of docs/; "" for others."""
    if ":" in target or target.startswith("/"):
        return ""
    whole = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    return whole.removeprefix("../") if whole.startswith("../") else ""
