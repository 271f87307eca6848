"""Sums over one rank's samples in a sampled step. Sums of all ranks add up to the sums over all samples.

Keys are "PART.NAME", where PART is the part's number in the model's anatomy, or NAME alone for sums of the whole model.
Letters: K tasks or gates, E experts, D expert width, G inputs of a feature gate, F width of its input.
"""

import torch
import torch.distributed as dist

from home_dist.experts.kernels.sparse_eager import hits
from home_dist.experts.share import Share
from home_dist.insight.watch import Passed, watched
from home_dist.models.anatomy import Anatomy
from home_dist.network import Head

Sums = dict[str, torch.Tensor]

ZERO = 1e-6
"""An output of at most this size counts as zero. ReLU gives exact zeros; Swish(BatchNorm(.)) hardly ever comes so close."""

EDGES = torch.cat([-torch.logspace(2, -3, 21), torch.logspace(-3, 2, 21)])
"""Edges of output histograms: four bins a decade on both sides of zero, as experts differ by orders of magnitude."""

WEIGHT_BINS = 20
"""Bins of gate-weight histograms, of equal width from 0 to 1."""


@torch.no_grad()
def statistics(head: Head, anatomy: Anatomy, v: torch.Tensor) -> Sums:
    """Sums of experts' outputs, gate weights and feature gates' factors. v: (B, F), real samples."""
    with watched(head.model, anatomy) as seen:
        head.model(v)
    sums: Sums = {"samples": v.new_tensor(float(len(v)))}
    for n in range(len(anatomy.parts)):
        part_sums = _experts(seen.outputs[n])
        if n in seen.weights:
            part_sums |= _gates(seen, n)
        if n in seen.scales:
            part_sums |= _scales(seen.scales[n])
        sums |= {f"{n}.{name}": value for name, value in part_sums.items()}
    for name, scale in seen.scalers.items():
        sums |= {f"{name}.{key}": value for key, value in _scales(scale.unsqueeze(0)).items()}
    return sums


def _experts(out: torch.Tensor) -> Sums:
    """out: (E, B, D)."""
    bins = torch.bucketize(out.contiguous(), EDGES.to(out.device)).flatten(1)
    flat = out.flatten(1)
    return {
        "sum": out.sum(1),
        "squares": out.square().sum(1),
        "zeros": (flat.abs() <= ZERO).sum(1),
        "histogram": _counted(bins, len(EDGES) + 1),
        "gram": flat @ flat.t(),
    }


def _gates(seen: Passed, n: int) -> Sums:
    total = seen.weights[n]
    # Weights of the softmax alone; self gates and residual paths are counted apart. float64, as rules judge variances near 0.
    gates = seen.masked.get(n, total).double()
    norms = torch.linalg.vector_norm(seen.outputs[n], dim=2)  # (E, B)
    flat = gates.flatten(1)
    sums = {
        "weight": gates.sum(1),
        "weight_squares": gates.square().sum(1),
        "weight_gram": flat @ flat.t(),
        "entropy": -torch.xlogy(gates, gates).sum((1, 2)),
        "contribution": (total.abs() * norms.t()).sum(1),
        "weight_histogram": _counted((flat * WEIGHT_BINS).long().clamp(0, WEIGHT_BINS - 1), WEIGHT_BINS),
    }
    if n in seen.chosen:
        sums |= _choices(seen.chosen[n], len(norms))
    if n in seen.self_gates:
        sums["self_weight"] = seen.self_gates[n].sum(1)
    return sums


def _choices(chosen: torch.Tensor, experts: int) -> Sums:
    """chosen: (K, B, M). How often each gate chose each expert (K, E), how many samples used it for any gate (E,), and how many
    of a sample's choices two gates share (K, K), summed over samples."""
    chose = hits(chosen, experts)
    flat = chose.float().flatten(1)
    return {"chosen": chose.sum(1), "used": chose.any(0).sum(0), "shared_choices": flat @ flat.t()}


def _scales(scale: torch.Tensor) -> Sums:
    """scale: (G, B, F). Summed in float64: factors are near 1, so that rounding would hide their variance."""
    scale = scale.double()
    return {"scale": scale.sum(1), "scale_squares": scale.square().sum(1)}


def _counted(bins: torch.Tensor, length: int) -> torch.Tensor:
    """bins: (R, N), bin numbers. Returns how often each bin occurs in each row, (R, length)."""
    rows = torch.arange(len(bins), device=bins.device).unsqueeze(1) * length
    return torch.bincount((bins + rows).flatten(), minlength=len(bins) * length).view(len(bins), length)


def gradients(
    head: Head,
    anatomy: Anatomy,
    v: torch.Tensor,
    dense: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    durations: torch.Tensor | None = None,
    taught: torch.Tensor | None = None,
) -> Sums:
    """Squared norms of each task's gradients by expert, and inner products of two tasks' gradients on shared experts and on v.

    v: (B, F); dense: (B, dense values); labels, weights: (B, K); durations: (B, columns); taught: (B, K), what losses are of,
    by default the labels; of real samples. Losses over requests are left out, as the samples are a choice. A task's loss here
    is the mean over these samples, times the task's weight in training. Each rank squares and multiplies its own gradients;
    sums over ranks add these up. Of a pool that ranks share, a rank knows its experts' gradients alone, which are means over
    the samples of all ranks.
    """
    v = v.detach().requires_grad_()
    durations = v.new_ones(len(v), 0) if durations is None else durations
    with watched(head, anatomy), torch.enable_grad():
        logits = head.logits(v, dense, None)
        losses = head.objectives.losses(logits, labels, weights, durations, taught=taught) * weights
        means = losses.sum(0) / max(1, len(v))
        parameters = [(n, p) for n, part in enumerate(anatomy.parts) for p in part.bank.parameters()]
        by_task = [
            torch.autograd.grad(loss, [v, *(p for _, p in parameters)], retain_graph=True, materialize_grads=True)
            for loss in (means * head.task_weight()).unbind()
        ]
    inputs = torch.stack([g[0].flatten() for g in by_task])  # (K, B F)
    sums: Sums = {
        "losses": losses.detach().sum(0),
        "weights": weights.sum(0),
        "positives": (weights * _happened(head, labels)).sum(0),
        "input_products": inputs @ inputs.t() * max(1, len(v)) ** 2,
    }
    shared = inputs.new_zeros(len(by_task), len(by_task))
    for i, (n, parameter) in enumerate(parameters):
        stacked = torch.stack([g[i + 1] for g in by_task])  # (K, E, ...)
        share = getattr(anatomy.parts[n].bank, "share", None)
        experts = anatomy.parts[n].shared
        if share is not None:
            experts = [e - share.first for e in experts if 0 <= e - share.first < share.count]
        add(sums, f"{n}.gradients", _of_all(stacked.flatten(2).square().sum(2), share))
        add(sums, f"{n}.gradient", _of_all(stacked.sum(0).flatten(1).square().sum(1), share))
        if parameter.dim() and experts:
            flat = stacked[:, experts].flatten(1)
            shared = shared + flat @ flat.t() * (1 if share is None else share.holders.count)
    return sums | {"shared_products": shared, "ranks": v.new_tensor(1.0)}


def _of_all(squares: torch.Tensor, share: Share | None) -> torch.Tensor:
    """Squares (..., E of this rank) -> (..., E), 0 for the experts of other ranks. They count once for each rank that shares
    the pool, as if each had them: sums over ranks are then as those of banks that all ranks hold."""
    if share is None or share.whole:
        return squares
    whole = squares.new_zeros(*squares.shape[:-1], share.experts)
    whole[..., share.first : share.first + share.count] = squares * share.holders.count
    return whole


def _happened(head: Head, labels: torch.Tensor) -> torch.Tensor:
    """(B, K): 1 where something happened, which sparse tasks seldom see: a label of 1, a number other than 0, any class."""
    classes = torch.tensor([family == "class" for family in head.objectives.measured], device=labels.device)
    return ((labels != 0) | classes).to(labels.dtype)


def add(sums: Sums, name: str, value: torch.Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def over_ranks(sums: Sums) -> Sums:
    """Adds up the sums of all ranks, in float64 on the CPU. Collective."""
    names = sorted(sums)  # the same on all ranks, as the model defines them
    packed = torch.cat([sums[name].detach().double().cpu().flatten() for name in names])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(packed)
    parts = packed.split([sums[name].numel() for name in names])
    return {name: part.view(sums[name].shape) for name, part in zip(names, parts, strict=True)}
