"""Losses, scores and all gradients with inputs once per request are those of the plain layout, in float64."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.config import RunConfig, load_config
from home_dist.data import Batch, Reader, open_files
from home_dist.data.request_scan import find_requests
from home_dist.network import Network
from home_dist.schema import Schema, build_layout
from home_dist.schema.once import once_per_request
from tests.data.with_shared import ONCE, make_shared
from tests.factory import make_config, make_schema

ENCODERS = {
    "din": [],
    "din softmax": ["sequence.0.softmax=true"],
    "dien": [],
    "sim hard": ["sequence.0.search=hard", "sequence.0.most=2"],
    "sim soft": ["sequence.0.most=2"],
    "twin": ["sequence.0.most=2"],
    "twin newest": ["sequence.0.most=2", "sequence.0.newest=3"],
    "twin per head": ["sequence.0.most=2", "sequence.0.search_per_head=true"],
    "examples.own_model.encoder:Recency": [],  # knows no requests, and gets copies
}
SIZES = [3, 1, 1, 5, 2, 7, 1, 4, 6, 2, 1, 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once")
    table = make_shared(SIZES)
    lengths = np.diff(table.column("tags").combine_chunks().offsets)
    weights = [np.cos(np.arange(n)).tolist() for n in lengths]
    table = table.append_column("tag_weights", pa.array(weights, pa.list_(pa.float32())))
    few = np.asarray(table.column("video")) % 5  # so that a hard search finds events
    table = table.set_column(table.schema.get_field_index("video"), "video", [few])
    watched = table.column("watched_video").combine_chunks()
    few = pa.ListArray.from_arrays(watched.offsets, pa.array(np.asarray(watched.values) % 5))
    table = table.set_column(table.schema.get_field_index("watched_video"), "watched_video", [few])
    (folder / "train").mkdir()
    pq.write_table(table, folder / "train" / "part-0.parquet", row_group_size=11)
    return folder


def schema_of(weighted: bool) -> Schema:
    written = make_schema().model_dump()
    for feature in written["feature"]:
        if weighted and feature["name"] == "tags":
            feature |= {"pooling": "weighted", "weights": "tag_weights"}
    return Schema.model_validate(written)


def batches(folder, schema: Schema, config: RunConfig, once: tuple[str, ...]) -> tuple[Network, list[Batch]]:
    torch.manual_seed(5)
    layout = once_per_request(build_layout(schema, config), once)
    network = Network(schema, layout, config, torch.device("cpu"))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    files = open_files(folder / "train", schema, layout, ("request_id",))
    requests = find_requests(files)
    reader = Reader(files, schema, layout, batch_size=16, seed=1, lanes=2, window_rows=20, requests=requests)
    return network.double(), list(reader.epoch(0))


@pytest.fixture
def all_double(monkeypatch):
    """Network and TorchRec turn results into float32 at some places, which would hide what 1e-10 shows."""
    to_float = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float(x))


def in_double(batch: Batch) -> Batch:
    """Its floats in float64."""
    for name in ("dense", "vectors", "labels", "weights", "durations", "mask"):
        setattr(batch, name, getattr(batch, name).double())
    ids = batch.weighted_bags
    if ids.keys():
        weights = ids.weights().double()
        batch.weighted_bags = KeyedJaggedTensor(ids.keys(), ids.values(), lengths=ids.lengths(), weights=weights)
    return batch


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("replicate", "weighted"), [(100, False), (0, True)], ids=["small tables", "sharded and weighted"])
def test_losses_scores_and_gradients(all_double, folder, tmp_path, encoder, replicate, weighted):
    schema = schema_of(weighted)
    dims = [] if replicate else ["embedding.small_dim=8"]
    overrides = [f"sequence.0.kind={encoder.split()[0]}", *ENCODERS[encoder], f"embedding.replicate_rows={replicate}", *dims]
    path = make_config(tmp_path, folder)
    if not encoder.startswith("din"):
        path.write_text(path.read_text().replace("hidden = [8]\n[model]", "[model]"))
    config = load_config(path, [*overrides, "model.expert_norm=true", "data.request=request_id"])
    one, plain = batches(folder, schema, config, ())
    other, shared = batches(folder, schema, config, ONCE)
    assert len(plain) == len(shared) > 1
    assert sum(int(b.events.lengths().sum()) for b in shared) < sum(int(b.events.lengths().sum()) for b in plain)
    touched = set()
    for first, second in zip(plain, shared, strict=True):
        outputs = []
        for network, batch in ((one, first), (other, second)):
            network.zero_grad()
            torch.manual_seed(9)
            loss, output = network(in_double(batch))
            loss.backward()
            outputs.append((loss, output.scores, output.loss_sums, *output.auxiliary.values()))
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-10)
        assert outputs[0][0].dtype == torch.float64
        gradients = [{n: p.grad for n, p in network.named_parameters()} for network in (one, other)]
        assert gradients[0].keys() == gradients[1].keys()
        for name, expected in gradients[0].items():
            found = gradients[1][name]
            assert (expected is None) == (found is None), name
            if expected is not None and found is not None:
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        touched |= {n for n, g in gradients[0].items() if g is not None and g.abs().max() > 0}
    assert any("user" in n for n in touched)
    assert one.weighted_bags is not None or not weighted
    assert any("encoders" in n for n in touched)
