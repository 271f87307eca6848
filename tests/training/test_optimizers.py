"""Which parameters decay: weight matrices, and nothing else, in every kind of model."""

import re

import pytest
import torch

from home_dist.config.model import MODELS
from home_dist.models import TaskGroups, build_model
from home_dist.training.optimizers import _group

# What a decay to zero regularises: weights that multiply activations, products of factors included.
DECAYED = {"weights", "gates.weight", "self_gates.weight", "down", "up", "choice"}
DECAYED |= {"factor_in", "factor_out", "factor_task", "core", "first.weight", "second.weight"}
# Biases, normalisation, and mixtures of trunks or experts that start near the identity or a mean.
KEPT = {"biases", "norm.weight", "norm.bias", "bias", "first.bias", "second.bias", "mixing"}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", list(MODELS))
def test_matrices_decay_and_vectors_do_not(kind, norm):
    config = MODELS.section(kind)(**({"expert_norm": norm} if "expert_norm" in MODELS.section(kind).model_fields else {}))
    found: dict[str, set[str]] = {"matrices": set(), "vectors": set()}
    model = torch.nn.ModuleDict({"model": build_model(config, 12, TaskGroups((0, 0, 1)))})
    for name, parameter in torch.nn.ModuleDict({"head": model}).named_parameters():
        last, before = name.split(".")[-1], name.split(".")[-2]
        if last.isdigit():
            leaf = before
        elif re.search(r"(gates|norm|first|second)$", before):
            leaf = f"{before}.{last}"
        else:
            leaf = last
        found[_group(name, parameter)].add(leaf)
    assert found["matrices"] <= DECAYED
    assert found["vectors"] <= KEPT
    assert found["matrices"]
