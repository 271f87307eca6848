"""Rows that training touches are those whose values change, on every kind of sharding, and only those are marked."""

import pytest
import torch

from home_dist.config import load_config
from home_dist.data.inputs import open_inputs
from home_dist.data.side_files import schema_of
from home_dist.distributed.ranks import Ranks
from home_dist.embeddings.collections import table_shards
from home_dist.embeddings.touched import TouchedRows
from home_dist.training.build import build
from home_dist.training.optimizers import Schedule
from home_dist.training.pipeline import Pipeline, begin_step
from tests.factory import make_config, make_data
from tests.on_ranks import on_ranks
from tests.publish.raw_data import raw_data

pytestmark = pytest.mark.distributed
KINDS = {
    "planned": [],
    "row_wise": [f"embedding.tables.{t}.sharding=row_wise" for t in ("user", "video", "tag")],
    "column_wise": [f"embedding.tables.{t}.sharding=column_wise" for t in ("user", "video", "tag")],
    "sgd": ["embedding.optimizer=sgd", "embedding.tables.tag.sharding=data_parallel"],
    "adagrad": ["embedding.optimizer=adagrad", "embedding.precision=fp16"],
    "managed": ["embedding.tables.video.managed=lfu", "embedding.tables.video.keep_rows=512", "train.batch_size=8"],
}
STEPS = 2


def marked_as_changed(rank: int, world: int, folder) -> None:
    for name, options in KINDS.items():
        config = load_config(folder / ("raw.toml" if name == "managed" else "run.toml"), options)
        inputs = open_inputs(config, schema_of(config), ("train", "validation"))
        ranks = Ranks(rank, world, rank, world, torch.device("cpu"), "gloo", 1)
        built = build(inputs, ranks)
        touched = TouchedRows(built.model)
        reader = inputs.training_reader(ranks)
        pipeline = Pipeline.of(built, ranks, 1)
        schedule = Schedule(built.optimizer, config.train, STEPS)
        before = {(s.table, s.first_row, s.first_column): s.values.clone() for s in table_shards(built.model)}
        batches = reader.epoch(0)
        built.model.train()
        for step in range(STEPS):
            begin_step(built, schedule, config.train, step, rank)
            pipeline.progress(batches)
        pipeline.detach()
        seen = set()
        taken = {part: touched.take(part) for part in touched.marks}
        for shard in table_shards(built.model):
            old = before[shard.table, shard.first_row, shard.first_column]
            changed = (shard.values != old).any(1).nonzero().squeeze(1).tolist()
            part = (shard.table, shard.first_row)
            if part in taken:
                seen.add(shard.table)
                # A gradient may be zero, or too small for fp16: a mark without a change is no fault, a change without one is.
                marked = taken[part].tolist()
                assert set(changed) <= set(marked), (name, shard.table)
                assert len(changed) > 0.5 * len(marked), (name, shard.table)
                assert len(marked) < len(old), (name, shard.table)
            else:
                assert (name, shard.table) == ("sgd", "tag"), (name, part, list(taken))
        held = {s.table for s in table_shards(built.model)}
        assert seen == held - ({"tag"} if name == "sgd" else set())
        assert not any(len(touched.take(part)) for part in touched.marks)
        built.model.eval()
        with torch.no_grad():
            built.model(next(iter(inputs.evaluation_reader("validation", ranks).epoch(0))))
        assert not any(len(touched.take(part)) for part in touched.marks)
        for part, rows in taken.items():
            touched.give_back(part, rows)
            assert touched.take(part).tolist() == rows.tolist()
        batches.close()


@pytest.mark.parametrize("world", [1, 2])
def test_changed_rows_are_marked(world, tmp_path):
    make_config(tmp_path, make_data(tmp_path / "data", rows=400), batch_size=16)
    make_config(tmp_path, raw_data(tmp_path / "raw_data"), name="raw")
    on_ranks(marked_as_changed, world, tmp_path)
