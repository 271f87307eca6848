"""The choice of a backend, and errors in the configuration's words for widths that do not fit."""

import importlib.util

import pytest
import torch
from torch import nn

from home_dist.config import KernelSection
from home_dist.errors import ConfigError
from home_dist.experts import ExpertBank, MaskedGates, SelfGates
from home_dist.experts.kernels import Kernel, choice, choose, common, select

CPU = torch.device("cpu")


def test_auto_takes_the_cpu_kernel_and_says_why():
    kernel = choose(CPU, KernelSection())
    assert (kernel.backend, kernel.precision) == ("cpu", "fp32")
    assert "passes" in str(kernel)
    assert str(choose(CPU, KernelSection(backend="eager"))) == "eager, fp32 (as configured)"


def test_select_reaches_every_bank():
    network = nn.Sequential(ExpertBank([2], 4, [8], 8, norm=True), nn.Sequential(ExpertBank([1], 8, [], 8, norm=False)))
    kernel = select(network, KernelSection(), CPU)
    assert {m.kernel for m in network.modules() if isinstance(m, ExpertBank)} == {kernel}


def test_triton_without_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=r'kernel.backend = "triton": .*"auto"'):
        choose(CPU, KernelSection(backend="triton"))


def test_widths_that_do_not_fit_are_named(monkeypatch):
    monkeypatch.setattr(choice, "_triton_missing", lambda device: "")
    network = nn.Sequential(ExpertBank([2], 5, [8, 30], 12, norm=True))
    wanted = KernelSection(backend="triton")
    with pytest.raises(ConfigError) as refused:
        select(network, wanted, CPU)
    text = str(refused.value)
    assert "model.expert_hidden = 30 is no multiple of 8: choose 24 or 32" in text
    assert "model.expert_dim = 12 is no multiple of 8: choose 8 or 16" in text
    assert 'kernel.backend = "eager"' in text
    assert select(nn.Sequential(ExpertBank([2], 5, [8], 16, norm=True)), wanted, CPU).backend == "triton"


def test_widths_that_do_not_fit_leave_auto_eager(monkeypatch):
    monkeypatch.setattr(choice, "_triton_missing", lambda device: "")
    kernel = select(ExpertBank([2], 5, [8], 12, norm=True), KernelSection(), torch.device("cuda"))
    assert kernel.backend == "eager"
    assert "model.expert_dim = 12" in kernel.reason


def test_missing_triton_is_said(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    kernel = choose(torch.device("cuda"), KernelSection())
    assert str(kernel) == "eager, fp32 (triton is not installed)"


@pytest.mark.parametrize("has", [True, False])
def test_bf16_falls_back_where_the_processor_has_none(monkeypatch, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})
    kernel = choose(CPU, KernelSection(precision="bf16"))
    assert kernel.precision == ("bf16" if has else "fp32")
    assert ("no bf16 products" in kernel.reason) == (not has)


@pytest.mark.parametrize("gates", [MaskedGates, SelfGates])
def test_a_gate_that_sees_no_expert_is_refused(gates):
    with pytest.raises(ValueError, match=r"gates \[1\] may see no expert"):
        gates(4, torch.tensor([[True, False], [False, False]]))


@pytest.mark.parametrize("experts", [[], [0], [2, 0]])
def test_an_empty_group_is_refused(experts):
    with pytest.raises(ValueError, match="at least one expert"):
        ExpertBank(experts, 4, [8], 8, norm=True)


@pytest.mark.parametrize("widths", [(0, [8], 8), (4, [0], 8), (4, [8], 0)])
def test_empty_widths_are_refused(widths):
    with pytest.raises(ValueError, match="widths of experts must be at least 1"):
        ExpertBank([1], *widths, norm=True)


def test_mixed_types_are_refused():
    bank = ExpertBank([1], 4, [8], 8, norm=True)
    select(bank, KernelSection(), CPU)
    with pytest.raises(TypeError, match=r"throughout, got torch.float32, torch.float64"):
        bank.mixed([torch.zeros(3, 4)], torch.zeros(2, 3, 1, dtype=torch.float64))


def test_all_ranks_take_the_kernel_that_each_of_them_has():
    fast, bf16, none = Kernel("cpu", "fp32"), Kernel("cpu", "bf16"), Kernel("eager", "fp32", "no compiled passes")
    assert [common([fast, fast], rank) for rank in (0, 1)] == [fast, fast]
    taken = [common([bf16, none, fast], rank) for rank in range(3)]
    assert {(k.backend, k.precision) for k in taken} == {("eager", "fp32")}
    assert "as on rank 1: no compiled passes" in taken[0].reason
    assert {common([bf16, fast], rank).precision for rank in (0, 1)} == {"fp32"}
