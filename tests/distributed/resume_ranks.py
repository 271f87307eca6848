"""One rank's part of test_resume_product.py: in one set of processes, trains each case twice, once without a stop and once
stopped after chosen checkpoints and built anew.

    resume_ranks.py FOLDER CASE,CASE,...
"""

import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.config import DistributedSection, load_config
from home_dist.distributed import ranks
from home_dist.distributed.ranks import together
from home_dist.training import following
from home_dist.training.checkpoint.saver import Saver
from home_dist.training.train import train
from tests.factory import make_config, make_data

BAD_LABELS = (5, 40, 41, 95)
"""Rows of the first file, and of the second, that cannot be used."""


class Stop(Exception):
    pass


@dataclass(frozen=True)
class Case:
    """One combination of what decides where updates, checkpoints and rows lie."""

    follow: bool
    accumulate: int
    sample: bool
    skip: bool
    replicated: bool = False
    """All tables are, and the validation split is measured at each checkpoint: another pipeline, which is detached there."""

    request: bool = False
    """Rows of a request are kept together."""

    @property
    def name(self) -> str:
        named = ("follow", "sample", "skip", "replicated", "request")
        parts = {name: getattr(self, name) for name in named}
        return "-".join(["accumulate", str(self.accumulate), *(name for name, on in parts.items() if on)])

    def options(self) -> list[str]:
        values = {
            "train.accumulate": self.accumulate,
            "checkpoint.every_steps": self.accumulate if self.accumulate > 1 else 2,
            "checkpoint.keep_last": 100,
            "checkpoint.asynchronous": "false",
            "train.max_steps": 13,
            "embedding.dropout": 0.1,
            "model.kind": "shared_bottom",
            "log.every_steps": 5,
            "insight.every_steps": 0,
            "distributed.threads": 1,
        }
        if self.skip:
            values["data.on_bad_row"] = "skip"
        if self.request:
            values["data.request"] = "request_id"
        if self.sample:
            values["data.sample"] = '{"part-00001*" = 0.5}'
        if self.follow:
            values |= {"data.follow": "rename", "data.follow_idle_minutes": 0, "data.follow_poll_seconds": 0.01}
            values |= {"train.decay": "none", "train.epochs": 1}
        if self.replicated:
            values |= {"embedding.replicate_rows": 5000, "checkpoint.best": "auc"}
        else:
            values |= {"data.validation": "", "data.test": ""}
        return [f"{key}={value}" for key, value in values.items()]


CASES = {
    case.name: case
    for case in (
        *(Case(False, *values) for values in product((1, 3), (False, True), (False, True))),
        *(Case(True, accumulate, False, skip) for accumulate, skip in product((1, 3), (False, True))),
        Case(False, 3, False, False, replicated=True),
        Case(False, 1, True, True, request=True),
        Case(True, 3, False, True, request=True),
    )
}


def written(folder: Path, case: Case, world: int) -> Path:
    """The data, of which a following case gets the second file when the first has been trained on."""
    data = make_data(folder / "data", rows=100 * world, files=2, row_group=30)
    if case.request:
        for number, path in enumerate(sorted((data / "train").glob("*.parquet"))):
            table = pq.read_table(path)
            sizes = np.random.default_rng(number).integers(1, 5, len(table))
            requests = 1000 * number + np.repeat(np.arange(len(table)), sizes)[: len(table)]
            pq.write_table(table.append_column("request_id", pa.array(requests)), path, row_group_size=30)
    if case.skip:
        for path in (data / "train").glob("*.parquet"):
            table = pq.read_table(path)
            labels = table.column("like").to_numpy().copy()
            labels[[row for row in BAD_LABELS if row < len(labels)]] = 2
            index = table.schema.get_field_index("like")
            pq.write_table(table.set_column(index, "like", pa.array(labels)), path, row_group_size=30)
    if case.follow:
        (data / "train" / "part-00001.parquet").rename(data / "part-00001.parquet")
    return data


def arriving(look: Any) -> Any:
    def looking(self: following.Following, known: set[str]) -> list[str]:
        waits = Path(self.data.path) / "part-00001.parquet"
        if self.ranks.first and known and waits.exists():
            waits.rename(Path(self.data.path) / "train" / waits.name)
        return look(self, known)

    return looking


def _steps_to_stop_after(name: str) -> list[int]:
    draw = np.random.default_rng(len(name))
    return sorted(draw.choice(np.arange(2, 13), 3, replace=False).tolist())


def main(folder: str, names: str) -> None:
    formed = ranks.form_ranks(DistributedSection(threads=1))
    save, stops = Saver.save, list[int]()

    def stopping(self: Saver, model: Any, optimizer: Any, state: Any, meter: Any = None) -> Path:
        path = save(self, model, optimizer, state, meter)
        if stops and state.step >= stops[0]:
            stops.pop(0)
            raise Stop
        return path

    Saver.save = stopping
    following.Following._look = arriving(following.Following._look)
    for name in names.split(","):
        case = CASES[name]
        for kind in ("whole", "stopped"):
            place = Path(folder, name, kind)
            if formed.first:
                make_config(place, written(place, case, formed.world_size), batch_size=8)
            together(lambda: None)
            config = load_config(place / "run.toml", case.options())
            stops[:] = _steps_to_stop_after(name) if kind == "stopped" else []
            while True:
                try:
                    train(config, formed)
                    break
                except Stop:
                    continue
    ranks.leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
