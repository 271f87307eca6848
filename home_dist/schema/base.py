"""Base class of the entries of a schema."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Spec(BaseModel):
    """Unknown keys are refused. The docstring below a field is its meaning, which `home-dist config` tells."""

    model_config = ConfigDict(extra="forbid", frozen=True)
