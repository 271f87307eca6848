"""Programs of torch.compile and their CUDA graphs, which no CPU has: torch's side is made up where it needs a GPU."""

import pytest
import torch
from torch._functorch import config as functorch
from torch._inductor import config as inductor

from home_dist.errors import ConfigError
from home_dist.layers.program import program


class Replays:
    """What a CUDA graph does to its caller: each call gives the same memory, with other values."""

    def __init__(self, function, options):
        self.function, self.options, self.marked, self.memory = function, options, False, None

    def mark(self):
        self.marked = True

    def __call__(self, *arguments):
        assert self.marked, "torch is told that a step begins before it does: else it keeps the memory of the one before"
        self.marked = False
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


def test_torch_knows_the_options(replays):
    program(lambda x: x, cuda_graphs=True)
    known = inductor.get_config_copy()
    assert replays[0].options == {"triton.cudagraphs": True, "triton.cudagraph_or_error": True, "graph_partition": False}
    assert replays[0].options.keys() <= known.keys()


@pytest.mark.parametrize("message", ["skipping cudagraphs due to mutated inputs", "out of memory"])
def test_what_cannot_be_recorded_names_the_key(replays, message):
    def fails(x):
        raise RuntimeError(message)

    with pytest.raises(ConfigError if "cudagraphs" in message else RuntimeError, match=message) as told:
        program(fails, cuda_graphs=True)(torch.ones(3))
    assert ("kernel.cuda_graphs" in str(told.value)) == ("cudagraphs" in message)


@pytest.mark.parametrize("order", [("several", "one"), ("one", "several")])
@functorch.patch(donated_buffer=True)  # set back afterwards
def test_a_backward_may_be_passed_several_times_whichever_step_is_the_first(monkeypatch, order):
    """AOTAutograd compiles a backward at its first pass, which may be of a step that passes it once."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled(function, backend="aot_eager", **options))
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.SiLU(), torch.nn.Linear(7, 2))
    step = program(lambda x: net(x), cuda_graphs=False, repeated=True)
    for passes in order:
        v = torch.randn(8, 5, requires_grad=True)
        grads = []
        for function in (step, net):
            sums = function(v).square().sum(0)
            if passes == "several":
                grads.append([torch.autograd.grad(s, v, retain_graph=True)[0] for s in sums.unbind()])
            grads.append(torch.autograd.grad(sums.sum(), v))
        half = len(grads) // 2
        torch.testing.assert_close(grads[:half], grads[half:])
