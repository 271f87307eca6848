"""Small networks over the test schema, without tables or data: heads that read a given feature vector."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch

from home_dist.config import RunConfig, save_config
from home_dist.insight.collector import names_of
from home_dist.insight.figures import figures
from home_dist.insight.store import InsightStore, StepRecord
from home_dist.insight.sums import gradients, statistics
from home_dist.models import TaskGroups
from home_dist.models.anatomy import Anatomy
from home_dist.network import Head
from home_dist.schema import build_layout, save_schema
from tests.factory import CONFIG, make_schema


def make_run(kind: str, **model: object) -> RunConfig:
    tree = tomllib.loads(CONFIG.format(run="run", data="data", batch_size=8))
    widths = {"expert_hidden": [6], "expert_dim": 5, "tower_hidden": [4]}
    return RunConfig.model_validate({**tree, "model": {"kind": kind, **widths, **model}})


def make_head(kind: str = "home", **model: object) -> tuple[Head, Anatomy, TaskGroups]:
    torch.manual_seed(0)
    config, schema = make_run(kind, **model), make_schema()
    head = Head(schema, build_layout(schema, config), config)
    tasks = TaskGroups.of(schema.task)
    return head, head.model.anatomy(tasks), tasks


def make_rows(head: Head, rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """v (B, F), dense (B, P), labels and weights (B, K)."""
    random = torch.Generator().manual_seed(seed)
    v = torch.randn(rows, head.features.width, generator=random)
    dense = torch.randn(rows, head.features.layout.dense_width, generator=random)
    labels = (torch.rand(rows, 3, generator=random) < 0.3).float()
    weights = (torch.rand(rows, 3, generator=random) < 0.8).float()
    return v, dense, labels, weights


def related_rows(
    head: Head, sparse: Sequence[int] = (), rows: int = 200
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows in which column 0 of v is always 1, so that a gate can be given a bias, and labels of related tasks follow v."""
    v, dense, _, weights = make_rows(head, rows)
    v[:, 0] = 1
    common, noise = v[:, 4:8].sum(1, keepdim=True), torch.randn(rows, 3, generator=torch.Generator().manual_seed(1))
    labels = (v[:, 1:4] + common + 0.5 * noise > 0.5).float()
    for task in sparse:
        labels[:, task] = (torch.arange(rows) % 50 == 0).float()
    return v, dense, labels, weights


def record_two_steps(folder: Path, kind: str) -> Anatomy:
    """A run's folder as it is while the run trains: configuration, schema and two records. Returns its anatomy."""
    head, anatomy, tasks = make_head(kind)
    save_config(make_run(kind), folder / "config.toml")
    save_schema(make_schema(), folder / "schema.toml")
    store = InsightStore(folder / "insight")
    store.begin(names_of(anatomy, tasks, list(head.features.columns())), 0)
    for step in (10, 20):
        rows = make_rows(head, 20, seed=step)
        sums = statistics(head, anatomy, rows[0]) | gradients(head, anatomy, *rows)
        made = figures({name: value.double() for name, value in sums.items()}, anatomy, head.features.columns())
        store.write(StepRecord(step, made))
    return anatomy
