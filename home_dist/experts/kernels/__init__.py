"""The operators of experts and gates, each in up to three backends: eager, cpu and triton.

eager is the definition. cpu and triton compute the same, forward and backward; tests compare them with it. `select` sets the
backend of a network.
"""

from home_dist.experts.kernels.choice import EAGER, Kernel, KernelUser, choose, select
from home_dist.experts.kernels.operands import Norm, Operands, Precision

__all__ = ["EAGER", "Kernel", "KernelUser", "Norm", "Operands", "Precision", "choose", "select"]
