"""`home-dist train --profile`: traces some steps on every rank and shows where their time went."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch.distributed as dist
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from home_dist.distributed.ranks import Ranks
from home_dist.insight.trace import SCOPE, STEP, Breakdown, Exchange, breakdown, read_trace
from home_dist.network import Network
from home_dist.screen import Screen

_WARM_UP = 5  # untraced first steps, which allocate and fill the pipeline


class Trace:
    """A torch.profiler trace of some steps of this process, with the model's parts as scopes."""

    def __init__(self, model: nn.Module, path: Path, ranks: Ranks):
        """path: file for this rank's trace, .json.gz."""
        self.path, self.ranks = path, ranks
        self._open = ExitStack()
        for part, module in parts_of(model):
            self._open.enter_context(_scope(module, SCOPE + part))
        activities = [ProfilerActivity.CPU]
        if ranks.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._profiler: Any = self._open.enter_context(profile(activities=activities, record_shapes=True))

    def step(self) -> Any:
        """A scope around one step."""
        return record_function(STEP)

    def end(self) -> Breakdown:
        """Writes the trace; returns means over all ranks. Collective."""
        self._open.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._profiler.export_chrome_trace(str(self.path))
        by_rank: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(by_rank, asdict(breakdown(read_trace(self.path))))
        return mean_breakdown([_from_dict(tree) for tree in by_rank])


class Profile:
    """Traces `steps` steps of this process, after the first few. Every rank has one and calls it at the same steps."""

    def __init__(self, model: nn.Module, steps: int, folder: Path, ranks: Ranks, screen: Screen):
        """steps: 0 traces nothing."""
        self.model, self.steps, self.folder, self.ranks, self.screen = model, steps, folder, ranks, screen
        self._passed = 0
        self._trace: Trace | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        if self.steps and self._passed == _WARM_UP:
            self._trace = Trace(self.model, self.folder / f"rank-{self.ranks.rank:05d}.json.gz", self.ranks)
        self._passed += 1
        if self._trace is None:
            yield
            return
        with self._trace.step():
            yield
        if self._passed == _WARM_UP + self.steps:
            self.close()

    def close(self) -> None:
        """Ends the trace and shows its tables, also if the run ends before `steps` steps."""
        if self._trace is None:
            return
        mean = self._trace.end()
        self._trace = None
        self.screen.table(parts_table(mean))
        if mean.exchanges:
            self.screen.table(exchanges_table(mean))
        self.screen.say(f"traces: {self.folder}, one per rank, for https://ui.perfetto.dev or chrome://tracing")


def parts_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(part, module) for each module whose forward is a part of a step."""
    [network] = [m for m in model.modules() if isinstance(m, Network)]
    head = network.head
    encoders = [("sequences", encoder) for encoder in head.features.encoders.values()]
    return [("feature vector", head.features), *encoders, ("experts", head.model), ("towers", head.towers)]


@contextmanager
def _scope(module: nn.Module, name: str) -> Iterator[None]:
    """A scope around each forward of `module`."""
    running: list[Any] = []

    def enter(*_: Any) -> None:
        running.append(record_function(name))
        running[-1].__enter__()

    def leave(*_: Any) -> None:
        running.pop().__exit__(None, None, None)

    hooks = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def mean_breakdown(ranks: Sequence[Breakdown]) -> Breakdown:
    """Means over ranks."""
    count = len(ranks)
    names = list(dict.fromkeys(name for r in ranks for name in r.exchanges))
    exchanges = {}
    for name in names:
        by_rank = [r.exchanges.get(name, Exchange()) for r in ranks]
        exchanges[name] = Exchange(**{f.name: sum(getattr(e, f.name) for e in by_rank) / count for f in fields(Exchange)})
    return Breakdown(
        steps=ranks[0].steps,
        milliseconds=sum(r.milliseconds for r in ranks) / count,
        parts={part: sum(r.parts[part] for r in ranks) / count for part in ranks[0].parts},
        exchanges=exchanges,
        communicating=sum(r.communicating for r in ranks) / count,
        hidden=sum(r.hidden for r in ranks) / count,
        launches=sum(r.launches for r in ranks) / count,
    )


def parts_table(mean: Breakdown) -> Table:
    table = Table(title=f"where a step goes: {mean.milliseconds:.1f} ms, mean of {mean.steps} steps and all ranks")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    for part, took in mean.parts.items():
        share = took / mean.milliseconds
        table.add_row(part, f"{took:.1f}", f"{share:.1%}", "█" * round(40 * share))
    return table


def exchanges_table(mean: Breakdown) -> Table:
    title = f"exchange between ranks, per step: {mean.communicating:.1f} ms, of which {mean.hidden_share:.0%} hidden"
    table = Table(title=title)
    table.add_column("collective")
    for name in ("calls", "MB given", "ms"):
        table.add_column(name, justify="right")
    for name, kind in mean.exchanges.items():
        table.add_row(name, f"{kind.calls:.1f}", f"{kind.bytes / 1e6:.2f}", f"{kind.milliseconds:.1f}")
    return table


def _from_dict(tree: dict[str, Any]) -> Breakdown:
    return Breakdown(**{**tree, "exchanges": {name: Exchange(**e) for name, e in tree["exchanges"].items()}})
