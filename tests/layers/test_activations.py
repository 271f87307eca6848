"""Dice against the paper's equation, written as a loop."""

import torch

from home_dist.layers.activations import Dice


def test_dice_equals_the_paper_on_small_inputs_too():
    """Embeddings begin near 0.01: with a variance of 1e-6 an eps of 1e-5 would leave a third of the deviation."""
    torch.manual_seed(0)
    dice = Dice(3)
    dice.slope.data = torch.tensor([0.0, 0.3, -0.2])
    x = torch.randn(40, 3) * 1e-3
    found = dice(x)
    for unit in range(3):
        values = x[:, unit].double()
        mean, variance = values.mean(), values.var(correction=0)
        for row, value in enumerate(values):
            share = 1 / (1 + torch.exp(-(value - mean) / torch.sqrt(variance + 1e-8)))
            expected = share * value + (1 - share) * float(dice.slope[unit]) * value
            torch.testing.assert_close(found[row, unit].double(), expected, rtol=1e-4, atol=1e-9)
