"""The [publish] section: versions for servers, which a run writes while it trains (docs/publish.md)."""

from typing import Literal

from pydantic import Field

from home_dist.config.section import Section

RowType = Literal["fp32", "fp16", "int8"]


class PublishSection(Section):
    to: str = Field(min_length=1)
    """Folder or URL (s3://bucket/model) of the versions. One publisher at a time writes there."""
    every_seconds: float = Field(default=10.0, gt=0)
    """From the start of a version to the start of the next one, at least. A version that takes longer delays the next one."""
    full_every: int = Field(default=100, ge=1)
    """Versions from a full one to the next; those between are deltas, which hold the rows that training has touched."""
    keep: int = Field(default=3, ge=1)
    """Newest versions that stay, and those that they build on."""
    rows: RowType = "fp32"
    """How rows of tables are written."""
    golden: int = Field(default=64, ge=0)
    """Rows of the run's data that go with each version, with the model's predictions."""
