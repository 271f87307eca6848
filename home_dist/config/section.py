"""The base of every section of a run's configuration."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Widths = tuple[Annotated[int, Field(ge=1)], ...]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Unknown keys are refused; the text under a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def without_foreign_keys(
    section: dict[str, Any], kinds: Mapping[str, type["Section"]], before: Any, kept: set[str]
) -> list[str]:
    """After `kind` was overridden: takes out of `section` the keys that only the kind `before` knows, and returns them.

    A file is written for one kind; choosing another one on the command line must not ask for all of its keys to be edited.
    Keys that were overridden themselves (`kept`) and keys that neither kind knows stay, for validation to refuse.
    """
    old, new = (kinds.get(kind) if isinstance(kind, str) else None for kind in (before, section.get("kind")))
    if old is None or new is None:
        return []
    foreign = [k for k in section if k in old.model_fields and k not in new.model_fields and k not in kept]
    for key in foreign:
        del section[key]
    return foreign
