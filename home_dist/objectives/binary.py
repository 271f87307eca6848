"""Yes or no: cross entropy of the logit z; the prediction is sigmoid(z).

Label smoothing s trains on y (1 - s) + s / 2 (Szegedy et al., CVPR 2016, section 7, for two classes). Focal loss multiplies a
sample's cross entropy by (1 - p_y)^gamma, p_y the probability of its label (Lin et al., ICCV 2017): samples that are predicted
well count less. Both make predictions less calibrated.

With `within = "jrc"` (joint ranking and calibration, Sheng et al., KDD 2023) a tower has two logits, of "no" and "yes", and
z = z_1 - z_0; beside the cross entropy, each sample's own logit is compared with its request's.
"""

import torch
from pydantic import Field
from torch.nn import functional as F

from home_dist.config.objective import Labels, WithinRequest
from home_dist.config.section import Rate
from home_dist.objectives.base import Objective
from home_dist.objectives.within import RequestsOfBatch, jrc
from home_dist.schema import TaskSpec


class BinarySection(WithinRequest):
    """Cross entropy of a logit; labels are 0 or 1."""

    kind: str = "binary"
    label_smoothing: Rate = 0.0
    """s: labels are y (1 - s) + s / 2."""
    focal_gamma: float = Field(default=0.0, ge=0)
    """Exponent of the focal loss; 0 is cross entropy."""

    @property
    def labels(self) -> Labels:
        return "0 or 1"

    @property
    def can_be_taught(self) -> bool:
        return not self.focal_gamma


class Binary(Objective):
    section = BinarySection
    measured = "binary"

    config: BinarySection

    @classmethod
    def outputs(cls, section: BinarySection, task: TaskSpec) -> int:
        return 2 if section.within == "jrc" else 1

    def start(self, rates: torch.Tensor) -> torch.Tensor:
        logits = torch.logit(rates)
        return torch.stack([-logits / 2, logits / 2], 1) if self.config.within == "jrc" else logits.unsqueeze(1)

    def losses(self, z: torch.Tensor, y: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        logit, smoothing, gamma = self.scores(z, durations).squeeze(2), self.config.label_smoothing, self.config.focal_gamma
        target = y * (1 - smoothing) + smoothing / 2 if smoothing else y
        losses = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
        if gamma:
            losses = losses * torch.exp(gamma * F.logsigmoid(torch.where(y > 0.5, -logit, logit)))
        return losses

    def of_requests(
        self, z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, requests: RequestsOfBatch
    ) -> torch.Tensor | None:
        if self.config.within == "jrc":
            return self.config.within_weight * jrc(z, y, weights, requests)
        return super().of_requests(z, y, weights, requests)

    def predicted(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.scores(z, durations))

    def scores(self, z: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
        return z[..., 1:] - z[..., :1] if self.config.within == "jrc" else z
