"""Tiny runs with checkpoints of steps 2 and 4, as the tests of publishing publish them."""

import numpy as np
import torch

from home_dist.export.source import Source
from tests.factory import make_config
from tests.ranks import run, settings

CUT = settings(embedding__tables__user__keep_rows=1000)
MANAGED = settings(embedding__tables__video__managed="lfu", embedding__tables__video__keep_rows=512)


def trained_on(ranks, data, options=(), batch_size=32):
    """The run's folder, beside the data's."""
    config = make_config(data.parent, data, batch_size=batch_size)
    common = settings(checkpoint__every_steps=2, train__max_steps=4, insight__every_steps=0)
    ended = run(ranks, "train", config, *common, *options)
    assert ended.codes == [0] * ranks, ended.text
    return data.parent / "run"


def source(trained, step):
    return Source.open(trained / "checkpoints" / f"step-{step:08d}")


def same(one, other):
    """Whether two versions hold the same rows for the same ids, and the same dense tensors, to the bit."""
    assert one.tables.keys() == other.tables.keys()
    assert one.dense.keys() == other.dense.keys()
    for name, table in one.tables.items():
        np.testing.assert_array_equal(table.there, other.tables[name].there)
        assert table.rows(table.there).tobytes() == other.tables[name].rows(table.there).tobytes()
        ids, others = (dict(zip(i.to_pylist(), s.tolist(), strict=True)) for i, s in (table.ids, other.tables[name].ids))
        assert ids == others
    for name, values in one.dense.items():
        assert torch.equal(values, other.dense[name])
