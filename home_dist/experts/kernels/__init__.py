"""The operators of experts and gates, each in up to three backends: eager, cpu and triton.

eager is the definition. cpu and triton compute the same, forward and backward; tests compare them with it. `select` sets the
backend of a network; a module that it has not reached takes what its device has (KernelUser).

The operators of cpu and triton are autograd functions. They are not torch.library.custom_op, for these reasons:

- A custom op takes 40 µs longer per forward and backward than an autograd function, and 140 µs longer with lists of tensors as
  arguments (torch 2.13, one thread). The weights of gates would take 0.21 ms instead of 0.14 ms for 32 samples.
- The backward of an expert bank overwrites activations that its forward keeps, to save their memory. As outputs of a custom op
  they would be versioned, and a second backward through a retained graph would raise an error.
- The forward of an expert bank exchanges statistics between ranks and moves running averages. A custom op takes no modules.
- An exported program has to run without this library: it consists of eager operators in any case.
"""

from home_dist.experts.kernels.choice import EAGER, Kernel, KernelUser, choose, common, select
from home_dist.experts.kernels.numerics import set_numerics
from home_dist.experts.kernels.operands import Inside, Norm, Operands, Precision

__all__ = [
    "EAGER",
    "Inside",
    "Kernel",
    "KernelUser",
    "Norm",
    "Operands",
    "Precision",
    "choose",
    "common",
    "select",
    "set_numerics",
]
