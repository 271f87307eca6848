"""Every optimizer of sharded tables, on ids that repeat within a sample and a batch: against plain float64 code that gets the
gradient of dense autograd, on one and two ranks; and through a checkpoint, bit for bit."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.config import load_config
from home_dist.embeddings.sharding import table_constraints
from home_dist.errors import ConfigError
from home_dist.schema import IdFeature, build_layout, load_schema, save_schema
from tests.embeddings.update_tables import STEPS, draw, factors
from tests.factory import make_config, make_data, make_schema
from tests.ranks import run, run_module, settings

pytestmark = pytest.mark.distributed
LR = 0.1
EPS = {"row_wise_adagrad": 1e-10, "adagrad": 1e-10}
SHARDINGS = ("row_wise", "table_wise", "column_wise", "data_parallel")
OPTIMIZERS = ("row_wise_adagrad", "adagrad", "sgd")
WITHIN_HOSTS = ("table_row_wise", "table_column_wise", "grid")
"""For pooled tables only."""


def overrides_of(optimizer: str, sharding: str) -> str:
    """Columns are cut into pieces of 128 at least."""
    wide = sharding in ("table_column_wise", "grid")
    of_histories = "row_wise" if sharding in ("data_parallel", *WITHIN_HOSTS) else sharding
    pinned = [f"embedding.tables.{t}.sharding={sharding}" for t in ("user", "tag", "topic")]
    dims = [f"embedding.tables.{t}.dim=256" for t in ("user", "tag", "topic") if wide]
    settled = [f"embedding.optimizer={optimizer}", f"embedding.lr={LR}", f"embedding.tables.video.sharding={of_histories}"]
    return " ".join([*settled, *pinned, *dims])


ONE_HOST = {f"{o}-{s}": overrides_of(o, s) for s in SHARDINGS for o in OPTIMIZERS}
ONE_HOST["sgd-mix"] = overrides_of("sgd", "column_wise").replace("tag.sharding=column_wise", "tag.sharding=row_wise")
HOSTS = {f"{o}-{s}": overrides_of(o, s) for s in WITHIN_HOSTS for o in OPTIMIZERS}
MIX = "embedding.optimizer=row_wise_adagrad embedding.lr=0.1 embedding.tables.user.sharding=grid embedding.tables.user.dim=256"
HOSTS["row_wise_adagrad-mix"] = f"{MIX} embedding.tables.tag.sharding=table_wise embedding.tables.topic.sharding=row_wise"
RUNS = {1: ONE_HOST, 2: ONE_HOST, 4: HOSTS}
"""By number of ranks; four of them as two hosts."""
CASES = [(ranks, name) for ranks, cases in RUNS.items() for name in cases]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By number of ranks and case, what each rank left."""
    folder = tmp_path_factory.mktemp("optimizers")
    data = make_data(folder / "data", rows=300, files=1, splits=("train",))
    path = data / "train" / "part-00000.parquet"
    rows = pq.read_table(path)
    ones = [[1.0] * len(tags) for tags in rows["tags"].to_pylist()]
    pq.write_table(rows.append_column("tag_weights", pa.array(ones, pa.list_(pa.float32()))), path)
    schema = load_schema(data / "schema.toml")
    weighted = IdFeature(name="topics", column="tags", table="topic", pooling="weighted", weights="tag_weights")
    topic = schema.table[0].model_copy(update={"name": "topic"})
    more = {"table": (*schema.table, topic), "feature": (*schema.feature, weighted)}
    save_schema(schema.model_copy(update=more), data / "schema.toml")
    results = {}
    for ranks, cases in RUNS.items():
        out = folder / f"ranks{ranks}"
        out.mkdir()
        # The batch is not read: ids are drawn, so that they repeat.
        config = make_config(out, data)
        lines = [f"{name} {overrides}" for name, overrides in cases.items()]
        run_module(ranks, "tests.embeddings.update_tables", config, out, *lines, per_host=2 if ranks == 4 else None)
        for name in cases:
            results[ranks, name] = [torch.load(out / f"{name}.{r}.pt") for r in range(ranks)]
    return results


def whole(parts: list[dict], moment: str) -> dict[str, torch.Tensor]:
    """By table, (rows, dim) in float64; what several ranks hold must be the same."""
    sizes = {}
    for part in parts:
        for table, row, column, values in part[moment]:
            rows, dim = sizes.get(table, (0, 0))
            sizes[table] = (max(rows, row + values.shape[0]), max(dim, column + values.shape[1]))
    tables = {t: torch.full(size, float("nan"), dtype=torch.float64) for t, size in sizes.items()}
    for part in parts:
        for table, row, column, values in part[moment]:
            target = tables[table][row : row + values.shape[0], column : column + values.shape[1]]
            assert (target.isnan() | (target == values)).all()
            target.copy_(values)
    assert not any(t.isnan().any() for t in tables.values())
    return tables


def gradient(tables: dict[str, torch.Tensor], part: dict, step: int, rank: int) -> dict[str, torch.Tensor]:
    """Of the rank's loss, by dense autograd in float64."""
    leaves = {t: w.clone().requires_grad_() for t, w in tables.items()}
    loss = torch.zeros((), dtype=torch.float64)
    for place, keys in part["keys"].items():
        if not keys:
            continue
        for key, ids in draw(place, keys, step, rank).to_dict().items():
            table, dim = part["tables"][key]
            vectors = leaves[table][ids.values()]
            if place == "event":
                loss = loss + (vectors * factors(key, *vectors.shape, step, rank).double()).sum()
                continue
            if place == "weighted_bag":
                vectors = vectors * ids.weights().double()[:, None]
            samples = vectors.split(ids.lengths().tolist())
            pooled = [s.sum(0) for s in samples]  # the network makes means of them
            loss = loss + (torch.stack(pooled) * factors(key, len(pooled), dim, step, rank).double()).sum()
    loss.backward()
    return {t: w.grad if w.grad is not None else torch.zeros_like(w) for t, w in leaves.items()}


def update(kind: str, weights: torch.Tensor, grad: torch.Tensor, state: torch.Tensor, columns: int) -> None:
    """One step in place. columns: of a shard, over which row-wise Adagrad takes its mean."""
    for row in grad.abs().sum(1).nonzero().flatten().tolist():
        if kind == "sgd":
            weights[row] -= LR * grad[row]
        elif kind == "adagrad":
            state[row] += grad[row] ** 2
            weights[row] -= LR * grad[row] / (state[row].sqrt() + EPS[kind])
        else:
            for at in range(0, grad.shape[1], columns):
                part = slice(at, at + columns)
                state[row, part] += (grad[row, part] ** 2).mean()
                weights[row, part] -= LR * grad[row, part] / (state[row, part].sqrt() + EPS[kind])


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_repeated_ids_update_as_dense_gradients_do(found, name, ranks):
    parts = found[ranks, name]
    expected, after = whole(parts, "before"), whole(parts, "after")
    start = {t: w.clone() for t, w in expected.items()}
    kind = name.split("-")[0]
    columns = {t: min(v.shape[1] for p in parts for n, _, _, v in p["before"] if n == t) for t in expected}
    states = {t: torch.zeros_like(w) for t, w in expected.items()}
    for step in range(STEPS):
        # Of the mean over ranks, as for dense parameters.
        grads = [gradient(expected, parts[rank], step, rank) for rank in range(ranks)]
        for table, weights in expected.items():
            grad = sum(g[table] for g in grads) / ranks
            update(kind, weights, grad, states[table], columns[table])
    assert {t for t in expected if not torch.equal(start[t], after[t])} == {"user", "tag", "video", "topic"}
    for table, weights in expected.items():
        # Adagrad divides a gradient by its own size: of one that nearly cancels out, what is left is rounding.
        near = 5e-4 if kind == "adagrad" else 2e-6
        torch.testing.assert_close(after[table], weights, rtol=2e-5, atol=near, msg=lambda m, t=table: f"{t}: {m}")


def test_histories_are_not_looked_up_data_parallel(tmp_path):
    data = make_data(tmp_path / "data", rows=50, files=1, splits=("train",))
    config = make_config(tmp_path, data)
    overrides = settings(embedding__tables__video__sharding="data_parallel", data__validation="''", data__test="''")
    ended = run(1, "train", config, *overrides)
    assert ended.codes == [2]
    assert "embedding.tables.video.sharding: data_parallel does not work on a CPU for a table that a history uses" in ended.text


@pytest.mark.parametrize(
    ("table", "sharding", "message"),
    [
        ("video", "grid", "shards tables that a history uses, .* not grid. Choose table_wise"),
        ("video", "table_row_wise", "shards tables that a history uses, .* not table_row_wise"),
    ],
)
def test_what_torchrec_does_not_shard_is_refused(table, sharding, message, tmp_path):
    config = load_config(make_config(tmp_path, tmp_path), [f"embedding.tables.{table}.sharding={sharding}"])
    with pytest.raises(ConfigError, match=f"embedding.tables.{table}.sharding: TorchRec {message}"):
        table_constraints(build_layout(make_schema(), config), config.embedding, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_a_checkpoint_goes_on_bit_for_bit(found, name, ranks):
    for part in found[ranks, name]:
        for resumed, after in zip(part["resumed"], part["after"], strict=True):
            assert torch.equal(resumed[-1], after[-1])
        for continued, straight, after in zip(part["continued"], part["straight"], part["after"], strict=True):
            assert continued[:-1] == straight[:-1]
            assert torch.equal(continued[-1], straight[-1])
            if after[1] == 0:  # the first rows, where the ids are: training went on
                assert not torch.equal(straight[-1], after[-1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["embedding.optimizer=adam"], "embedding.optimizer: Input should be 'row_wise_adagrad', 'adagrad' or 'sgd'"),
        (["embedding.weight_decay=0.1"], "embedding.weight_decay: FBGEMM 1.8 takes a decay .* ignores it"),
    ],
)
def test_what_no_optimizer_does_is_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(make_config(tmp_path, tmp_path), overrides)
