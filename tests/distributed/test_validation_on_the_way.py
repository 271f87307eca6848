"""A run that is evaluated on its way learns what one learns that is not."""

import pytest
import torch

from home_dist.training.checkpoint.reading import open_stored
from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.parametrize("replicate_rows", [0, 5000], ids=["sharded", "all tables replicated"])
def test_learns_the_same(replicate_rows, tmp_path):
    data = make_data(tmp_path / "data", rows=300, files=2, row_group=60)
    found = {}
    for name, best in (("evaluated", {"checkpoint__best": "auc"}), ("plain", {})):
        config = make_config(tmp_path / name, data, batch_size=32)
        options = settings(embedding__replicate_rows=replicate_rows, checkpoint__every_steps=3, **best)
        ended = run(1, "train", config, *options)
        assert ended.codes == [0], ended.text
        newest = max((tmp_path / name / "run" / "checkpoints").glob("step-*"))
        stored, record = open_stored(newest)
        # FBGEMM counts every forward as a step, those of an evaluation, too; none of the optimizers here reads the count.
        found[name] = {n: stored.whole(n) for n in stored.tensors if not n.endswith("/steps")}
        assert ("validation/auc" in record.state.metrics) == bool(best)
    assert found["evaluated"].keys() == found["plain"].keys()
    assert [n for n, value in found["evaluated"].items() if not torch.equal(found["plain"][n], value)] == []
