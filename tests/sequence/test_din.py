"""DIN against loops over samples and events in float64, written from the equations."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from home_dist.sequence.din import Din, DinSection
from home_dist.sequence.history import EncoderInputs, History

D, C = 4, 3


def make(kind: str = "dice", softmax: bool = False, hidden: tuple[int, ...] = (6, 5)) -> Din:
    torch.manual_seed(0)
    din = Din(DinSection(name="h", hidden=hidden, activation=kind, softmax=softmax), EncoderInputs(D, C, ("item",), 1)).double()
    with torch.no_grad():
        for parameter in din.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return din


def draw(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    n = sum(lengths)
    return tuple(torch.randn(r, c, dtype=torch.float64, generator=generator) for r, c in ((n, D), (n, C), (len(lengths), D)))


def encode(din: Din, events, contexts, targets, lengths: list[int]) -> torch.Tensor:
    return din(History(events, contexts, targets, torch.tensor(lengths))).vector


def reference(din: Din, kind: str, softmax: bool, events, contexts, targets, lengths) -> torch.Tensor:
    sample = [b for b, n in enumerate(lengths) for _ in range(n)]
    # One weight matrix for [e ; q ; e - q ; e * q ; c], of which the module keeps sums: choose W_d = 0.
    rows = []
    for t, b in enumerate(sample):
        e, q = events[t], targets[b]
        rows.append(din.event(torch.cat([e, contexts[t]])) + din.target(q) + din.product(e * q))
    linear = [m for m in din.unit if isinstance(m, torch.nn.Linear)]
    acts = [m for m in din.unit if not isinstance(m, torch.nn.Linear)]
    for act, layer in zip(acts, linear, strict=True):
        if kind == "dice":
            mean = sum(rows) / len(rows)
            var = sum((r - mean) ** 2 for r in rows) / len(rows)
            shares = [torch.sigmoid((r - mean) / torch.sqrt(var + 1e-8)) for r in rows]
            rows = [p * r + (1 - p) * act.slope * r for p, r in zip(shares, rows, strict=True)]
        elif kind == "prelu":
            rows = [torch.where(r > 0, r, act.weight * r) for r in rows]
        elif kind == "swish":
            rows = [r * torch.sigmoid(r) for r in rows]
        else:
            rows = [torch.clamp(r, min=0) for r in rows]
        rows = [layer.weight @ r + layer.bias for r in rows]
    out = [torch.zeros(D + C, dtype=torch.float64) for _ in lengths]
    for t, b in enumerate(sample):
        weight = rows[t]
        if softmax:
            weight = torch.exp(weight) / sum(torch.exp(rows[u]) for u, other in enumerate(sample) if other == b)
        out[b] = out[b] + weight * torch.cat([events[t], contexts[t]])
    return torch.stack(out)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("kind", ["dice", "prelu", "swish", "relu"])
def test_forward_and_gradients_equal_the_reference(kind, softmax):
    din, lengths = make(kind, softmax), [3, 0, 1, 5]
    inputs = [x.requires_grad_() for x in draw(lengths)]
    ours = encode(din, *inputs, lengths)
    theirs = reference(din, kind, softmax, *inputs, lengths)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    assert (ours[1] == 0).all()
    wanted = [*inputs, *din.parameters()]
    pull = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad((ours * pull).sum(), wanted), torch.autograd.grad((theirs * pull).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9)


def test_the_first_layer_is_the_papers_concatenation():
    """W [e ; q ; e - q ; e * q] for any W equals the module's three products."""
    din = make("relu")
    w = torch.randn(6, 4 * D, dtype=torch.float64)
    w_e, w_q, w_d, w_p = w.split(D, 1)
    e, q = torch.randn(D, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
    with torch.no_grad():
        din.event.weight[:, :D] = w_e + w_d
        din.event.weight[:, D:] = 0
        din.event.bias.zero_()
        din.target.weight.copy_(w_q - w_d)
        din.product.weight.copy_(w_p)
    ours = din.event(torch.cat([e, torch.zeros(C, dtype=torch.float64)])) + din.target(q) + din.product(e * q)
    torch.testing.assert_close(ours, w @ torch.cat([e, q, e - q, e * q]))


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6), chosen=st.integers(0, 5), softmax=st.booleans())
def test_a_samples_vector_does_not_depend_on_the_rest_of_the_batch(lengths, chosen, softmax):
    din = make("dice", softmax).eval()
    chosen %= len(lengths)
    events, contexts, targets = draw(lengths)
    whole = encode(din, events, contexts, targets, lengths)
    start = sum(lengths[:chosen])
    own = slice(start, start + lengths[chosen])
    alone = encode(din, events[own], contexts[own], targets[chosen : chosen + 1], lengths[chosen : chosen + 1])
    torch.testing.assert_close(whole[chosen], alone[0], rtol=1e-9, atol=1e-12)


def test_a_batch_without_any_event_gives_zeros_and_leaves_statistics_alone():
    din = make("dice")
    before = din.unit[0].norm.running_var.clone()
    out = encode(din, *draw([0, 0]), [0, 0])
    assert (out == 0).all()
    torch.testing.assert_close(din.unit[0].norm.running_var, before)
