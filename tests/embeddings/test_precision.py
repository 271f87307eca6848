"""fp16 tables: trained on real ranks, against fp32 ones and against other ranks and shardings."""

import numpy as np
import pytest
import torch

from home_dist.config import load_config
from home_dist.errors import ConfigError
from home_dist.schema import build_layout
from home_dist.training.checkpoint.reading import open_stored
from tests.factory import make_config, make_data, make_schema
from tests.ranks import Ended, run, settings

SHARDED = ("user", "video", "tag")
HALF = settings(embedding__precision="fp16")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=1200, files=2)


def train(ranks: int, folder, data, *more: object, batch: int = 64) -> Ended:
    ended = run(ranks, "train", make_config(folder, data, batch_size=batch // ranks), *settings(train__epochs=1), *more)
    assert ended.codes == [0] * ranks, ended.text
    return ended


def newest(folder):
    return open_stored(max((folder / "run" / "checkpoints").glob("step-*[0-9]")))[0]


def losses(ended: Ended) -> np.ndarray:
    return np.array([float(loss) for loss in ended.losses().values()])


@pytest.mark.distributed
def test_half_the_bytes_and_nearly_the_same_curve(data, tmp_path):
    whole = train(2, tmp_path / "fp32", data)
    half = train(2, tmp_path / "fp16", data, *HALF)
    assert len(losses(half)) == len(losses(whole)) > 10
    # Weights of some 0.01 with 11 significant bits: the curves part in the third digit at most.
    assert np.abs(losses(half) - losses(whole)).max() < 5e-3
    stored = newest(tmp_path / "fp16")
    for table in SHARDED:
        assert stored.dtype(f"tables/{table}/weight") == torch.float16
        assert stored.dtype(f"tables/{table}/momentum1") == torch.float32


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kinds", [("row_wise", "row_wise", "table_wise"), ("column_wise", "table_wise", "row_wise")])
def test_other_ranks_and_shardings_give_the_same(kinds, data, tmp_path):
    """Sums in another order round differently, in steps of fp16 here: curves part slowly. SGD, as row-wise Adagrad's state
    depends on how columns are cut."""
    options = [*HALF, *settings(embedding__dim=256, embedding__optimizer="sgd")]
    pins = settings(**{f"embedding__tables__{t}__sharding": k for t, k in zip(SHARDED, kinds, strict=True)})
    two = losses(train(2, tmp_path / "two", data, *options, *pins))
    one = losses(train(1, tmp_path / "one", data, *options))
    assert len(one) == len(two) > 10
    assert np.abs(two - one)[:5].max() < 3e-4
    assert np.abs(two - one).max() < 5e-3


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("before", "after"), [("fp16", "fp32"), ("fp32", "fp16")])
def test_a_run_begins_with_tables_of_the_other_precision(before, after, data, tmp_path):
    train(2, tmp_path / "before", data, *settings(embedding__precision=before))
    frozen = settings(train__lr=1e-30, embedding__lr=1e-30, train__max_steps=1, embedding__precision=after)
    train(1, tmp_path / "after", data, *frozen, "--from", tmp_path / "before" / "run")
    old, new = newest(tmp_path / "before"), newest(tmp_path / "after")
    for name in (f"tables/{t}/weight" for t in SHARDED):
        assert old.dtype(name) != new.dtype(name)
        assert torch.equal(old.whole(name).half(), new.whole(name).half())


def test_what_cannot_be_fp16(data, tmp_path):
    path = make_config(tmp_path, data)
    for other in ("managed='lfu'", "sharding='data_parallel'"):
        with pytest.raises(ConfigError, match=r"precision: .* are fp32"):
            load_config(path, ["embedding.tables.user.precision=fp16", f"embedding.tables.user.{other}"])
    small = load_config(path, ["embedding.tables.tab.precision=fp16"])
    with pytest.raises(ConfigError, match=r"embedding\.tables\.tab\.precision: a table of 5 rows .*replicate_rows"):
        build_layout(make_schema(), small)
    with pytest.raises(ConfigError, match=r"embedding\.precision"):
        load_config(path, ["embedding.precision=bf16"])
