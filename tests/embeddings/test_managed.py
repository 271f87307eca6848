"""Managed ids: no two share a row, they read what a dictionary of float64 vectors would hold, and a run goes on exactly."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.config import load_config
from home_dist.errors import ConfigError
from home_dist.ids.managed_sets import ManagedSets
from home_dist.schema import build_layout, load_schema, save_schema
from home_dist.schema.values import HashValues
from tests.embeddings.train_managed import ROWS, STEPS
from tests.factory import make_config, make_data
from tests.ranks import run, run_module, settings

pytestmark = pytest.mark.distributed
LR = 0.1
CASES = {
    f"{fill}-{policy}": f"embedding.lr={LR} embedding.tables.video.managed={policy} embedding.tables.video.keep_rows={rows}"
    for fill, rows in (("roomy", 16 * ROWS), ("tight", ROWS))
    for policy in ("lfu", "lru")
}
RANKS = (1, 2)


def prepared(folder, rows=300):
    """The factory's data, with videos as hashed raw ids."""
    data = make_data(folder / "data", rows=rows, files=1, splits=("train",))
    schema = load_schema(data / "schema.toml")
    hashed = HashValues(type="integer", seed=3)
    tables = tuple(t.model_copy(update={"values": hashed}) if t.name == "video" else t for t in schema.table)
    save_schema(schema.model_copy(update={"table": tables}), data / "schema.toml")
    path = data / "train" / "part-00000.parquet"
    table = pq.read_table(path)
    ids = [None if v % 9 == 0 else v * 10**12 for v in table["video"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("video"), "video", [pa.array(ids)]), path, row_group_size=60)
    return data


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By number of ranks and case, what each rank left."""
    folder = tmp_path_factory.mktemp("managed")
    data = prepared(folder)
    results = {}
    for ranks in RANKS:
        out = folder / f"ranks{ranks}"
        out.mkdir()
        config = make_config(out, data)
        cases = [f"{name} {options}" for name, options in CASES.items()]
        run_module(ranks, "tests.embeddings.train_managed", config, out, *cases)
        for name in CASES:
            results[ranks, name] = [torch.load(out / f"{name}.{r}.pt") for r in range(ranks)]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("policy", ["lfu", "lru"])
def test_with_room_each_id_has_a_vector_of_its_own(found, ranks, policy):
    """Row-wise Adagrad on a dictionary: what an id reads is what its earlier gradients made of its first value."""
    parts = found[ranks, f"roomy-{policy}"]
    vectors, sums = {}, {}
    for step in range(STEPS):
        gradients = {}
        for part in parts:
            ids, read = part["seen"][step]
            for i, vector in zip(ids.tolist(), read.double(), strict=True):
                torch.testing.assert_close(vectors.setdefault(i, vector.clone()), vector, rtol=1e-5, atol=1e-6)
                gradients[i] = gradients.get(i, 0) + 1 / ranks
        for i, gradient in gradients.items():
            sums[i] = sums.get(i, 0) + gradient**2
            vectors[i] -= LR * gradient / sums[i] ** 0.5
    assert len(vectors) > 30
    kept = torch.cat([p["middle"]["owners.id"] for p in parts])
    assert set(kept[kept >= 0].tolist()) == set(vectors)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("policy", ["lfu", "lru"])
def test_without_room_ids_come_and_go(found, ranks, policy):
    parts = found[ranks, f"tight-{policy}"]
    for rank, part in enumerate(parts):
        owners, sets = part["middle"]["owners.id"].view(-1, ManagedSets.of(ROWS).width), ManagedSets.of(ROWS)
        assert bool((owners[:, 0] == -1).all())  # the first row of a set is shared
        held = owners[owners >= 0].tolist()
        assert len(held) == len(set(held)) >= 0.8 * (ROWS - sets.sets) / ranks  # no two rows have one id
        first = rank * sets.sets_of_rank(ranks)
        assert all(i // sets.quotient - first == n for n, own in enumerate(owners.tolist()) for i in own if i >= 0)
    held = {i for p in parts for i in p["middle"]["owners.id"].tolist() if i >= 0}
    counts, last = {}, {}
    for step in range(STEPS):
        for part in parts:
            for i in part["seen"][step][0].tolist():
                counts[i], last[i] = counts.get(i, 0) + 1, step
    assert len(counts) > 2 * ROWS
    if policy == "lfu":
        most = sorted(counts, key=lambda i: -counts[i])[:10]
        assert set(most) <= held
    else:
        assert max(last[i] for i in counts if i not in held) <= STEPS - 1
        assert sum(last[i] for i in held if i in last) / len(held) > sum(last.values()) / len(last)
    # An id that came back in the last step after its row had gone to another starts from a small vector.
    ids, read = parts[0]["seen"][-1]
    fresh = [v for i, v in zip(ids.tolist(), read, strict=True) if last[i] == STEPS - 1 and counts[i] == 1 and i in held]
    assert all(v.abs().max() < 0.1 for v in fresh)  # init_std is 0.01; a step of Adagrad moves a row by 0.1


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_goes_on_bit_for_bit(found, name, ranks):
    for part in found[ranks, name]:
        for (ids, straight), (same, resumed) in zip(part["straight"], part["resumed"], strict=True):
            assert torch.equal(ids, same)
            assert torch.equal(straight, resumed)
        assert part["end"].keys() == part["end_resumed"].keys() > {"weight", "momentum1", "owners.id", "waiting.seen"}
        for key, value in part["end"].items():
            assert torch.equal(value, part["end_resumed"][key]), key
        assert not torch.equal(part["end"]["weight"], part["middle"]["weight"])


@pytest.mark.slow
def test_a_run_with_histories_trains_evaluates_and_goes_on_on_other_ranks(tmp_path):
    data = prepared(tmp_path, rows=600)
    config = make_config(tmp_path, data, batch_size=32)
    managed = settings(
        embedding__tables__video__managed="lfu", embedding__tables__video__keep_rows=500, data__validation="''", data__test="''"
    )
    ended = run(2, "train", config, *managed, *settings(train__epochs=6, train__max_steps=40))
    assert ended.codes == [0, 0], ended.text
    losses = [float(x) for x in ended.losses().values()]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.1
    again = run(2, "train", config, *managed, *settings(train__epochs=6, train__max_steps=42))
    assert again.codes == [0, 0], again.text
    assert "step 42/42" in again.outputs[0]
    evaluated = run(2, "evaluate", tmp_path / "run", "--split", "train")
    assert evaluated.codes == [0, 0], evaluated.text
    figures = {}
    for ranks in (1, 2, 3):
        out = tmp_path / f"{ranks}.json"
        ended = run(ranks, "evaluate", tmp_path / "run", "--split", "train", "--out", out)
        assert ended.codes == [0] * ranks, ended.text
        figures[ranks] = json.loads(out.read_text())["train"]
    assert figures[1]["like"]["auc"] == pytest.approx(figures[2]["like"]["auc"], abs=1e-6)
    assert figures[1]["like"]["auc"] == pytest.approx(figures[3]["like"]["auc"], abs=1e-6)
    further = run(3, "train", config, *managed, *settings(train__epochs=6, train__max_steps=44))
    assert further.codes == [0, 0, 0], further.text
    assert "step 44/44" in further.outputs[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["embedding.tables.video.managed=hashed"], "TorchRec's hashed kind does not train on a CPU"),
        (
            ["embedding.tables.video.managed=lfu", "embedding.tables.video.sharding=table_wise"],
            "TorchRec shards managed ids row-wise only, not table_wise",
        ),
    ],
)
def test_what_torchrec_cannot_is_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(make_config(tmp_path, tmp_path), overrides)


def test_rows_cannot_be_managed(tmp_path):
    config = load_config(make_config(tmp_path, prepared(tmp_path)), ["embedding.tables.tag.managed=lru"])
    with pytest.raises(ConfigError, match=r"embedding\.tables\.tag\.managed: the table's columns must hold ids, not rows"):
        build_layout(load_schema(config.schema_path()), config)
