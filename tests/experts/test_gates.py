"""The weights of masked and self gates: eager and cpu against a float64 reference, forward and gradients."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from home_dist.experts import MaskedGates, SelfGates
from home_dist.experts.kernels import EAGER, Kernel
from tests.experts.cases import compare

SEES = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
OWN = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 0]]).bool()  # two see one expert
SAMPLES, WIDTH = 133, 6
BACKENDS = ["eager", "cpu"]


def make(residual: bool, shared: bool, dtype: torch.dtype):
    torch.manual_seed(0)
    gates, own = MaskedGates(WIDTH, SEES).double(), SelfGates(WIDTH, OWN).double() if residual else None
    x = torch.randn((SAMPLES, WIDTH) if shared else (len(SEES), SAMPLES, WIDTH), dtype=torch.float64)
    return gates.to(dtype), own if own is None else own.to(dtype), x.to(dtype).requires_grad_()


def run(backend: str, gates: MaskedGates, own: SelfGates | None, x: torch.Tensor) -> torch.Tensor:
    gates.kernel = Kernel(backend)
    return gates.joined(own, x)


def reference(gates: MaskedGates, own: SelfGates | None, x: torch.Tensor) -> torch.Tensor:
    """(K, B, E)"""
    out = []
    for k in range(len(SEES)):
        total = torch.zeros(SAMPLES, SEES.shape[1], dtype=x.dtype)
        for module in (gates, own):
            if module is None:
                continue
            seen = module.mask[k].nonzero().flatten().tolist()
            powers = torch.exp((x if x.dim() == 2 else x[k]) @ module.weight[k, seen].T)
            lone = module is own and len(seen) == 1
            total = total.index_add(1, torch.tensor(seen), powers / ((1 if lone else 0) + powers.sum(1, keepdim=True)))
        out.append(total)
    return torch.stack(out)


def results(gates: MaskedGates, own: SelfGates | None, x: torch.Tensor, out: torch.Tensor) -> dict[str, torch.Tensor]:
    pull = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    leaves = {"x": x, "gates": gates.weight} | ({} if own is None else {"own": own.weight})
    grads = torch.autograd.grad((out * pull).sum(), list(leaves.values()))
    return {"output": out.detach(), **dict(zip(leaves, grads, strict=True))}


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_reference(backend, shared, residual):
    exact = make(residual, shared, torch.float64)
    expected = results(*exact, reference(*exact))
    ours = results(*exact, run(backend, *exact))
    compare(ours, expected, 1e-12)
    single = make(residual, shared, torch.float32)
    compare(results(*single, run(backend, *single)), expected, 2e-5)
    assert (ours["gates"][~SEES] == 0).all()
    seen = SEES | OWN if residual else SEES
    assert (ours["output"].permute(0, 2, 1)[~seen] == 0).all()


class Counted(TorchDispatchMode):
    """Operators that launch something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        launches = operator.namespace == "aten" and not operator.is_view and not operator.name().startswith("aten::new_empty")
        self.count += launches
        return operator(*args, **(kwargs or {}))


def launches(backend: str, gates: int, experts: int) -> tuple[int, int]:
    """Of HoME's gates and self gates, forward and backward; Triton's kernels count and compute nothing."""
    sees, own = torch.zeros(2, gates, experts, dtype=torch.bool)
    sees[:, :3], own[:, 2] = True, True
    masked, self_gates = MaskedGates(WIDTH, sees), SelfGates(WIDTH, own)
    masked.kernel = Kernel(backend)
    x = torch.randn(gates, 5, WIDTH, requires_grad=True)
    masked.joined(self_gates, x)
    with Counted() as counted:
        out = masked.joined(self_gates, x)
        forward = counted.count
        out.backward(out)
    return forward, counted.count - forward


def test_launches_on_a_gpu_do_not_depend_on_the_number_of_gates_and_experts(monkeypatch):
    pytest.importorskip("triton")
    from home_dist.experts.kernels import triton_gate_weights

    class Kernels:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *given, **constants: torch.zeros(1)

    for name in ("gate_weights_kernel", "gate_weights_backward_kernel"):
        monkeypatch.setattr(triton_gate_weights, name, Kernels())
    found = {backend: [launches(backend, *size) for size in ((4, 6), (60, 72))] for backend in ("eager", "triton")}
    assert all(few == many for few, many in found.values()), found
    assert sum(found["triton"][0]) < sum(found["eager"][0]) / 2, found


def test_masked_gates_alone_take_the_kernel_too():
    gates, _, x = make(False, True, torch.float64)
    gates.kernel = EAGER
    expected = gates(x)
    gates.kernel = Kernel("cpu")
    torch.testing.assert_close(gates(x), expected)


def test_a_mask_that_is_replaced_is_followed():
    gates, own, x = make(True, True, torch.float64)
    run("cpu", gates, own, x)
    gates.mask = torch.ones_like(gates.mask)
    expected = run("eager", gates, own, x)
    torch.testing.assert_close(run("cpu", gates, own, x), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_scores_and_nan(backend):
    gates, own, x = make(True, True, torch.float32)
    with torch.no_grad():
        x[0] *= 1e4
        x[1, 2] = torch.nan
    out = run(backend, gates, own, x)
    torch.testing.assert_close(out[:, 0], run("eager", gates, own, x)[:, 0])
    assert (out[:, 1].isnan() | ~(SEES | OWN)).all()
    assert out[:, 2:].isfinite().all()
