"""Programs of torch.compile and their CUDA graphs, which no CPU has: torch's side is made up where it needs a GPU."""

import pytest
import torch
from torch._inductor import config as inductor

from home_dist.layers.program import program


class Replays:
    """What a CUDA graph does to its caller: each call gives the same memory, with other values."""

    def __init__(self, function, options):
        self.function, self.options, self.steps, self.memory = function, options, 0, None

    def mark(self):
        self.steps += 1

    def __call__(self, *arguments):
        out = self.function(*arguments)
        self.memory = out if self.memory is None else self.memory
        with torch.no_grad():
            self.memory.copy_(out)
        return self.memory


@pytest.fixture
def replays(monkeypatch):
    made = []

    def compiled(function, *, fullgraph, dynamic, options):
        assert (fullgraph, dynamic) == (True, False)
        made.append(Replays(function, options))
        return made[-1]

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: made[-1].mark())
    return made


def test_the_next_step_does_not_change_what_a_step_gave(replays):
    step = program(lambda x: 2 * x, cuda_graphs=True)
    first = step(torch.ones(3))
    second = step(torch.full((3,), 5.0))
    assert first.tolist() == [2, 2, 2]
    assert second.tolist() == [10, 10, 10]
    assert replays[0].steps == 2  # torch is told that a step begins: else it keeps the memory of the one before


def test_torch_knows_the_options(replays):
    program(lambda x: x, cuda_graphs=True)
    known = inductor.get_config_copy()
    assert replays[0].options == {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}
    assert replays[0].options.keys() <= known.keys()
