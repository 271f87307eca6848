"""DIN's compiled kernel against its plain operators, across tiles, parts, threads, ranks and shared histories."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from home_dist import EAGER
from home_dist.experts.kernels.choice import Kernel
from home_dist.sequence.din import Din, DinSection
from home_dist.sequence.history import EncoderInputs, History
from tests.on_ranks import on_ranks

KINDS = ("dice", "prelu", "swish", "relu")
CPU = Kernel("cpu")
LONG = [700, 0, 3, 255, 257, 1, *[37] * 40]
"""Histories that fill several tiles and several parts."""
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def make(kind: str, softmax: bool = False, hidden: tuple[int, ...] = (7, 5), target: int = 5, context: int = 3) -> Din:
    torch.manual_seed(0)
    section = DinSection(name="h", hidden=hidden, activation=kind, softmax=softmax)
    din = Din(section, EncoderInputs(target, context, ("item",), 1)).double()
    with torch.no_grad():
        for parameter in din.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return din


def draw(events: int, samples: int, target: int = 5, context: int = 3) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    shapes = (events, target), (events, context), (samples, target)
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator).add_(0.3).requires_grad_() for shape in shapes]
    return drawn[0], drawn[1], drawn[2]


def results(din: Din, kernel: Kernel, inputs: Inputs, lengths: list[int]) -> dict[str, torch.Tensor]:
    din.kernel = kernel
    out = din(History(*inputs, torch.tensor(lengths))).vector
    return _results(din, out, inputs, pull_of(len(lengths), out.shape[1]))


def pull_of(samples: int, width: int) -> torch.Tensor:
    return torch.linspace(-1, 1, samples * width, dtype=torch.float64).view(samples, width)


def _results(din: Din, out: torch.Tensor, inputs: Inputs, pull: torch.Tensor) -> dict[str, torch.Tensor]:
    wanted = dict(zip(("events", "contexts", "targets"), inputs, strict=True)) | dict(din.named_parameters())
    grads = torch.autograd.grad((out * pull.to(out.dtype)).sum(), list(wanted.values()))
    buffers = {name: value.clone() for name, value in din.named_buffers()}
    return {"out": out.detach(), **dict(zip(wanted, grads, strict=True)), **buffers}


def compare(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], rtol: float = 1e-10) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        scale = max(float(value.abs().max()), 1.0) if value.numel() else 1.0
        torch.testing.assert_close(
            ours[name], value, rtol=rtol, atol=rtol * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_plain_operators_over_many_tiles(kind, softmax, training):
    inputs = draw(sum(LONG), len(LONG))
    compare(*(results(make(kind, softmax).train(training), kernel, inputs, LONG) for kernel in (CPU, EAGER)))


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    widths=st.tuples(st.integers(1, 6), st.integers(0, 4)),
    kind=st.sampled_from(KINDS),
    softmax=st.booleans(),
)
def test_any_widths_and_lengths(lengths, hidden, widths, kind, softmax):
    inputs = draw(sum(lengths), len(lengths), *widths)
    dins = [make(kind, softmax, tuple(hidden), *widths) for _ in range(2)]
    compare(*(results(din, kernel, inputs, lengths) for din, kernel in zip(dins, (CPU, EAGER), strict=True)), rtol=1e-7)


@pytest.mark.parametrize("kind", ["dice", "swish"])
@pytest.mark.parametrize("softmax", [False, True])
def test_targets_that_share_a_history_equal_copies_of_it(kind, softmax):
    lengths, owned = [300, 0, 5, 9, 41, 6], [3, 2, 1, 0, 4, 0]
    events, contexts, targets = draw(sum(lengths), sum(owned))
    din = make(kind, softmax)
    of_target = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(owned))
    starts = torch.tensor([0, *lengths]).cumsum(0)
    copies = torch.cat([torch.arange(int(starts[r]), int(starts[r + 1])) for r in of_target])
    many = torch.tensor(lengths)[of_target]
    din.kernel = EAGER
    out = din(History(events[copies], contexts[copies], targets, many)).vector
    pull = pull_of(*out.shape)
    plain = _results(din, out, (events, contexts, targets), pull)

    other = make(kind, softmax)
    other.kernel = CPU
    out = other(History(events, contexts, targets, torch.tensor(lengths), of_target=of_target)).vector
    compare(_results(other, out, (events, contexts, targets), pull), plain)


def test_the_number_of_threads_changes_no_bit():
    inputs, found, before = draw(sum(LONG), len(LONG)), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(results(make("dice"), CPU, inputs, LONG))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        compare(other, found[0], 0.0)


def test_a_second_backward_through_a_kept_graph_gives_the_same():
    din, inputs, lengths = make("dice"), draw(30, 3), [20, 0, 10]
    din.kernel = CPU
    out = din(History(*inputs, torch.tensor(lengths))).vector
    wanted = [*inputs, *din.parameters()]
    once = torch.autograd.grad(out.sum(), wanted, retain_graph=True)
    again = torch.autograd.grad(out.sum(), wanted)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_under_autocast_it_computes_in_fp32():
    din, inputs = make("dice").float(), tuple(x.detach().float() for x in draw(30, 3))
    din.kernel = CPU
    history = History(*inputs, torch.tensor([20, 0, 10]))
    plain = din(history).vector
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(din(history).vector, plain)


CUT = 4


def _body(rank: int, world: int, folder: Path) -> None:
    for name, lengths in BATCHES.items():
        events, contexts, targets = (x.detach() for x in draw(sum(lengths), len(lengths)))
        before, (start, end) = sum(lengths[:CUT]), (0, CUT) if rank == 0 else (CUT, len(lengths))
        rows = slice(0, before) if rank == 0 else slice(before, None)
        inputs = tuple(x.requires_grad_() for x in (events[rows], contexts[rows], targets[start:end]))
        din = make("dice")
        din.kernel = CPU
        out = din(History(*inputs, torch.tensor(lengths[start:end]))).vector
        pull = pull_of(len(lengths), out.shape[1])[start:end]
        torch.save(_results(din, out, inputs, pull), f"{folder}/{name}-{rank}.pt")


BATCHES = {"some": LONG, "one rank without events": [0, 0, 0, 0, 3, 300]}


@pytest.mark.distributed
def test_two_ranks_equal_one(tmp_path: Path):
    on_ranks(_body, 2, tmp_path)
    for name, lengths in BATCHES.items():
        whole = results(make("dice"), EAGER, draw(sum(lengths), len(lengths)), lengths)
        one, two = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(2))
        joined = {}
        for key in whole:
            if "running" in key:
                assert torch.equal(one[key], two[key])
                joined[key] = one[key]
            else:
                joined[key] = torch.cat([one[key], two[key]]) if key in PER_RANK else one[key] + two[key]
        compare(joined, whole)


PER_RANK = ("out", "events", "contexts", "targets")


def for_answers(
    din: Din, kernel: Kernel, inputs: Inputs, lengths: torch.Tensor, of_target: torch.Tensor | None
) -> torch.Tensor:
    """What it computes when no gradient is wanted."""
    din.kernel = kernel
    events, contexts, targets = (x.detach() for x in inputs)
    return din(History(events, contexts, targets, lengths, of_target=of_target)).vector


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_backward_it_equals_the_plain_operators(kind, softmax):
    din = make(kind, softmax, hidden=(9, 4)).eval().requires_grad_(False)
    lengths = torch.tensor(LONG)
    inputs = draw(int(lengths.sum()), len(LONG))
    several = torch.tensor([0] * 30 + [1] * 3 + [3] * 5 + list(range(5, len(LONG))))  # the third history is read by none
    for of_target in (None, several):
        chosen = (*inputs[:2], inputs[2] if of_target is None else draw(0, len(several))[2])
        ours, theirs = (for_answers(din, kernel, chosen, lengths, of_target) for kernel in (CPU, EAGER))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("widths", [(5, 3), (16, 0), (32, 16)], ids=str)
def test_without_a_backward_a_shared_history_gives_the_bits_of_its_copies(widths):
    din = make("dice", hidden=(32, 16), target=widths[0], context=widths[1]).float().eval().requires_grad_(False)
    threads = torch.get_num_threads()
    for lengths, readers in (([4], 3), ([1, 2], 1), ([500], 200), ([31, 0, 300], 17), ([7, 9, 1], 40)):
        each = torch.tensor(lengths)
        of_target = torch.arange(len(lengths)).repeat_interleave(readers)
        inputs = tuple(x.detach().float() for x in draw(sum(lengths), len(of_target), *widths))
        places = torch.arange(sum(lengths)).split(lengths)
        rows = torch.cat([places[n] for n in of_target.tolist()])
        copies = (inputs[0][rows], inputs[1][rows], inputs[2])
        try:
            for count in (1, 3):
                torch.set_num_threads(count)
                shared = for_answers(din, CPU, inputs, each, of_target)
                assert torch.equal(shared, for_answers(din, CPU, copies, each[of_target], None))
        finally:
            torch.set_num_threads(threads)
