"""Multi-task models: each a wiring of experts, gates and masks; chosen by `[model] kind`."""

from home_dist.config import HomeModel
from home_dist.models.home import Home
from home_dist.models.tasks import TaskGroups

__all__ = ["Home", "TaskGroups", "build_model"]


def build_model(config: HomeModel, in_dim: int, tasks: TaskGroups) -> Home:
    """The model of `[model]`: maps v (B, F) and mask (B,) to one state per task, (K, B, model.out_dim)."""
    return Home(config, in_dim, tasks)
