"""Base class of the sections of a run's configuration."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Widths = tuple[Annotated[int, Field(ge=1)], ...]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


def refuse_idle(section: BaseModel, reads: Mapping[str, bool], where: str) -> None:
    """Raises ValueError for a key that is set, but has no effect. reads: by key, whether it is read; where: the setting that
    decides, such as kind = "dwa"."""
    for key, read in reads.items():
        if not read and getattr(section, key) != type(section).model_fields[key].default:
            raise ValueError(f"{key} has no effect with {where}: leave it out")


class Section(BaseModel):
    """Unknown keys are refused. The docstring below a field is its meaning, which `home-dist config` tells."""

    model_config = ConfigDict(extra="forbid", frozen=True)
