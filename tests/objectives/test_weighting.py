"""How losses are weighed, against the papers' equations in plain loops."""

import math

import numpy as np
import pytest
import torch

from home_dist.config import load_config
from home_dist.config.weighting import WeightingSection
from home_dist.errors import ConfigError
from home_dist.objectives.weighting import build_weighting
from tests.mixed_tasks import mixed_config, mixed_data

FIXED = {"a": 1.0, "b": 0.5, "c": 2.0}


def weighting(kind: str, **options: float):
    return build_weighting(WeightingSection(kind=kind, **options), list(FIXED), FIXED)


def test_fixed_is_the_weighted_sum():
    sums = torch.tensor([3.0, 4.0, 5.0])
    assert weighting("fixed").total(sums, torch.ones(3), 2).item() == pytest.approx((3 + 2 + 10) / 2)


def test_uncertainty():
    module = weighting("uncertainty")
    s, sums, counts = [0.3, -1.0, 0.0], [3.0, 4.0, 5.0], [8.0, 2.0, 0.0]
    with torch.no_grad():
        module.log_variance.copy_(torch.tensor(s))
    total = module.total(torch.tensor(sums), torch.tensor(counts), 8)
    terms = [w * (math.exp(-v) * loss + v / 2 * n) for w, v, loss, n in zip(FIXED.values(), s, sums, counts, strict=True)]
    assert total.item() == pytest.approx(sum(terms) / 8)
    total.backward()
    slopes = [w * (-math.exp(-v) * loss + n / 2) / 8 for w, v, loss, n in zip(FIXED.values(), s, sums, counts, strict=True)]
    assert module.log_variance.grad.tolist() == pytest.approx(slopes)
    # The best log variance makes exp(-s) L = 1 / 2: a task with twice the loss weighs half.
    assert module.factors().tolist() == pytest.approx([math.exp(-v) for v in s])


def test_dwa_follows_the_change_of_the_periods_means():
    module, draw = weighting("dwa", period=3, temperature=1.5), np.random.default_rng(0)
    losses, counts = draw.uniform(1, 5, (12, 3)), draw.integers(1, 9, (12, 3)).astype(float)
    means = []
    for step in range(12):
        module.after_step(torch.from_numpy(losses[step]), torch.from_numpy(counts[step]))
        if step % 3 == 2:
            period = slice(step - 2, step + 1)
            means.append(losses[period].sum(0) / counts[period].sum(0))
            expected = [1.0] * 3
            if len(means) > 1:
                powers = [math.exp(now / before / 1.5) for now, before in zip(means[-1], means[-2], strict=True)]
                expected = [3 * p / sum(powers) for p in powers]
        wanted = expected if step >= 2 else [1.0] * 3
        assert module.factors().tolist() == pytest.approx(wanted, rel=1e-5)


def test_dwa_goes_on_from_its_state():
    draw = np.random.default_rng(1)
    steps = [torch.from_numpy(draw.uniform(1, 5, (2, 3))) for _ in range(10)]
    whole, first = weighting("dwa", period=3), weighting("dwa", period=3)
    for both in steps:
        whole.after_step(*both)
    for both in steps[:5]:
        first.after_step(*both)
    first.settle()
    second = weighting("dwa", period=3)
    second.load_state_dict(first.state_dict())
    for both in steps[5:]:
        second.after_step(*both)
    torch.testing.assert_close(whole.factors(), second.factors())


def test_a_task_without_labels_keeps_its_share_in_dwa():
    module = weighting("dwa", period=1)
    for losses in ([2.0, 2.0, 0.0], [1.0, 4.0, 0.0]):
        module.after_step(torch.tensor(losses, dtype=torch.float64), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    powers = [math.exp(r / 2) for r in (0.5, 2.0, 1.0)]
    assert module.factors().tolist() == pytest.approx([3 * p / sum(powers) for p in powers], rel=1e-5)


def test_gradnorm_evens_out_the_norms():
    """Losses whose gradients differ by 100 times, alike in their rate of training: the norms come together."""
    module = weighting("gradnorm", period=1, alpha=1.0, lr=0.05)
    module.fixed.fill_(1.0)
    scales = torch.tensor([1.0, 10.0, 100.0])
    norms = []
    for _ in range(300):
        v = torch.randn(16, 4).requires_grad_()
        sums = scales * v.square().sum()
        module.look(v, sums, 16)
        module.after_step(sums.detach(), torch.full((3,), 16.0))
        own = module.factors() * scales
        norms.append((own.max() / own.min()).item())
        assert module.factors().sum().item() == pytest.approx(3, rel=1e-5)
    assert norms[0] > 90
    assert norms[-1] < 3


def test_gradnorm_looks_by_the_equation():
    module = weighting("gradnorm", period=2, alpha=1.5, lr=0.01)
    v = torch.randn(8, 3, dtype=torch.float64).requires_grad_()
    pulls = [torch.randn(8, 3, dtype=torch.float64) for _ in range(3)]
    losses = [(v * p).sum() ** 2 for p in pulls]
    module.look(v, torch.stack(losses), 8)
    module.after_step(torch.stack(losses).detach(), torch.full((3,), 8.0))
    fixed = list(FIXED.values())
    norms = [w * torch.autograd.grad(x, v, retain_graph=True)[0].norm().item() for w, x in zip(fixed, losses, strict=True)]
    mean = sum(norms) / 3  # of the first look: all tasks have trained alike, and factors are 1
    signs = [math.copysign(1, n - mean) for n in norms]
    # Adam's first step is the learning rate, against the sign of the slope; then the factors sum to 3.
    moved = [1 - 0.01 * s for s in signs]
    assert module.factors().tolist() == pytest.approx([3 * m / sum(moved) for m in moved], rel=1e-4)
    before = module.factors().clone()
    module.look(v, torch.stack(losses), 8)  # not in every step
    module.after_step(torch.stack(losses).detach(), torch.full((3,), 8.0))
    assert torch.equal(module.factors(), before)


@pytest.mark.parametrize(
    ("kind", "fixed", "message"),
    [
        ("gradnorm", {"a": 1.0}, "gradnorm weighs tasks against each other, but the run has one, 'a'"),
        ("fixed", {"a": 0.0, "b": 0.0}, "train.task_weights: all are 0"),
        ("gradnorm", {"a": 0.0, "b": 1.0}, "task 'a' has weight 0"),
    ],
)
def test_weights_that_say_nothing(kind, fixed, message):
    with pytest.raises(ConfigError, match=message):
        build_weighting(WeightingSection(kind=kind), list(fixed), fixed)


def test_configuration_takes_a_name_or_a_section(tmp_path):
    data = mixed_data(tmp_path / "data", rows=60)
    named = load_config(mixed_config(tmp_path, data), ["train.weighting='dwa'"])
    assert (named.train.weighting.kind, named.train.weighting.period) == ("dwa", 100)
    whole = load_config(mixed_config(tmp_path, data), ["train.weighting={kind='gradnorm', alpha=0.5}"])
    assert (whole.train.weighting.kind, whole.train.weighting.alpha) == ("gradnorm", 0.5)
