"""A bank of one's own, for which nobody selects a kernel: it takes what its device has, and says so."""

import copy
import logging

import pytest
import torch
from torch import nn

from home_dist.config import KernelSection
from home_dist.experts import ExpertBank, FeatureGate, InputDropout, MaskedGates, SparseBank
from home_dist.experts.kernels import EAGER, choice, cpu_bank, cpu_library, eager, select
from tests.experts.cases import Case, distances

CPU = torch.device("cpu")


@pytest.fixture
def anew():
    """What was found for other banks before is forgotten, and so is what this test finds."""
    choice._fitting.cache_clear()
    yield
    choice._fitting.cache_clear()


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.bank = ExpertBank([3], 6, [8], 4, norm=True)
        self.gates = MaskedGates(6, torch.ones(2, 3, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bank.mixed([x], self.gates(x))


def test_it_computes_on_the_compiled_kernel_and_equals_eager(monkeypatch):
    calls, plain = [], cpu_bank.mixed
    monkeypatch.setattr(cpu_bank, "mixed", lambda *a: calls.append(a) or plain(*a))
    made, other = (Case(masked=True).make(torch.float64) for _ in range(2))
    assert str(made.bank.kernel) == "cpu, fp32 (passes compiled for this processor)"
    ours = made.results(made.bank.mixed(made.inputs, made.gates, made.mask))
    assert len(calls) == 1
    theirs = other.results(eager.mixed(other.bank._operands(), other.inputs, other.gates, other.mask, "fp32", None))
    assert max(distances(ours, theirs).values()) < 1e-12


@pytest.mark.parametrize(
    "module",
    [SparseBank(4, 6, [8], 4, norm=False), FeatureGate(2, 6, 2, 4), MaskedGates(6, torch.ones(2, 3, dtype=torch.bool))],
    ids=lambda m: type(m).__name__,
)
def test_so_does_every_module_with_several_backends(module):
    assert module.kernel.backend == "cpu"
    assert copy.deepcopy(module).kernel.backend == "cpu"
    module.kernel = EAGER
    assert module.kernel is EAGER
    assert copy.deepcopy(module).kernel == EAGER


def test_what_is_selected_counts():
    bank = ExpertBank([2], 4, [8], 8, norm=True)
    kernel = select(bank, KernelSection(backend="eager"), CPU)
    assert bank.kernel is kernel
    assert kernel.reason == "as configured"


def test_without_a_compiler_it_is_eager_and_says_so_once(monkeypatch, caplog, anew):
    monkeypatch.setattr(cpu_library, "unavailable", lambda: "no C++ compiler")
    with caplog.at_level(logging.WARNING):
        banks = [ExpertBank([2], 4, [8], 8, norm=True) for _ in range(3)]
        assert {str(b.kernel) for b in banks} == {"eager, fp32 (no compiled passes: no C++ compiler)"}
        banks[0].mixed([torch.zeros(3, 4)], torch.ones(1, 3, 2))
    assert caplog.text.count("experts run on plain torch operators: no compiled passes: no C++ compiler") == 1


def test_types_and_devices_that_the_kernel_has_not():
    assert "does not compute in torch.bfloat16" in ExpertBank([2], 4, [8], 8, norm=True).bfloat16().kernel.reason
    assert "no other backend runs on meta" in ExpertBank([2], 4, [8], 8, norm=True).to("meta").kernel.reason
    assert InputDropout(0.5).kernel.backend == "eager"
    bank, x = ExpertBank([2], 4, [8], 8, norm=False), torch.zeros(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in bank.kernel.reason
        bank.mixed([x.bfloat16()], torch.ones(1, 3, 2))


def test_widths_that_triton_has_not(monkeypatch, anew):
    monkeypatch.setattr(choice, "choose", lambda device, wanted: choice.Kernel("triton"))
    assert ExpertBank([2], 4, [8], 16, norm=True).kernel.backend == "triton"
    unfit = ExpertBank([2], 4, [8], 12, norm=True).kernel
    assert (unfit.backend, "model.expert_dim = 12 is no multiple of 8" in unfit.reason) == ("eager", True)


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_consists_of_torchs_operators(strict):
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(5, 6)
    program = torch.export.export(model, (x,), strict=strict)
    assert {n.target.namespace for n in program.graph.nodes if hasattr(n.target, "namespace")} == {"aten"}
    assert model.bank.kernel.backend == "cpu"
    torch.testing.assert_close(program.module()(x), model(x))


def test_traces_and_transformations_of_torch_see_its_operators():
    model, x = Mixed().eval(), torch.randn(5, 6)
    expected = model(x)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
    rows = torch.func.vmap(lambda row: model(row.unsqueeze(0)).squeeze(1))(x)
    torch.testing.assert_close(rows.transpose(0, 1), expected)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counted:
        model(x)
    assert counted.get_total_flops() == 2 * 5 * (3 * 6 * 8 + 3 * 8 * 4 + 2 * 3 * 6 + 2 * 3 * 4)
