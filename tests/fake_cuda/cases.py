"""The steps that are run on fake CUDA tensors, by name."""

from typing import Any

# Settings of kinds that have more to compute than they have by default.
_MODELS: dict[str, dict[str, Any]] = {
    "home": {"dropout": 0.1, "hidden_norm": True, "gate_hidden": [8]},
    "smes": {"experts": 4, "feature_gate": True, "self_gate": True, "expert_norm": True},
    "pepnet": {"domain_features": ["tab"], "prior_features": ["user", "age"]},
    "esmm": {"after": {"follow": "like"}},
}
_MORE_MODELS = {
    "home as in the paper": {"kind": "home"},
    "home gated": {"kind": "home", "gate_input": "gated", "hierarchy_mask": False, "feature_gate_sigmoid": "outside"},
    "ple with a feature gate": {"kind": "ple", "feature_gate": True, "expert_norm": True, "layers": 2},
}
_ENCODERS: dict[str, dict[str, Any]] = {
    "din": {"kind": "din", "hidden": [8, 4]},
    "din prelu softmax": {"kind": "din", "activation": "prelu", "softmax": True},
    "din swish": {"kind": "din", "activation": "swish"},
    "din relu": {"kind": "din", "activation": "relu"},
    "dien": {"kind": "dien"},
    "dien without a loss": {"kind": "dien", "auxiliary_weight": 0},
    "sim soft": {"kind": "sim", "most": 8},
    "sim hard": {"kind": "sim", "search": "hard", "most": 8},
    "twin": {"kind": "twin", "most": 8},
    "twin per head": {"kind": "twin", "most": 8, "search_per_head": True},
}
_REQUESTS = {"request": "request"}
_ONCE = {**_REQUESTS, "once_per_request": ["watched"]}
_TASKS: dict[str, dict[str, Any]] = {
    "binary": {"label_smoothing": 0.1, "focal_gamma": 2.0},
    "regression": {},
    "regression huber": {"kind": "regression", "loss": "huber", "delta": 0.4, "transform": "log1p"},
    "regression quantile": {"kind": "regression", "loss": "quantile", "quantile": 0.8},
    "duration_quantile": {},
    "weighted_logistic": {},
    "ordinal": {},
    "multiclass": {"label_smoothing": 0.1},
    "pairwise": {"kind": "binary", "within": "pairwise"},
    "listwise": {"kind": "binary", "within": "listwise"},
    "jrc": {"kind": "binary", "within": "jrc"},
}
_TRAIN = {
    "uncertainty": {"weighting": "uncertainty"},
    "dwa": {"weighting": "dwa"},
    "gradnorm": {"weighting": "gradnorm"},
    "recompute": {"recompute_experts": True},
}
_SMALL = {"kind": "shared_bottom"}
_LONG = 1000


def cases() -> dict[str, dict[str, Any]]:
    """By name: settings for steps.operators."""
    from home_dist.config.model import MODELS

    found: dict[str, dict[str, Any]] = {}
    for kind in MODELS:
        found[f"model {kind}"] = {"model": {"kind": kind, **_MODELS.get(kind, {})}}
    found |= {f"model {name}": {"model": options} for name, options in _MORE_MODELS.items()}
    for name, options in _ENCODERS.items():
        for length in (10, _LONG) if name == "dien" or options["kind"] != "dien" else (10,):
            found[f"encoder {name}, length {length}"] = {"sequence": options, "length": length}
            if not name.startswith("din ") and length < _LONG:
                found[f"encoder {name}, once per request, length {length}"] = {
                    "sequence": options,
                    "length": length,
                    "data": _ONCE,
                }
        found[f"encoder {name}, newest 5"] = {"sequence": {**options, "newest": 5}}
    for name, options in _TASKS.items():
        section = {"kind": name, **options}
        task = {"task": {"kind": section["kind"]}, "objective": {"like": section}}
        found[f"task {name}"] = task | ({"data": _REQUESTS} if "within" in options else {})
    found |= {f"train {name}": {"train": options} for name, options in _TRAIN.items()}
    whole = {}
    for name, settings in found.items():
        small = {} if name.startswith("model") or name == "train recompute" else {"model": _SMALL}
        # Which events are the newest does not depend on the precision.
        for precision in ("fp32",) if "newest" in name else ("fp32", "bf16"):
            whole[f"{name}, {precision}"] = {**small, **settings, "precision": precision}
    return whole


def is_slow(name: str) -> bool:
    """Whether a step has so many operators that it is left to the slow tests: DIEN's recurrences over 1,000 events."""
    return name.startswith("encoder dien") and f"length {_LONG}" in name
