"""Base class of the sections of a run's configuration."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Widths = tuple[Annotated[int, Field(ge=1)], ...]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Unknown keys are refused. The docstring below a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
