"""The [distributed] section: how ranks wait for each other and what they exchange."""

from typing import Literal

from pydantic import Field

from home_dist.config.section import Section


class ExchangeSection(Section):
    forward: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """What embeddings are sent as between ranks. int8 is for tables that lie whole, or by columns, on one rank and are pooled;
    others go as fp16 then."""
    backward: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """What their gradients are sent as."""
    gradients: Literal["fp32", "fp16", "bf16"] = "fp32"
    """What dense gradients are summed over ranks as."""


class DistributedSection(Section):
    timeout: float = Field(default=120.0, gt=0)
    """Seconds that a rank waits for another one that does not answer before it gives up; in the collectives of a step, for all
    others to come to it. In start-up, loading, checking of checkpoints and evaluation a rank that works is waited for."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per rank; by default the cores shared out among the ranks of the host."""
    exchange: ExchangeSection = ExchangeSection()
