"""Sums over all ranks -> the figures of a sampled step: a record of arrays, by name.

Keys are "PART.FIGURE" as in sums.py. Figures of a part with E experts, K gates, G feature-gated inputs:

| figure | shape | what |
|---|---|---|
| mean, std | (E,) | of an expert's outputs, over samples and units |
| zero_rate | (E,) | share of outputs that are zero |
| saturation | (E,) | share of units that hardly vary: over samples, less than 1 % of the expert's size (root mean square) |
| dead_units | (E,) | share of units that are nothing: size under 0.01 % of the bank's |
| distance | (E, E) | of two experts' outputs: squared distance / sum of both squared norms; 0 equal, 1 unrelated |
| gradient | (E,) | norm of the loss's gradient by the expert's parameters |
| task_gradient | (tasks, E) | the same of each task's loss |
| weight, weight_std | (K, E) | what the gate gives, mean and standard deviation over samples |
| contribution | (K, E) | mean of weight times norm of the expert's output, as share of the gate's sum |
| entropy, effective | (K,) | mean entropy of the weights in nats; e to that: how many experts the gate uses in effect |
| correlation | (K, K) | between two gates' weights, over samples, around each gate's mean |
| self_weight | (K, E) | mean weight of the self gates |
| scale, scale_std | (G, features) or (G, F) | mean factor of a feature gate, by feature where it scales v |

And without a part: loss, positives (share), input_cosine and shared_cosine (between tasks' gradients on v and on shared
experts), all (tasks,) or (tasks, tasks); seconds of a step's parts (clock.py), mean over ranks. Gradients are those of a rank's
samples: norms are root mean squares over ranks.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from home_dist.insight.store import Figures, Floats
from home_dist.insight.sums import Sums
from home_dist.models.anatomy import Anatomy

SATURATED, DEAD = 0.01, 1e-4


def figures(sums: Sums, anatomy: Anatomy, columns: Mapping[str, Sequence[int]]) -> Figures:
    """columns: by feature, where it stands in v."""
    values = {name: value.numpy() for name, value in sums.items()}
    samples = max(1.0, float(values["samples"]))
    found: Figures = {}
    for n, part in enumerate(anatomy.parts):
        own = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{n}.")}
        made = _experts(own, samples)
        if "weight" in own:
            made |= _gates(own, samples)
        if "gradient" in own:
            ranks = max(1.0, float(values["ranks"]))
            made["gradient"] = np.sqrt(own["gradient"] / ranks)
            made["task_gradient"] = np.sqrt(own["gradients"] / ranks)
        if "scale" in own:
            made |= _scales(own, samples, columns if part.reads_features else None)
        found |= {f"{n}.{name}": value for name, value in made.items()}
    for name, _ in anatomy.scalers:
        own = {key: values[f"{name}.{key}"] for key in ("scale", "scale_squares")}
        found |= {f"{name}.{key}": value for key, value in _scales(own, samples, columns).items()}
    if "seconds" in values:
        found["seconds"] = values["seconds"] / values["clocks"]
    if "losses" in values:
        weights = np.maximum(values["weights"], 1e-12)
        found["loss"], found["positives"] = values["losses"] / weights, values["positives"] / weights
        found["input_cosine"] = _cosine(values["input_products"])
        found["shared_cosine"] = _cosine(values["shared_products"])
    return found


def _experts(own: dict[str, Floats], samples: float) -> Figures:
    units = own["sum"].shape[1]
    entries = samples * units
    mean = own["sum"].sum(1) / entries
    power = own["squares"] / samples  # (E, D)
    unit_var = np.maximum(power - np.square(own["sum"] / samples), 0)
    size = power.mean(1, keepdims=True)
    norms = np.diag(own["gram"])
    distance = 1 - 2 * own["gram"] / np.maximum(norms[:, None] + norms[None], 1e-30)
    return {
        "mean": mean,
        "std": np.sqrt(np.maximum(power.mean(1) - np.square(mean), 0)),
        "zero_rate": own["zeros"] / entries,
        "saturation": (unit_var <= SATURATED**2 * size).mean(1),
        "dead_units": (power <= DEAD**2 * power.mean()).mean(1),
        "distance": np.maximum(distance, 0),
        "histogram": own["histogram"] / entries,
    }


def _gates(own: dict[str, Floats], samples: float) -> Figures:
    weight = own["weight"] / samples
    covariance = own["weight_gram"] / samples - weight @ weight.T
    made = {
        "weight": weight,
        "weight_std": np.sqrt(np.maximum(own["weight_squares"] / samples - np.square(weight), 0)),
        "contribution": own["contribution"] / np.maximum(own["contribution"].sum(1, keepdims=True), 1e-30),
        "entropy": own["entropy"] / samples,
        "effective": np.exp(own["entropy"] / samples),
        "correlation": _cosine(covariance),
        "weight_histogram": own["weight_histogram"] / samples,
    }
    if "self_weight" in own:
        made["self_weight"] = own["self_weight"] / samples
    return made


def _scales(own: dict[str, Floats], samples: float, columns: Mapping[str, Sequence[int]] | None) -> Figures:
    mean = own["scale"] / samples  # (G, F)
    std = np.sqrt(np.maximum(own["scale_squares"] / samples - np.square(mean), 0))
    distance = np.abs(mean - 1).mean(1)
    if columns is not None:
        mean, std = (np.stack([x[:, list(at)].mean(1) for at in columns.values()], 1) for x in (mean, std))
    return {"scale": mean, "scale_std": std, "scale_distance": distance}


def _cosine(products: Floats) -> Floats:
    """Products of K vectors with each other, (K, K) -> their cosines; 0 beside a vector that is 0."""
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    bottom = norms[:, None] * norms[None]
    return np.divide(products, bottom, out=np.zeros_like(products), where=bottom > 1e-30)
