"""The [distributed] section: how long ranks wait for each other, and precisions of their exchange."""

from typing import Literal

from pydantic import Field

from home_dist.config.section import Count, Section


class ExchangeSection(Section):
    forward: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """Precision in which ranks send embeddings. int8 applies to pooled tables that are sharded table-wise or column-wise;
    others are then sent as fp16."""
    backward: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """Precision in which ranks send the gradients of embeddings."""
    gradients: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision in which dense gradients are summed over ranks; those of experts that not all ranks hold always in fp32."""


class DistributedSection(Section):
    timeout: float = Field(default=120.0, gt=0)
    """Seconds that a rank waits for a rank that does not answer, and in the collectives of a step for all others to arrive.
    In start-up, loading, checking of checkpoints and evaluation, ranks wait as long as the other rank works."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per rank; by default the host's cores divided among its ranks."""
    expert_parallel: Count = 1
    """Ranks that share a pool of experts (model.kind = "smes"), at most: each holds some of the experts, and samples travel to
    them. It becomes the largest number up to this that divides the run's ranks; consecutive ranks share, so that the ranks of a
    host exchange less with other hosts. With 1 every rank holds all experts."""
    exchange: ExchangeSection = ExchangeSection()
    """Precisions of what ranks send each other."""
