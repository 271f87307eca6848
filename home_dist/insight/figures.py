"""Sums over all ranks -> figures of a sampled step: arrays by name.

Keys are "PART.FIGURE" as in sums.py. Figures of a part with E experts, K gates, G feature-gated inputs:

| figure | shape | meaning |
|---|---|---|
| mean, std | (E,) | mean and standard deviation of an expert's outputs, over samples and units |
| zero_rate | (E,) | share of outputs that are zero |
| saturation | (E,) | share of units whose deviation over samples is at most 1 % of the expert's size (root mean square) |
| dead_units | (E,) | share of units whose size is at most 0.01 % of the bank's |
| distance | (E, E) | between two experts' outputs: squared distance / sum of both squared norms; 0 equal, 1 unrelated |
| gradient | (E,) | norm of the loss's gradient with respect to the expert's parameters |
| task_gradient | (tasks, E) | the same for each task's loss |
| weight, weight_std | (K, E) | mean and standard deviation of the gate's weights over samples |
| contribution | (K, E) | mean of weight times norm of the expert's output, as a share of the gate's sum |
| entropy, effective | (K,) | mean entropy of the weights in nats; exp(entropy): effective number of experts |
| correlation | (K, K) | between two gates' weights, over samples, around each gate's mean |
| self_weight | (K, E) | mean weight of the self gates |
| load | (K, E) | where gates choose experts: share of the samples for which the gate chose the expert |
| use | (E,) | share of the samples that use the expert for any gate |
| overlap | (K, K) | share of two gates' choices for a sample that are the same experts |
| scale, scale_std | (G, features) or (G, F) | mean and deviation of a feature gate's factors, by feature where it scales v |

Figures of the whole model: loss, positives (share), both (tasks,); input_cosine and shared_cosine, (tasks, tasks), between
tasks' gradients on v and on shared experts; input_norm, (tasks,), of tasks' gradients on v, with losses summed over the samples
of all ranks; seconds of a step's parts (clock.py), mean over ranks. Each rank computes gradients of its own samples; norms but
input_norm are root mean squares over ranks.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from home_dist.insight.store import Figures, Floats
from home_dist.insight.sums import Sums
from home_dist.models.anatomy import Anatomy

SATURATED, DEAD = 0.01, 1e-4


def figures(sums: Sums, anatomy: Anatomy, columns: Mapping[str, Sequence[int]]) -> Figures:
    """columns: by feature, its columns in v."""
    values = {name: value.numpy() for name, value in sums.items()}
    samples = max(1.0, float(values["samples"]))
    record: Figures = {}
    for n, part in enumerate(anatomy.parts):
        part_sums = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{n}.")}
        made = _experts(part_sums, samples)
        if "weight" in part_sums:
            made |= _gates(part_sums, samples)
        if "gradient" in part_sums:
            ranks = max(1.0, float(values["ranks"]))
            made["gradient"] = np.sqrt(part_sums["gradient"] / ranks)
            made["task_gradient"] = np.sqrt(part_sums["gradients"] / ranks)
        if "scale" in part_sums:
            made |= _scales(part_sums, samples, columns if part.reads_features else None)
        record |= {f"{n}.{name}": value for name, value in made.items()}
    for name, _ in anatomy.scalers:
        scaler_sums = {key: values[f"{name}.{key}"] for key in ("scale", "scale_squares")}
        record |= {f"{name}.{key}": value for key, value in _scales(scaler_sums, samples, columns).items()}
    if "seconds" in values:
        record["seconds"] = values["seconds"] / values["clocks"]
    if "losses" in values:
        weights = np.maximum(values["weights"], 1e-12)
        record["loss"], record["positives"] = values["losses"] / weights, values["positives"] / weights
        record["input_cosine"] = _cosine(values["input_products"])
        record["input_norm"] = np.sqrt(np.maximum(np.diag(values["input_products"]), 0))
        record["shared_cosine"] = _cosine(values["shared_products"])
    return record


def _experts(part_sums: dict[str, Floats], samples: float) -> Figures:
    units = part_sums["sum"].shape[1]
    entries = samples * units
    mean = part_sums["sum"].sum(1) / entries
    power = part_sums["squares"] / samples  # (E, D)
    unit_var = np.maximum(power - np.square(part_sums["sum"] / samples), 0)
    size = power.mean(1, keepdims=True)
    norms = np.diag(part_sums["gram"])
    distance = 1 - 2 * part_sums["gram"] / np.maximum(norms[:, None] + norms[None], 1e-30)
    return {
        "mean": mean,
        "std": np.sqrt(np.maximum(power.mean(1) - np.square(mean), 0)),
        "zero_rate": part_sums["zeros"] / entries,
        "saturation": (unit_var <= SATURATED**2 * size).mean(1),
        "dead_units": (power <= DEAD**2 * power.mean()).mean(1),
        "distance": np.maximum(distance, 0),
        "histogram": part_sums["histogram"] / entries,
    }


def _gates(part_sums: dict[str, Floats], samples: float) -> Figures:
    weight = part_sums["weight"] / samples
    covariance = part_sums["weight_gram"] / samples - weight @ weight.T
    made = {
        "weight": weight,
        "weight_std": np.sqrt(np.maximum(part_sums["weight_squares"] / samples - np.square(weight), 0)),
        "contribution": part_sums["contribution"] / np.maximum(part_sums["contribution"].sum(1, keepdims=True), 1e-30),
        "entropy": part_sums["entropy"] / samples,
        "effective": np.exp(part_sums["entropy"] / samples),
        "correlation": _cosine(covariance),
        "weight_histogram": part_sums["weight_histogram"] / samples,
    }
    if "chosen" in part_sums:
        made["load"], made["use"] = part_sums["chosen"] / samples, part_sums["used"] / samples
        made["overlap"] = part_sums["shared_choices"] / np.maximum(np.diag(part_sums["shared_choices"]), 1)
    if "self_weight" in part_sums:
        made["self_weight"] = part_sums["self_weight"] / samples
    return made


def _scales(part_sums: dict[str, Floats], samples: float, columns: Mapping[str, Sequence[int]] | None) -> Figures:
    mean = part_sums["scale"] / samples  # (G, F)
    std = np.sqrt(np.maximum(part_sums["scale_squares"] / samples - np.square(mean), 0))
    distance = np.abs(mean - 1).mean(1)
    if columns is not None:
        mean, std = (np.stack([x[:, list(places)].mean(1) for places in columns.values()], 1) for x in (mean, std))
    return {"scale": mean, "scale_std": std, "scale_distance": distance}


def _cosine(products: Floats) -> Floats:
    """Inner products (K, K) of K vectors -> their cosines; 0 for a zero vector."""
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    bottom = norms[:, None] * norms[None]
    return np.divide(products, bottom, out=np.zeros_like(products), where=bottom > 1e-30)
