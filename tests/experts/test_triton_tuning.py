"""The choice of tiles: Triton's autotuner and its cache on disk, with made-up times in place of a GPU."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not measured", allow_module_level=True)

import triton
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from home_dist.experts.kernels import triton_tuning
from home_dist.experts.kernels.triton_tuning import Tuning, launch, near

TUNING = Tuning(("near",), lambda arguments: "x")


@triton.jit
def doubled(x, near, BM: tl.constexpr):
    tl.store(x, tl.load(x) * 2)


@dataclass(frozen=True)
class Tile:
    BM: int
    num_warps: int = 4


class Device:
    """A GPU that takes the less time the nearer BM is to 32."""

    def __init__(self) -> None:
        self.launched: list[int] = []
        self.measured: list[int] = []

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_benchmarker(self) -> Any:
        def timed(call: Any, quantiles: Any) -> list[float]:
            call()
            self.measured.append(self.launched[-1])
            return [float(abs(self.launched[-1] - 32))] * 3

        return timed

    def run(self, x: torch.Tensor, near: int, BM: int, **options: Any) -> None:
        x.mul_(2)
        self.launched.append(BM)


@pytest.fixture
def device(monkeypatch, tmp_path) -> Iterator[Device]:
    made = Device()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(doubled, "run", made.run)
    triton_tuning._tuner.cache_clear()
    monkeypatch.setattr(driver, "_active", made)
    yield made
    triton_tuning._tuner.cache_clear()


def chosen(device: Device, samples: int) -> tuple[int, list[int]]:
    """The tile, and the tiles that were measured."""
    device.measured.clear()
    x = torch.ones(3)
    tile = launch(doubled, TUNING, (Tile(16), Tile(32), Tile(64)), lambda tile: (1,), x, near(samples))
    assert x.tolist() == [2.0] * 3, "what a kernel overwrites is as after one launch"
    return tile["BM"], device.measured.copy()


def test_the_fastest_tile_is_taken_and_kept(device, tmp_path):
    assert chosen(device, 100) == (32, [16, 32, 64])
    assert chosen(device, 128) == (32, [])  # as many samples, about
    assert chosen(device, 129) == (32, [16, 32, 64])
    assert len(list(tmp_path.rglob("doubled.autotune.json"))) == 2
    triton_tuning._tuner.cache_clear()  # another process
    assert chosen(device, 100) == (32, [])


def test_the_first_tile_is_taken_where_algorithms_are_deterministic(device):
    torch.use_deterministic_algorithms(True)
    try:
        assert chosen(device, 100) == (16, [])
    finally:
        torch.use_deterministic_algorithms(False)
