"""Finds what a user means by a key: `train.lr`, `lr`, `model`, `log:label.kind`."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from home_dist.errors import UserError
from home_dist.reference.files import FILES, SettingsFile
from home_dist.reference.keys import Key, keys_of


@dataclass(frozen=True)
class Lookup:
    file: SettingsFile
    keys: list[Key]


def look_up(asked: str) -> list[Lookup]:
    """Keys by file. asked: a key or section from the file's top, or its last part, or FILE:KEY for one file, or FILE: for
    all of its keys. Numbers and names
    of entries may stand in it (sequence.0.kind, embedding.tables.video.dim). Raises UserError, which names near keys."""
    name, colon, path = asked.rpartition(":")
    names = [file.name for file in FILES]
    if colon and name not in names:
        raise UserError(f"{asked}: no file {name!r}; there are: {', '.join(names)}")
    files = [file for file in FILES if not colon or file.name == name]
    everything = {file.name: keys_of(file.name, file.root) for file in files}
    wanted = [part for part in path.split(".") if part and not part.isdigit()]
    matching = _matching if wanted or not colon else lambda keys, _: keys
    found = [Lookup(file, matching(everything[file.name], wanted)) for file in files]
    found = [lookup for lookup in found if lookup.keys]
    if not found:
        paths = {key.path for keys in everything.values() for key in keys}
        raise UserError(f"{asked}: no key of {', '.join(file.name for file in files)}.{_near(path, paths)}")
    return found


def _matching(keys: list[Key], wanted: list[str]) -> list[Key]:
    exact = [key for key in keys if _is(key.path.split("."), wanted)]
    if exact:
        below = [
            key for key in keys if len(key.path.split(".")) > len(wanted) and _is(key.path.split(".")[: len(wanted)], wanted)
        ]
        return exact + [key for key in below if key not in exact]
    return [key for key in keys if _is(key.path.split(".")[-len(wanted) :], wanted)]


def _is(path: list[str], wanted: list[str]) -> bool:
    return len(path) == len(wanted) and all(p in (w, "NAME") for p, w in zip(path, wanted, strict=True))


def _near(path: str, paths: Iterable[str]) -> str:
    last = {p: p.rpartition(".")[2] for p in paths}
    near = difflib.get_close_matches(path, list(paths), 3, 0.6)
    ending = difflib.get_close_matches(path.rpartition(".")[2], list(last.values()), 3, 0.7)
    near += [p for p, end in last.items() if end in ending]
    return f" Near it: {', '.join(list(dict.fromkeys(near))[:6])}." if near else " `home-dist config` lists the sections."
