"""The keys of a file, with type, default, allowed values and meaning."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from home_dist.reference.meanings import meaning_of
from home_dist.reference.since import since
from home_dist.reference.values import Value, default_of, value_of


@dataclass(frozen=True)
class Key:
    path: str
    """From the file's top, such as embedding.tables.NAME.dim. Entries of lists are not numbered."""
    type: str
    allowed: str
    default: str | None
    """As TOML; "" for none, None if the key must be given."""
    meaning: str
    since: str
    """The version that brought it."""
    kinds: tuple[str, ...] = ()
    """For keys of some kinds of model, encoder, objective, feature or values alone: which."""
    is_section: bool = False

    @property
    def section(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def needed(self) -> bool:
        return self.default is None


def keys_of(file: str, root: type[BaseModel]) -> list[Key]:
    """All keys below a file's class, sections before the keys in them. A key that several kinds have alike is listed once."""
    alike: dict[Key, list[str]] = {}
    for key in _keys(file, root, "", ""):
        alike.setdefault(replace(key, kinds=()), []).extend(key.kinds)
    return [replace(key, kinds=tuple(kinds)) for key, kinds in alike.items()]


def _keys(file: str, section: type[BaseModel], prefix: str, kind: str, without: frozenset[str] = frozenset()) -> Iterator[Key]:
    for own_name, field in section.model_fields.items():
        name = field.alias or own_name
        if name in without:
            continue
        path, value = f"{prefix}{name}", value_of(field)
        meaning = meaning_of(section, own_name) or _of_section(value)
        if name in ("kind", "by") and not meaning:
            meaning = _first_paragraph(section)
        default = default_of(field)
        kinds = (kind,) if kind else ()
        yield Key(path, value.words, value.allowed, default, meaning, since(file, path), kinds, bool(value.sections))
        yield from _below(file, path, value)


def _below(file: str, path: str, value: Value) -> Iterator[Key]:
    prefix = f"{path}.NAME." if value.inside == "NAME" else f"{path}."
    if value.kinds is not None:
        common = value.kinds.base
        for key in _keys(file, common, prefix, ""):
            if key.path == f"{prefix}kind":
                names = ", ".join(f'`"{kind}"`' for kind in value.kinds)
                default = f'"{value.kinds.default}"' if value.kinds.default else None
                key = replace(key, allowed=f"one of {names}, or package.module:Class", default=default)
            yield key
        for kind in value.kinds:
            yield from _keys(file, value.kinds.section(kind), prefix, kind, frozenset(common.model_fields))
        return
    for section in value.sections:
        yield from _keys(file, section, prefix, kind_of(section) if len(value.sections) > 1 else "")


def kind_of(section: type[BaseModel]) -> str:
    """The value of a section's `kind`, or `by`, that chooses this class; "" if it has no such key."""
    for name in ("kind", "by"):
        field: Any = section.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is Literal:
            return str(get_args(field.annotation)[0])
    return ""


def _of_section(value: Value) -> str:
    """First paragraph of what a section's class says of itself."""
    classes = (value.kinds.base,) if value.kinds is not None else value.sections
    return _first_paragraph(classes[0]) if len(classes) == 1 else ""


def _first_paragraph(section: type[BaseModel]) -> str:
    text = section.__dict__.get("__doc__") or ""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
