"""What a run says at its start."""

from types import SimpleNamespace

import torch

from home_dist.config import KernelSection
from home_dist.experts import ExpertBank
from home_dist.experts.kernels import choice, select
from home_dist.training.opening import kernel_taken


def test_a_model_that_the_detected_kernel_does_not_fit_is_said(monkeypatch):
    monkeypatch.setattr(choice, "_triton_missing", lambda device: "")
    ranks, wanted = SimpleNamespace(device=torch.device("cuda")), KernelSection()
    fits, other = (select(ExpertBank([2], 5, [8], width, norm=True), wanted, ranks.device) for width in (16, 12))
    assert kernel_taken(ranks, wanted, fits) == ""
    said = kernel_taken(ranks, wanted, other)
    assert said.startswith("expert kernel of this model: eager, fp32 (model.expert_dim = 12 is no multiple of 8")
