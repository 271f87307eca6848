"""Multi-task models: each file has a model's section, equation and wiring. config/model.py has the table of kinds."""

from collections.abc import Mapping, Sequence

from home_dist.config.model import MODELS, ModelSection
from home_dist.models.base import FeatureColumns, MultiTaskModel
from home_dist.models.tasks import TaskGroups

__all__ = ["FeatureColumns", "MultiTaskModel", "TaskGroups", "build_model"]


def build_model(
    config: ModelSection, in_dim: int, tasks: TaskGroups, columns: Mapping[str, Sequence[int]] | None = None
) -> MultiTaskModel:
    """The model of `[model]`: maps v (B, F) and mask (B,) to one state per task, (K, B, model.out_dim).

    in_dim: F; columns: by feature, its columns in v; for the models that treat some features apart.
    """
    model: type[MultiTaskModel] = MODELS.find(config.kind)
    return model.build(config, in_dim, tasks, {} if columns is None else columns)
