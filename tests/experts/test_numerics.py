"""The keys for TF32 and for deterministic algorithms: their effect on torch, and where they are refused."""

import os

import pytest
import torch

from home_dist.config import KernelSection
from home_dist.errors import ConfigError
from home_dist.experts.kernels import set_numerics

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def settings() -> tuple[str, str, bool]:
    return (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.rnn.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture
def restored(monkeypatch):
    before, fill = settings(), torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield monkeypatch
    torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision = before[:2]
    torch.use_deterministic_algorithms(before[2])
    torch.utils.deterministic.fill_uninitialized_memory = fill


def test_fp32_is_fp32_without_the_keys(restored):
    """Also in cuDNN, whose recurrences would else take TF32."""
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    set_numerics(KernelSection(), GPU)
    assert settings() == ("ieee", "ieee", False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_the_keys_on_a_gpu(restored):
    set_numerics(KernelSection(tf32=True), GPU)
    assert settings() == ("tf32", "tf32", False)
    set_numerics(KernelSection(deterministic=True), GPU)
    assert settings() == ("ieee", "ieee", True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    restored.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_numerics(KernelSection(deterministic=True), GPU)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize("key", ["tf32", "deterministic", "cuda_graphs"])
def test_refused_where_they_have_no_effect(restored, key):
    before = settings()
    with pytest.raises(ConfigError, match=f"kernel.{key} = true: this run is on cpu, which .*Leave it out"):
        set_numerics(KernelSection(**{key: True}), CPU)
    set_numerics(KernelSection(), CPU)
    assert settings() == before


def test_tf32_is_refused_by_an_old_gpu(restored):
    restored.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    with pytest.raises(ConfigError, match=r"kernel.tf32 = true: this GPU has no TF32"):
        set_numerics(KernelSection(tf32=True), GPU)
    set_numerics(KernelSection(deterministic=True), GPU)
