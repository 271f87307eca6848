"""Multi-task models: each file has a model's section, equation and wiring. config/model.py has the table of kinds."""

from collections.abc import Mapping, Sequence

from home_dist.config.model import MODELS, ModelSection
from home_dist.layers.own_class import check_takes, check_width
from home_dist.models.base import FeatureColumns, MultiTaskModel
from home_dist.models.tasks import TaskGroups

__all__ = ["FeatureColumns", "MultiTaskModel", "TaskGroups", "build_model"]


def build_model(
    config: ModelSection, in_dim: int, tasks: TaskGroups, columns: Mapping[str, Sequence[int]] | None = None
) -> MultiTaskModel:
    """The model of `[model]`: maps v (B, F) and mask (B,) to one state per task, (K, B, model.out_dim).

    in_dim: F; columns: by feature, its columns in v; for the models that treat some features apart. Raises ConfigError for a
    class of one's own that does not take these arguments, or has no `out_dim`.
    """
    model: type[MultiTaskModel] = MODELS.find(config.kind)
    columns = {} if columns is None else columns
    check_takes(model.build, "build", model, config, in_dim, tasks, columns)
    if model.build.__func__ is MultiTaskModel.build.__func__:  # type: ignore[attr-defined]
        check_takes(model, "__init__", model, config, in_dim, tasks)
    built = model.build(config, in_dim, tasks, columns)
    check_width(built)
    return built
