"""Deep Interest Network's attention over a history (Zhou et al. 2018, section 4.3)."""

import torch
from torch import nn

from home_dist.layers.activations import activation


class Din(nn.Module):
    """Weight a(e_t, q) = MLP([e_t ; q ; e_t - q ; e_t * q ; c_t]) per event; output sum_t a_t [e_t ; c_t].

    e_t are the fields of an event that the target has too, c_t the others (watch ratio, age), which the paper does not have.
    Everything is jagged and linear in N; an empty history gives the zero vector. The first layer is linear in its input, so
    the part of q is computed once per sample instead of once per event, and the difference costs nothing:
    W [e; q; e - q; e * q] = (W_e + W_d) e + (W_q - W_d) q + W_p (e * q).
    """

    def __init__(self, target_dim: int, context_dim: int, hidden: tuple[int, ...], kind: str, softmax: bool):
        """target_dim: width of e_t and q; context_dim: width of c_t; hidden: widths of the attention unit."""
        super().__init__()
        if not hidden:
            raise ValueError("the attention unit needs at least one hidden layer")
        self.softmax = softmax
        self.out_dim = target_dim + context_dim
        self.event = nn.Linear(target_dim + context_dim, hidden[0])
        self.target = nn.Linear(target_dim, hidden[0], bias=False)
        self.product = nn.Linear(target_dim, hidden[0], bias=False)
        layers: list[nn.Module] = [activation(kind, hidden[0])]
        for width, following in zip(hidden[:-1], hidden[1:], strict=True):
            layers += [nn.Linear(width, following), activation(kind, following)]
        layers.append(nn.Linear(hidden[-1], 1))
        self.unit = nn.Sequential(*layers)

    def forward(
        self, events: torch.Tensor, contexts: torch.Tensor, targets: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """events: (N, target_dim); contexts: (N, context_dim); targets: (B, target_dim); lengths: (B,).

        Returns (B, target_dim + context_dim).
        """
        samples = targets.shape[0]
        sample = torch.repeat_interleave(torch.arange(samples, device=lengths.device), lengths, output_size=events.shape[0])
        whole = torch.cat([events, contexts], 1)
        of_target = self.target(targets).index_select(0, sample)
        first = self.event(whole) + of_target + self.product(events * targets.index_select(0, sample))
        weight = self.unit(first)
        if self.softmax:
            weight = _softmax_within(weight, sample, samples)
        return whole.new_zeros(samples, self.out_dim).index_add_(0, sample, weight * whole)


def _softmax_within(scores: torch.Tensor, sample: torch.Tensor, samples: int) -> torch.Tensor:
    """Softmax over the events of each sample; scores: (N, 1), sample: (N,)."""
    top = scores.new_full((samples,), -torch.inf).scatter_reduce_(0, sample, scores.detach().squeeze(1), "amax").unsqueeze(1)
    raised = torch.exp(scores - top.index_select(0, sample))
    total = scores.new_zeros(samples, 1).index_add_(0, sample, raised)
    return raised / total.index_select(0, sample)
