"""A key as text: for the terminal, and as Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from textwrap import wrap

from home_dist.reference.files import SettingsFile
from home_dist.reference.keys import Key


def facts(key: Key) -> list[str]:
    """Type with what is allowed, default, kinds, version."""
    told = [f"{key.type}{', ' if key.allowed and key.allowed[0] not in '≥><≤' else ' '}{key.allowed}".strip()]
    if key.needed:
        told.append("must be given")
    elif key.default:
        told.append(f"default `{key.default}`")
    if key.kinds:
        told.append(f"kind {', '.join(key.kinds)}")
    return [*told, f"since {key.since}"]


def terminal_lines(keys: Iterable[Key], width: int) -> Iterator[str]:
    """One paragraph per key: path, facts, meaning."""
    for key in keys:
        yield key.path
        told = " · ".join(facts(key)).replace("`", "")
        for text in (told, key.meaning):
            yield from wrap(text, width, initial_indent="    ", subsequent_indent="    ")
        yield ""


def markdown(file: SettingsFile, keys: Sequence[Key]) -> str:
    """The page of a file: a heading per section and per key."""
    lines = ["<!-- Written by `make docs` from the classes that validate the file: do not edit by hand. -->", ""]
    lines += [f"# {file.title}", "", f"Read by {file.read_by}. {file.about}", ""]
    lines += [
        "`home-dist config KEY` prints the same. A value that is not allowed, and a key that is not here, is refused by name.",
        "",
    ]
    sections = {key.path: key for key in keys if key.is_section}
    for path, members in groupby(sorted_by_section(keys), key=lambda key: key.section):
        section = sections.get(path.removesuffix(".NAME"))
        if path:
            lines += [f"## {_heading(path, section)}", ""]
            if section is not None and section.meaning:
                lines += [section.meaning, ""]
        for key in members:
            lines += [f"### `{key.path}`", "", " · ".join(facts(key)), ""]
            lines += [key.meaning, ""] if key.meaning else []
    return "\n".join(lines)


def sorted_by_section(keys: Iterable[Key]) -> list[Key]:
    """Keys in the order of their sections' first keys; sections themselves only among their parent's keys if they can be
    something else than a section."""
    order: dict[str, int] = {}
    listed = [
        key for key in keys if not (key.is_section and key.type in ("section", "list of sections", "table, NAME = section"))
    ]
    for key in listed:
        order.setdefault(key.section, len(order))
    return sorted(listed, key=lambda key: order[key.section])


def _heading(path: str, section: Key | None) -> str:
    return f"[[{path}]]" if section is not None and section.type.startswith("list of") else f"[{path}]"
