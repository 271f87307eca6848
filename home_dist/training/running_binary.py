"""TorchRec's metrics of binary tasks. A module of its own, because TorchRec's metrics import torchmetrics and matplotlib, which
takes longer than a short run's first steps: `running_metrics` imports it when it has samples to count."""

from collections.abc import Mapping

import torch
from torchrec.metrics.auc import AUCMetric
from torchrec.metrics.calibration import CalibrationMetric
from torchrec.metrics.metrics_config import RecComputeMode, RecTaskInfo
from torchrec.metrics.ne import NEMetric
from torchrec.metrics.rec_metric import RecMetric

_METRICS: Mapping[str, type[RecMetric]] = {"auc": AUCMetric, "normalized_entropy": NEMetric, "calibration": CalibrationMetric}

_WINDOW = 1 << 20
"""AUC keeps, and is computed from, this many of an interval's newest samples, over all ranks."""


class BinaryMetrics:
    """Metrics of the samples since the last `reset`, of all ranks."""

    def __init__(self, tasks: list[int], samples: int, world_size: int, rank: int, device: torch.device):
        """tasks: their numbers among all tasks. samples: most samples of a step."""
        # Numbers instead of names, because TorchRec builds keys out of names.
        self._names = {k: str(k) for k in tasks}
        infos = [RecTaskInfo(name=t, label_name=t, prediction_name=t, weight_name=t) for t in self._names.values()]
        self._metrics: dict[str, RecMetric] = {
            name: metric(
                world_size=world_size,
                my_rank=rank,
                batch_size=samples,
                tasks=infos,
                compute_mode=RecComputeMode.FUSED_TASKS_COMPUTATION,
                window_size=_WINDOW,
                compute_on_all_ranks=True,
            ).to(device)
            for name, metric in _METRICS.items()
        }

    def update(self, labels: torch.Tensor, weights: torch.Tensor, logits: torch.Tensor) -> None:
        """Each (tasks, N)."""
        probabilities, names = logits.double().sigmoid(), self._names.values()
        for name, metric in self._metrics.items():
            # AUC needs only the order. TorchRec keeps scores in fp32, in which probabilities near 1 become equal, logits not.
            ordered = logits if name == "auc" else probabilities
            metric.update(
                predictions=dict(zip(names, ordered, strict=True)),
                labels=dict(zip(names, labels, strict=True)),
                weights=dict(zip(names, weights, strict=True)),
            )

    def compute(self) -> dict[str, dict[int, float]]:
        """By metric: a value by task. Collective."""
        values = {}
        for name, metric in self._metrics.items():
            computed = {key.partition("-")[2]: float(value) for key, value in metric.compute().items()}
            kind = "window" if name == "auc" else "lifetime"  # since the reset
            values[name] = {
                k: next(v for key, v in computed.items() if key.startswith(f"{of}|{kind}_")) for k, of in self._names.items()
            }
        return values

    def reset(self) -> None:
        for metric in self._metrics.values():
            metric.reset()
