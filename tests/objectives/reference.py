"""Objectives as plain loops over single numbers in Python's float64, written from the papers' equations."""

import math
from bisect import bisect_right

from home_dist.schema import LabelValues


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def cross_entropy(p: float, y: float) -> float:
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def huber(r: float, delta: float) -> float:
    return r * r / 2 if abs(r) <= delta else delta * (abs(r) - delta / 2)


def binary(z: list[float], y: float, smoothing: float = 0.0, gamma: float = 0.0) -> float:
    p = sigmoid(z[0])
    loss = cross_entropy(p, y * (1 - smoothing) + smoothing / 2)
    return loss * (1 - (p if y else 1 - p)) ** gamma


def regression(z: list[float], y: float, facts: LabelValues, loss: str, transform: str, delta: float, quantile: float) -> float:
    log = transform == "log1p"
    mean, std = (facts.log_mean, facts.log_std) if log else (facts.mean, facts.std)
    predicted, wanted = mean + std * z[0], math.log(1 + y) if log else y
    r = (predicted - wanted) / std
    if loss == "squared":
        return r * r
    if loss == "huber":
        return huber(r, delta)
    return quantile * -r if r < 0 else (1 - quantile) * r


def regression_value(z: list[float], facts: LabelValues, transform: str) -> float:
    if transform == "log1p":
        return math.exp(facts.log_mean + facts.log_std * z[0]) - 1
    return facts.mean + facts.std * z[0]


def weighted_logistic(z: list[float], y: float, mean: float, negatives: str) -> float:
    p = sigmoid(z[0])
    loss = y / mean * -math.log(p) if y > 0 else 0.0
    return loss - math.log(1 - p) if y == 0 or negatives == "all" else loss


def rank(y: float, quantiles: tuple[float, ...]) -> float:
    """Place of y among equally spaced quantiles, 0 to 1; the middle of the places that equal it."""
    last = len(quantiles) - 1
    equal = [n for n, q in enumerate(quantiles) if q == y]
    if equal:
        return sum(equal) / len(equal) / last
    if y < quantiles[0]:
        return 0.0
    if y > quantiles[-1]:
        return 1.0
    n = max(n for n, q in enumerate(quantiles) if q < y)
    return (n + (y - quantiles[n]) / (quantiles[n + 1] - quantiles[n])) / last


def quantiles_of(duration: float, facts: LabelValues) -> tuple[float, ...]:
    return facts.quantiles[bisect_right(facts.duration_boundaries, duration)]


def duration_quantile(z: list[float], y: float, duration: float, facts: LabelValues) -> float:
    return (sigmoid(z[0]) - rank(y, quantiles_of(duration, facts))) ** 2


def duration_quantile_value(z: list[float], duration: float, facts: LabelValues) -> float:
    quantiles = quantiles_of(duration, facts)
    place = sigmoid(z[0]) * (len(quantiles) - 1)
    below = min(int(place), len(quantiles) - 2)
    return quantiles[below] + (place - below) * (quantiles[below + 1] - quantiles[below])


def ordinal_value(z: list[float], facts: LabelValues) -> float:
    value, before = 0.0, 0.0
    for logit, threshold in zip(z, facts.thresholds, strict=True):
        value += sigmoid(logit) * (threshold - before)
        before = threshold
    return value


def ordinal(z: list[float], y: float, facts: LabelValues, restore: float, order: float, delta: float) -> float:
    m = len(z)
    questions = sum(cross_entropy(sigmoid(logit), float(y > t)) for logit, t in zip(z, facts.thresholds, strict=True)) / m
    disorder = sum(max(sigmoid(z[i + 1]) - sigmoid(z[i]), 0.0) for i in range(m - 1)) / (m - 1) if m > 1 else 0.0
    return questions + restore * huber((ordinal_value(z, facts) - y) / facts.std, delta) + order * disorder


def softmax(z: list[float]) -> list[float]:
    terms = [math.exp(x - max(z)) for x in z]
    return [t / sum(terms) for t in terms]


def multiclass(z: list[float], y: float, smoothing: float) -> float:
    p = softmax(z)
    return -sum(((1 - smoothing) * (c == y) + smoothing / len(p)) * math.log(q) for c, q in enumerate(p))


def pairwise(z: list[float], y: list[float], w: list[float]) -> float:
    """Of one request."""
    total = weight = 0.0
    for i in range(len(z)):
        for j in range(len(z)):
            if y[i] > y[j]:
                total += w[i] * w[j] * math.log(1 + math.exp(z[j] - z[i]))
                weight += w[i] * w[j]
    return total / weight if weight else 0.0


def listwise(z: list[float], y: list[float], w: list[float]) -> float:
    """Of one request."""
    target = sum(a * b for a, b in zip(w, y, strict=True))
    if not target:
        return 0.0
    everyone = sum(weight * math.exp(logit) for weight, logit in zip(w, z, strict=True))
    chosen = (weight * label * math.log(math.exp(logit) / everyone) for weight, label, logit in zip(w, y, z, strict=True))
    return -sum(chosen) / target


def jrc(z: list[list[float]], y: list[float], w: list[float]) -> list[float]:
    """Of each sample of one request."""
    everyone = [sum(weight * math.exp(pair[c]) for weight, pair in zip(w, z, strict=True)) for c in (0, 1)]
    if not everyone[0]:
        return [0.0] * len(z)
    return [-math.log(math.exp(pair[int(label)]) / everyone[int(label)]) for pair, label in zip(z, y, strict=True)]
