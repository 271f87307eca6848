"""Metrics of the samples that a run trains on, by TorchRec's metric modules: what the model said of them before it learnt from
them. They tell early what an evaluation tells late, and cost next to nothing."""

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
"""By the names that evaluations use."""

_HELD_STEPS = 32
"""Outputs that are counted together: a module's update costs the same for one step and for many."""

_WINDOW = 1 << 20
"""Samples of all ranks: the newest of an interval that AUC is of, which keeps them."""


class Running:
    """Of the steps since the last `close` or `restart`, of so many samples of each. Every rank has one and closes it at the
    same steps.

    TorchRec counts equal scores of a positive and a negative by chance, not half: these are for watching; evaluations are
    exact.
    """

    def __init__(self, tasks: int, samples: int, world_size: int, rank: int, device: torch.device):
        self._samples = samples
        # Numbers, as TorchRec builds keys out of names.
        self._tasks, self._held = [str(k) for k in range(tasks)], list[StepOutput]()
        infos = [RecTaskInfo(name=t, label_name=t, prediction_name=t, weight_name=t) for t in self._tasks]
        self._classes = torch.zeros(2, tasks, dtype=torch.float64, device=device)  # weights of positives, of negatives
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
        """Forgets the steps so far. At a checkpoint: a resumed run then tells the same as one that went on, and no checkpoint
        has to hold the samples that AUC is of."""
        self._held, self._classes = [], torch.zeros_like(self._classes)
        for metric in self._metrics.values():
            metric.reset()

    def close(self) -> dict[str, list[float]]:
        """By metric, one value per task; NaN where there was no positive or no negative."""
        self._count()
        classes = self._classes
        dist.all_reduce(classes)
        defined = (classes > 0).all(0).tolist()
        values_by_metric = {}
        for name, metric in self._metrics.items():
            values = {key.partition("-")[2]: float(value) for key, value in metric.compute().items()}
            kind = "window" if name == "auc" else "lifetime"  # since the reset
            by_task = [next(v for key, v in values.items() if key.startswith(f"{task}|{kind}_")) for task in self._tasks]
            values_by_metric[name] = [value if there else math.nan for value, there in zip(by_task, defined, strict=True)]
        self.restart()
        return values_by_metric

    @torch.no_grad()
    def _count(self) -> None:
        if not self._held:
            return
        outputs, self._held = self._held, []
        few = slice(0, self._samples)  # the reader has shuffled them
        logits = torch.cat([o.logits[few] for o in outputs])
        scores = logits.double().sigmoid()
        labels, weights = (torch.cat([getattr(o, name)[few] for o in outputs]) for name in ("labels", "weights"))
        positive = weights * labels
        self._classes += torch.stack([positive.sum(0), (weights - positive).sum(0)])
        for name, metric in self._metrics.items():
            # AUC is of the order alone, and TorchRec keeps what it is given in fp32, where probabilities near 1 are the same.
            ordered = logits if name == "auc" else scores
            metric.update(
                predictions=dict(zip(self._tasks, ordered.unbind(1), strict=True)),
                labels=dict(zip(self._tasks, labels.unbind(1), strict=True)),
                weights=dict(zip(self._tasks, weights.unbind(1), strict=True)),
            )
