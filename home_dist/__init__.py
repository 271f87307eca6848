"""Distributed, embedding-heavy training of multi-task ranking models of the HoME family.

As a library: `from home_dist import Ple, ExpertBank, Din, auc, load`. A name of `__all__` is imported when it is first asked
for, so that `import home_dist` imports nothing else, and all names but `load` go without TorchRec. docs/library.md shows them
at work, and says what is stable.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; _PLACES serves the program, and a test compares the two
    from home_dist.errors import CheckpointError, ConfigError, DataError, UserError
    from home_dist.experts import ExpertBank, FeatureGate, MaskedGates, SelfGates, SparseBank, Towers, mixture
    from home_dist.experts.kernels import EAGER, Kernel
    from home_dist.export.loaded import LoadedModel, load
    from home_dist.metrics import (
        auc,
        calibration_ratio,
        class_accuracy,
        class_auc,
        class_log_loss,
        expected_calibration_error,
        gauc,
        grouped_xauc,
        log_loss,
        mean_absolute_error,
        normalized_entropy,
        r2,
        root_mean_squared_error,
        within_requests,
        xauc,
    )
    from home_dist.models import MultiTaskModel, TaskGroups, build_model
    from home_dist.models.adatt import AdaTT
    from home_dist.models.cgc import Cgc
    from home_dist.models.cross_stitch import CrossStitch
    from home_dist.models.esmm import Esmm
    from home_dist.models.home import Home
    from home_dist.models.l2_constrained import L2Constrained
    from home_dist.models.ml_mmoe import MlMmoe
    from home_dist.models.mmoe import Mmoe, Omoe
    from home_dist.models.pepnet import PepNet
    from home_dist.models.ple import Ple
    from home_dist.models.shared_bottom import SharedBottom
    from home_dist.models.single_task import SingleTask
    from home_dist.models.smes import Smes
    from home_dist.models.stem import Stem
    from home_dist.models.tensor_factorization import TensorFactorization
    from home_dist.objectives.base import Objective
    from home_dist.sequence import Encoded, Encoder, EncoderInputs, History
    from home_dist.sequence.dien import Dien
    from home_dist.sequence.din import Din
    from home_dist.sequence.sim import Sim
    from home_dist.sequence.twin import Twin

__version__ = "0.2.0"

_PLACES = {
    "home_dist.errors": ("CheckpointError", "ConfigError", "DataError", "UserError"),
    "home_dist.experts": ("ExpertBank", "FeatureGate", "MaskedGates", "SelfGates", "SparseBank", "Towers", "mixture"),
    "home_dist.experts.kernels": ("EAGER", "Kernel"),
    "home_dist.export.loaded": ("LoadedModel", "load"),
    "home_dist.metrics": (
        "auc",
        "calibration_ratio",
        "class_accuracy",
        "class_auc",
        "class_log_loss",
        "expected_calibration_error",
        "gauc",
        "grouped_xauc",
        "log_loss",
        "mean_absolute_error",
        "normalized_entropy",
        "r2",
        "root_mean_squared_error",
        "within_requests",
        "xauc",
    ),
    "home_dist.models": ("MultiTaskModel", "TaskGroups", "build_model"),
    "home_dist.models.adatt": ("AdaTT",),
    "home_dist.models.cgc": ("Cgc",),
    "home_dist.models.cross_stitch": ("CrossStitch",),
    "home_dist.models.esmm": ("Esmm",),
    "home_dist.models.home": ("Home",),
    "home_dist.models.l2_constrained": ("L2Constrained",),
    "home_dist.models.ml_mmoe": ("MlMmoe",),
    "home_dist.models.mmoe": ("Mmoe", "Omoe"),
    "home_dist.models.pepnet": ("PepNet",),
    "home_dist.models.ple": ("Ple",),
    "home_dist.models.shared_bottom": ("SharedBottom",),
    "home_dist.models.single_task": ("SingleTask",),
    "home_dist.models.smes": ("Smes",),
    "home_dist.models.stem": ("Stem",),
    "home_dist.models.tensor_factorization": ("TensorFactorization",),
    "home_dist.objectives.base": ("Objective",),
    "home_dist.sequence": ("Encoded", "Encoder", "EncoderInputs", "History"),
    "home_dist.sequence.dien": ("Dien",),
    "home_dist.sequence.din": ("Din",),
    "home_dist.sequence.sim": ("Sim",),
    "home_dist.sequence.twin": ("Twin",),
}
"""By module: the names that stand here."""
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "EAGER",
    "AdaTT",
    "Cgc",
    "CheckpointError",
    "ConfigError",
    "CrossStitch",
    "DataError",
    "Dien",
    "Din",
    "Encoded",
    "Encoder",
    "EncoderInputs",
    "Esmm",
    "ExpertBank",
    "FeatureGate",
    "History",
    "Home",
    "Kernel",
    "L2Constrained",
    "LoadedModel",
    "MaskedGates",
    "MlMmoe",
    "Mmoe",
    "MultiTaskModel",
    "Objective",
    "Omoe",
    "PepNet",
    "Ple",
    "SelfGates",
    "SharedBottom",
    "Sim",
    "SingleTask",
    "Smes",
    "SparseBank",
    "Stem",
    "TaskGroups",
    "TensorFactorization",
    "Towers",
    "Twin",
    "UserError",
    "auc",
    "build_model",
    "calibration_ratio",
    "class_accuracy",
    "class_auc",
    "class_log_loss",
    "expected_calibration_error",
    "gauc",
    "grouped_xauc",
    "load",
    "log_loss",
    "mean_absolute_error",
    "mixture",
    "normalized_entropy",
    "r2",
    "root_mean_squared_error",
    "within_requests",
    "xauc",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    except (ImportError, OSError) as error:
        from home_dist import fbgemm

        unusable = fbgemm.explained(error)
        if unusable is None:
            raise
        raise ImportError(unusable) from error
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
