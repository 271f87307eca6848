"""Pictures of findings, each of a small model that has one and of the same model with the remedy that the finding names.

    python docs/findings.py            # writes docs/pictures/finding_*.svg

The models are trained on made rows, from a start that provokes the failure. A test sees that the finding is there on the
left and not on the right. Numbers depend a little on the processor, so that `make docs` leaves the pictures alone.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from docs.masks import as_svg  # noqa: E402
from home_dist.config.insight import RulesSection  # noqa: E402
from home_dist.insight import collector  # noqa: E402
from home_dist.insight.figures import figures  # noqa: E402
from home_dist.insight.rules import Sign, signs  # noqa: E402
from home_dist.insight.store import Figures, Names  # noqa: E402
from home_dist.insight.sums import gradients, statistics  # noqa: E402
from home_dist.insight.svg import NAMED, pyplot  # noqa: E402
from home_dist.models.anatomy import Part  # noqa: E402
from home_dist.reference.values import toml_text  # noqa: E402
from tests.insight.heads import make_head, related_rows  # noqa: E402

Bars = tuple[Sequence[str], np.ndarray]


@dataclass(frozen=True)
class Trained:
    figures: Figures
    names: Names
    signs: list[Sign]

    def of(self, name: str) -> np.ndarray:
        """A figure of the model's last part."""
        return self.figures[f"{len(self.names.parts) - 1}.{name}"]

    @property
    def part(self) -> Any:
        return self.names.parts[-1]


@dataclass(frozen=True)
class Case:
    rule: str
    kind: str
    plant: Callable[[Part], None]
    """Gives the last part a start that provokes the failure."""
    bars: Callable[[Trained], Bars]
    shows: str
    remedy: dict[str, Any]
    """Settings that differ on the right; `kind` and `lr` among them."""
    model: dict[str, Any] = field(default_factory=dict)
    steps: int = 100
    lr: float = 3e-3
    sparse: tuple[int, ...] = ()
    log: bool = False

    @property
    def remedy_text(self) -> str:
        keys = {key: f"{'train' if key == 'lr' else 'model'}.{key}" for key in self.remedy}
        return ", ".join(f"{keys[key]} = {toml_text(value)}" for key, value in self.remedy.items())

    def trained(self, with_remedy: bool) -> Trained:
        changed = self.remedy if with_remedy else {}
        model = {**self.model, **{k: v for k, v in changed.items() if k not in ("kind", "lr")}}
        kind, lr = changed.get("kind", self.kind), changed.get("lr", self.lr)
        if kind != self.kind:
            model = {}
        return train(kind, self.plant, self.steps, lr, self.sparse, model)


def train(
    kind: str, plant: Callable[[Part], None], steps: int, lr: float, sparse: Sequence[int], model: dict[str, Any]
) -> Trained:
    """Trains a head on 1,000 rows of v (B, F) whose three tasks share a part; column 0 is 1, for gates with a bias."""
    head, anatomy, tasks = make_head(kind, expert_hidden=[16], expert_dim=16, **model)
    with torch.no_grad():
        plant(anatomy.parts[-1])
    v, dense, labels, weights = related_rows(head, sparse, 1000)
    optimizer = torch.optim.Adam(head.parameters(), lr=lr)
    head.train()
    for _ in range(steps):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head.logits(v, dense, None), labels, weight=weights)
        loss = loss + sum(head.model.auxiliary().values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sums = statistics(head, anatomy, v) | gradients(head, anatomy, v, dense, labels, weights)
    columns = head.features.columns()
    made = figures({name: value.double() for name, value in sums.items()}, anatomy, columns)
    names = collector.names_of(anatomy, tasks, list(columns))
    return Trained(made, names, signs(made, names, RulesSection()))


def _scaled(part: Part) -> None:
    part.bank.weights[-1][2] *= 1000


def _one_task(part: Part) -> None:
    shared = next(e for e, name in enumerate(part.experts) if name.endswith("shared 0"))
    part.masked.weight[:2, shared, 0] = -8


def _left_out(part: Part) -> None:
    own, shared = part.experts.index("follow 0"), part.experts.index("shared 0")
    part.masked.weight[1, own, 0], part.masked.weight[1, shared, 0] = -6, 0


def _twins(part: Part) -> None:
    for parameter in part.bank.parameters():
        parameter[3] = parameter[0]
    part.masked.weight[:, 3] = part.masked.weight[:, 0]


def _even(part: Part) -> None:
    part.masked.weight[0] = 0


def _all_to_one(part: Part) -> None:
    part.masked.weight[:, :, 0] = 0
    part.masked.weight[:, 1, 0] = 10


def _some_never(part: Part) -> None:
    part.masked.weight[:, :, 0] = 0
    part.masked.weight[:, 5:, 0] = -10


def _weight_on_shared(trained: Trained) -> Bars:
    shared = next(e for e, name in enumerate(trained.part.experts) if name.endswith("shared 0"))
    return trained.part.gates, trained.of("weight")[:, shared]


def _own_and_shared(trained: Trained) -> Bars:
    seen = [e for e, sees in enumerate(trained.part.sees[1]) if sees]
    return [trained.part.experts[e] for e in seen], trained.of("contribution")[1, seen]


def _distances(trained: Trained) -> Bars:
    names, pairs = trained.part.experts, np.argwhere(np.triu(np.ones_like(trained.of("distance")), 1))
    return [f"{names[i]}, {names[j]}" for i, j in pairs], trained.of("distance")[pairs[:, 0], pairs[:, 1]]


CASES = (
    Case("collapse", "mmoe", _scaled, lambda t: (t.part.experts, t.of("std")), "standard deviation of an expert's outputs",
         {"expert_norm": True}, {"experts": 4}, log=True),
    Case("degradation", "cgc", _one_task, _weight_on_shared, "mean weight of each gate on a shared expert",
         {"kind": "home"}, {"shared_experts": 2}, steps=50),
    Case("underfitting", "cgc", _left_out, _own_and_shared, "share of what gate follow mixes", {"self_gate": True},
         {"shared_experts": 2}, steps=20, sparse=(1,)),
    Case("identical", "mmoe", _twins, _distances, "distance of two experts' outputs", {"dropout": 0.2}, {"experts": 4}),
    Case("constant", "mmoe", _even, lambda t: (t.part.gates, t.of("weight_std").max(1)),
         "largest standard deviation of a gate's weights over samples", {"lr": 3e-3}, {"experts": 4}, lr=1e-6),
    Case("idle", "smes", _some_never, lambda t: (t.part.experts, t.of("use")), "share of samples that use an expert",
         {"balance": 0.01}, {"experts": 8, "balance": 0.0}, steps=200, lr=0.01),
    Case("crowded", "smes", _all_to_one, lambda t: (t.part.experts, t.of("load").mean(0)),
         "share of samples and tasks that choose an expert", {"balance": 1.0}, {"experts": 8}, steps=200),
)  # fmt: skip


def picture(case: Case) -> str:
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 2.3), sharex=True, layout="constrained")
    for axes, with_remedy in zip(panels, (False, True), strict=True):
        trained = case.trained(with_remedy)
        labels, values = case.bars(trained)
        places = range(len(labels))
        axes.barh(places, values, color=NAMED["blue" if with_remedy else "orange"])
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set(title=case.remedy_text if with_remedy else f"{case.rule}: {case.kind}", xlabel=case.shows)
        if case.log:
            axes.set_xscale("log")
    return as_svg(figure)


def main() -> None:
    torch.set_num_threads(1)
    for case in CASES:
        path = ROOT / "docs" / "pictures" / f"finding_{case.rule}.svg"
        path.write_text(picture(case))
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
