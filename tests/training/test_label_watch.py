"""Tasks without known labels, or of one class."""

import torch

from home_dist.network import StepOutput
from home_dist.training.label_watch import LabelWatch


def output(labels, weights):
    labels, weights = torch.tensor(labels, dtype=torch.float32), torch.tensor(weights, dtype=torch.float32)
    nothing = torch.zeros(labels.shape[1])
    return StepOutput(labels, labels, weights, nothing, weights.sum(0), torch.tensor(float(len(labels))), 0, 1)


def test_a_task_that_nothing_can_be_learned_of_is_told():
    watch = LabelWatch(["like", "unknown", "never", "always"], torch.device("cpu"))
    watch.add(output([[1, 1, 0, 1], [0, 0, 1, 0]], [[1, 0, 1, 0.5], [1, 0, 0, 0]]))
    watch.add(output([[1, 1, 0, 1]], [[1, 0, 2, 1]]))
    unknown, never, always = watch.notes()
    assert "'unknown': none of the 3 samples" in unknown
    assert "'never'" in never
    assert "are 0" in never
    assert "'always'" in always
    assert "are 1" in always
