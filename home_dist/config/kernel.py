"""The [kernel] section: which backend computes experts, in which precision."""

from typing import Literal

from home_dist.config.section import Section


class KernelSection(Section):
    backend: Literal["auto", "eager", "cpu", "triton", "compile"] = "auto"
    """How experts are computed: plain torch operators, passes fused for a CPU, or Triton kernels. "auto" decides by device.
    "compile": training steps run the multi-task model and its towers as one program that torch.compile makes of plain
    operators, which takes up to minutes at the first step; evaluations run the operators one by one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products in experts and, by torch's autocast, in history encoders (but DIN's on a CPU) and towers. Parameters,
    sums, statistics and losses are always fp32."""
    cuda_graphs: bool = False
    """On a GPU, with backend = "compile": the program's kernels are recorded as CUDA graphs in the first steps, and later steps
    launch them with one call each, forward and backward. The graphs keep their memory. Not with train.accumulate above 1, as
    torch's graphs overwrite gradients that wait for the next step, nor with gradnorm, which takes a backward several times."""
    tf32: bool = False
    """On a GPU: torch's fp32 products round their operands to TF32, which is faster. Those of the Triton kernels do not."""
    deterministic: bool = False
    """On a GPU: torch and FBGEMM take algorithms that give the same bits in each run on the same GPUs, which is slower."""
