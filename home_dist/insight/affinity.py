"""How surely tasks pull the feature vector in one direction: inter-task affinity over sampled steps.

Fifty et al. (NeurIPS 2021, section 3) define Z_ij = 1 - L_j(after a step on task i) / L_j. To first order in the step's size e,
with g the tasks' gradients on v (outputs of the embeddings and histories that all tasks share),

    Z_ij = e <g_i, g_j> / L_j,   so that Z_ij / Z_jj = <g_i, g_j> / |g_j|^2

is what task j gains from a step on task i as a share of what it gains from its own step (`transfer`). The symmetric form is

    a_ij = sum over steps of <g_i, g_j> / sqrt(sum of |g_i|^2 * sum of |g_j|^2).

Sums come before the quotient: a mean of cosines would count a step without a positive sample of a rare task as much as one
with it, and without one all rare tasks pull alike. Noise of labels makes a_ij small, within groups and between them; what tells
groups apart is whether it is surely above 0. Clusters are therefore made of tanh(a_ij / (3 se_ij)), with the standard error
se_ij over steps: 0 where nothing is known, near 1 where two tasks surely pull together.

Letters: S sampled steps, K tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from home_dist.errors import ConfigError
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.store import Floats, Names

LEAST_STEPS = 20
"""Sampled steps of a run, at least: stability compares halves of them."""
SURE = 3.0
"""Standard errors at which tanh is 0.76."""
_ADVICE = "Train with --set insight.every_steps=10 --set insight.gradient_samples=256, say, into another run.dir."


@dataclass(frozen=True)
class RunSteps:
    """Sampled steps of one run."""

    run: RunFigures
    tasks: list[str]
    groups: list[str]
    """K: each task's group in the run."""
    products: Floats
    """(S, K, K): inner products of tasks' gradients on v, over sqrt(mean square of one norm * that of the other)."""
    raw: Floats
    """(K, K): the mean of the inner products themselves."""
    seen: Floats
    """(K,): share of the steps with a positive sample of the task (with a number other than 0; of a class: all steps)."""

    @staticmethod
    def of(run: RunFigures) -> "RunSteps":
        """Raises ConfigError where there are too few tasks or records, or none with gradients."""
        names = _names(run)
        records = run.store.records()
        if len(records) < LEAST_STEPS:
            raise ConfigError(
                f"{run.path}: {len(records)} sampled steps are recorded, and {LEAST_STEPS} are needed to tell groups from "
                f"chance. {_ADVICE}"
            )
        if any("input_norm" not in r.figures or "input_cosine" not in r.figures for r in records):
            raise ConfigError(f"{run.path}: an older version recorded its steps, without norms of gradients. {_ADVICE}")
        norms = np.stack([r.figures["input_norm"] for r in records]).astype(np.float64)
        cosines = np.stack([r.figures["input_cosine"] for r in records]).astype(np.float64)
        products = cosines * norms[:, :, None] * norms[:, None]
        size = np.sqrt(np.square(norms).mean(0))
        if not np.isfinite(products).all():
            raise ConfigError(f"{run.path}: gradients of some sampled steps are not finite: its tasks' losses diverged.")
        silent = [task for task, s in zip(names.tasks, size, strict=True) if s == 0]
        if silent:
            raise ConfigError(
                f"{run.path}: no gradient of {', '.join(silent)} reached the feature vector in any sampled step: its label was "
                "never known there, or its weight is 0. Leave it out of data.tasks"
            )
        seen = np.stack([r.figures["positives"] > 0 for r in records]).mean(0)
        scaled = products / (size[:, None] * size[None])
        return RunSteps(run, names.tasks, names.groups, scaled, products.mean(0), seen)


def _names(run: RunFigures) -> Names:
    names = run.store.names()
    if names is None:
        raise ConfigError(f"{run.path}: recorded no gradients, as insight.every_steps is 0. {_ADVICE}")
    if len(names.tasks) < 2:
        raise ConfigError(f"{run.path}: trains one task, {names.tasks[0]}: groups need several. Name more in data.tasks.")
    return names


@dataclass(frozen=True)
class Affinity:
    """Affinities of the same tasks over sampled steps of one run or several."""

    products: Floats
    """(S, K, K): as RunSteps.products, of all runs."""

    @cached_property
    def mean(self) -> Floats:
        """a (K, K), from -1 to 1."""
        return self.products.mean(0)

    @cached_property
    def standard_error(self) -> Floats:
        """(K, K): of `mean`, over steps."""
        return self.products.std(0, ddof=1) / np.sqrt(len(self.products))

    @cached_property
    def sure(self) -> Floats:
        """tanh(a / (3 se)), (K, K), from -1 to 1; 1 on the diagonal, 0 where both are 0."""
        error = self.standard_error
        of_pairs = np.tanh(np.divide(self.mean, SURE * error, out=np.zeros_like(error), where=error > 0))
        np.fill_diagonal(of_pairs, 1)
        return of_pairs


def affinity(runs: Sequence[RunSteps], chosen: Sequence[np.ndarray] | None = None) -> Affinity:
    """chosen: by run, the numbers of its steps that count; by default all."""
    parts = [run.products if chosen is None else run.products[chosen[n]] for n, run in enumerate(runs)]
    return Affinity(np.concatenate(parts))


def transfer(runs: Sequence[RunSteps]) -> Floats:
    """(K, K): Z_ij / Z_jj, the mean over runs; row i is the task whose step it is."""
    return np.mean([run.raw / np.diag(run.raw)[None] for run in runs], 0)
