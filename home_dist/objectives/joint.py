"""A model's `joint`, such as ESMM's product of probabilities, among tasks of other kinds."""

from collections.abc import Sequence

import torch
from torch import nn

from home_dist.config.model import ModelSection
from home_dist.errors import ConfigError
from home_dist.models import MultiTaskModel
from home_dist.objectives.all_tasks import Objectives


class JointLogits(nn.Module):
    """Applies a model's `joint` to the logits of tasks with one output; other outputs stay."""

    starts: torch.Tensor
    tasks: torch.Tensor
    columns: torch.Tensor

    def __init__(self, model: MultiTaskModel, section: ModelSection, names: Sequence[str], objectives: Objectives):
        """names: of the tasks. Raises ConfigError if the model is to multiply probabilities of tasks that have none."""
        super().__init__()
        outputs = objectives.outputs
        self.joins, self.plain = type(model).joint is not MultiTaskModel.joint, max(outputs) == 1
        for key, chosen in section.named_tasks().items() if self.joins else ():
            for k in (k for k, name in enumerate(names) if name in chosen):
                if objectives.kinds[k] != "binary" or outputs[k] > 1:
                    has = f"kind {objectives.kinds[k]}" if objectives.kinds[k] != "binary" else 'within = "jrc"'
                    raise ConfigError(
                        f"model.{key}: the model multiplies probabilities of tasks with one logit; task {names[k]!r} has "
                        f"{has}. Take it out of model.{key}, or change [objective.{names[k]}]"
                    )
        single = [k for k, count in enumerate(outputs) if count == 1]
        constants = {"starts": objectives.first, "tasks": single, "columns": [objectives.first[k] for k in single]}
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    def forward(self, model: MultiTaskModel, logits: torch.Tensor) -> torch.Tensor:
        """logits: (B, O). Returns (B, O)."""
        if not self.joins:
            return logits
        if self.plain:
            return model.joint(logits)
        joined = model.joint(logits.index_select(1, self.starts))
        return logits.index_copy(1, self.columns, joined.index_select(1, self.tasks))
