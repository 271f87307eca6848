"""What a key of a TOML file may hold, in words, from the annotation of its field."""

import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as bounds
import tomli_w
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from home_dist.config.kinds import Kinds

WORDS = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    date: "date",
    Any: "any value",
}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Value:
    """words: such as "list of whole numbers"; allowed: bounds and choices, "" if there are none."""

    words: str
    allowed: str = ""
    sections: tuple[type[BaseModel], ...] = ()
    """Classes of the sections that it may hold; several, if a `kind` chooses one."""
    kinds: Kinds | None = None
    """The table of kinds, where classes are found by it."""
    inside: str = ""
    """How keys below are reached: "" for a section, "NAME" for a table of named ones, "[]" for a list of sections."""


def value_of(field: FieldInfo) -> Value:
    """The value of a section's field."""
    return _with_bounds(_value(field.annotation), field.metadata)


def default_of(field: FieldInfo) -> str | None:
    """The default as TOML writes it; "" for none or that of a section's own keys, and None where the key must be given."""
    default = field.default
    if default is PydanticUndefined:
        return None if field.is_required() else ""
    return toml_text(default)


def toml_text(value: Any) -> str:
    """A value as it stands in a TOML file; "" for a section and for None."""
    if value is None or isinstance(value, BaseModel) or value in ((), {}):
        return ""
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _value(annotation: Any) -> Value:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return _with_bounds(_value(inner), metadata)
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        told = "one of " + ", ".join(f"`{toml_text(choice)}`" for choice in choices)
        return Value(WORDS[type(choices[0])], told if len(choices) > 1 else "")
    if get_origin(annotation) in (Union, types.UnionType):
        return _either([_value(a) for a in get_args(annotation) if a is not type(None)])
    if get_origin(annotation) is tuple:
        return _several(_value(get_args(annotation)[0]), "[]")
    if get_origin(annotation) is dict:
        return _several(_value(get_args(annotation)[1]), "NAME")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Value("section", sections=(annotation,))
    return Value(WORDS.get(annotation, getattr(annotation, "__name__", str(annotation))))


def _several(one: Value, inside: str) -> Value:
    noun, of, rest = one.words.partition(" of ")
    shape = f"list of {noun}s{of}{rest}" if inside == "[]" else f"table, NAME = {one.words}"
    allowed = one.allowed if not one.allowed or one.allowed.startswith("each ") else f"each {one.allowed}"
    return replace(one, words=shape, allowed=allowed, inside=inside if one.sections else "")


def _either(values: list[Value]) -> Value:
    words = " or ".join(dict.fromkeys(v.words for v in values))
    allowed = ", or ".join(dict.fromkeys(v.allowed for v in values if v.allowed))
    inside = next((v.inside for v in values if v.sections), "")
    kinds = next((v.kinds for v in values if v.kinds), None)
    return Value(words, allowed, tuple(s for v in values for s in v.sections), kinds, inside)


def _with_bounds(value: Value, metadata: list[Any]) -> Value:
    told = list(_bounds(metadata))
    for item in metadata:
        if isinstance(item, BeforeValidator):
            kinds = getattr(item.func, "__self__", None)
            if isinstance(kinds, Kinds):
                value = replace(value, kinds=kinds)
    return replace(value, allowed=", ".join(dict.fromkeys(filter(None, [value.allowed, *told]))))


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(item.metadata)
        for name, sign in _SIGNS.items():
            bound = getattr(item, name, None)
            if bound is not None:
                yield f"{sign} {bound}"
        if isinstance(item, bounds.MultipleOf):
            yield f"a multiple of {item.multiple_of}"
        if isinstance(item, bounds.MinLen):
            yield "not empty" if item.min_length == 1 else f"at least {item.min_length}"
        if isinstance(item, bounds.MaxLen):
            yield f"at most {item.max_length}"
        pattern = getattr(item, "pattern", None)
        if pattern is not None:
            yield f"matches `{pattern}`"
