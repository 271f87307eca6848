"""The expert bank's operator, inputs -> gated mixture, in three backends with one signature and one meaning.

eager is the definition; cpu and triton are tested against it, forward and backward. `select` sets the backend on a network.
"""

from home_dist.experts.kernels.choice import EAGER, Kernel, KernelUser, choose, select
from home_dist.experts.kernels.operands import Norm, Operands, Precision

__all__ = ["EAGER", "Kernel", "KernelUser", "Norm", "Operands", "Precision", "choose", "select"]
