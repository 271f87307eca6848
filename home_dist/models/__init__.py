"""Multi-task models: each a wiring of experts, gates and masks; chosen by `[model] kind`."""

from collections.abc import Mapping, Sequence
from typing import Any

from home_dist.config.model import ModelSection, PepnetModel
from home_dist.models.adatt import AdaTT
from home_dist.models.base import MultiTaskModel
from home_dist.models.cgc import Cgc
from home_dist.models.cross_stitch import CrossStitch
from home_dist.models.esmm import Esmm
from home_dist.models.home import Home
from home_dist.models.l2_constrained import L2Constrained
from home_dist.models.ml_mmoe import MlMmoe
from home_dist.models.mmoe import Mmoe
from home_dist.models.pepnet import PepNet
from home_dist.models.ple import Ple
from home_dist.models.shared_bottom import SharedBottom
from home_dist.models.single_task import SingleTask
from home_dist.models.tasks import TaskGroups
from home_dist.models.tensor_factorization import TensorFactorization

__all__ = ["Home", "MultiTaskModel", "TaskGroups", "build_model"]

_MODELS: dict[str, Any] = {
    "single_task": SingleTask,
    "shared_bottom": SharedBottom,
    "omoe": Mmoe,
    "mmoe": Mmoe,
    "ml_mmoe": MlMmoe,
    "cgc": Cgc,
    "ple": Ple,
    "home": Home,
    "l2_constrained": L2Constrained,
    "cross_stitch": CrossStitch,
    "tensor_factorization": TensorFactorization,
    "adatt": AdaTT,
    "esmm": Esmm,
}


def build_model(
    config: ModelSection, in_dim: int, tasks: TaskGroups, columns: Mapping[str, Sequence[int]] | None = None
) -> MultiTaskModel:
    """The model of `[model]`: maps v (B, F) and mask (B,) to one state per task, (K, B, model.out_dim).

    columns: by feature, where it stands in v; for the models that treat some features apart.
    """
    if isinstance(config, PepnetModel):
        return PepNet(config, in_dim, tasks, columns or {})
    return _MODELS[config.kind](config, in_dim, tasks)
