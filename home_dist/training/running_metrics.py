"""Running metrics of training samples, as the model scored them before it learnt from them, by TorchRec's metric modules. They
show early what an evaluation shows late, and cost next to nothing."""

import math

import torch
import torch.distributed as dist
from torchrec.metrics.auc import AUCMetric
from torchrec.metrics.calibration import CalibrationMetric
from torchrec.metrics.metrics_config import RecComputeMode, RecTaskInfo
from torchrec.metrics.ne import NEMetric
from torchrec.metrics.rec_metric import RecMetric

from home_dist.network import StepOutput

METRICS = {"auc": AUCMetric, "normalized_entropy": NEMetric, "calibration": CalibrationMetric}
"""By the metric names of evaluations."""

_HELD_STEPS = 32
"""Steps per update: a metric module's update costs the same for one step and for many."""

_WINDOW = 1 << 20
"""AUC keeps, and is computed from, this many of an interval's newest samples, over all ranks."""


class Running:
    """Metrics of the steps since the last `close` or `restart`, from the first `samples` samples of each step. Every rank has
    one and closes it at the same steps.

    For watching only: TorchRec counts a positive and a negative of equal score by chance, not half. Evaluations are exact.
    """

    def __init__(self, tasks: int, samples: int, world_size: int, rank: int, device: torch.device):
        self._samples = samples
        # Numbers instead of names, because TorchRec builds keys out of names.
        self._tasks, self._held = [str(k) for k in range(tasks)], list[StepOutput]()
        infos = [RecTaskInfo(name=t, label_name=t, prediction_name=t, weight_name=t) for t in self._tasks]
        self._classes = torch.zeros(2, tasks, dtype=torch.float64, device=device)  # sums of weights: positives, negatives
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
            for name, metric in METRICS.items()
        }

    def add(self, output: StepOutput) -> None:
        self._held.append(output)
        if len(self._held) == _HELD_STEPS:
            self._count()

    def restart(self) -> None:
        """Drops the steps so far. Called at a checkpoint, so that a resumed run reports the same as an uninterrupted one, and
        checkpoints need not hold AUC's samples."""
        self._held, self._classes = [], torch.zeros_like(self._classes)
        for metric in self._metrics.values():
            metric.reset()

    def close(self) -> dict[str, list[float]]:
        """By metric, one value per task; NaN for a task without positives or without negatives. Collective."""
        self._count()
        classes = self._classes
        dist.all_reduce(classes)
        defined = (classes > 0).all(0).tolist()
        values_by_metric = {}
        for name, metric in self._metrics.items():
            values = {key.partition("-")[2]: float(value) for key, value in metric.compute().items()}
            kind = "window" if name == "auc" else "lifetime"  # since the reset
            by_task = [next(v for key, v in values.items() if key.startswith(f"{task}|{kind}_")) for task in self._tasks]
            values_by_metric[name] = [value if known else math.nan for value, known in zip(by_task, defined, strict=True)]
        self.restart()
        return values_by_metric

    @torch.no_grad()
    def _count(self) -> None:
        if not self._held:
            return
        outputs, self._held = self._held, []
        few = slice(0, self._samples)  # a random choice, as the reader shuffles samples
        logits = torch.cat([o.logits[few] for o in outputs])
        scores = logits.double().sigmoid()
        labels, weights = (torch.cat([getattr(o, name)[few] for o in outputs]) for name in ("labels", "weights"))
        positive = weights * labels
        self._classes += torch.stack([positive.sum(0), (weights - positive).sum(0)])
        for name, metric in self._metrics.items():
            # AUC needs only the order. TorchRec keeps scores in fp32, in which probabilities near 1 become equal, logits not.
            ordered = logits if name == "auc" else scores
            metric.update(
                predictions=dict(zip(self._tasks, ordered.unbind(1), strict=True)),
                labels=dict(zip(self._tasks, labels.unbind(1), strict=True)),
                weights=dict(zip(self._tasks, weights.unbind(1), strict=True)),
            )
