"""The feature vector: where each feature stands in it, whatever the sharding plan."""

import pytest
import torch
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from home_dist.config import RunConfig
from home_dist.data.batch import Batch
from home_dist.embeddings.pooling import MeansOfSums
from home_dist.errors import ConfigError
from home_dist.network import FeatureVector, Head, Network
from home_dist.schema import InputLayout, Schema, build_layout
from tests.factory import TASKS, make_schema

ROWS = 3


def configured(**model: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "x"},
            "data": {"path": "y"},
            "embedding": {"dim": 8, "small_dim": 4, "replicate_rows": 100, "tables": {"tab": {"dim": 2}}},
            "sequence": [{"name": "watched", "hidden": [4]}],
            "model": model,
        }
    )


def looked_up(layout: InputLayout) -> tuple[Batch, dict[str, torch.Tensor], dict[str, JaggedTensor]]:
    """A batch, and what the sharded collections could have found for it."""
    torch.manual_seed(0)
    bags = {i.key: torch.randn(ROWS, i.table.dim) for i in layout.at("bag")}
    ones = torch.ones(ROWS, dtype=torch.int64)
    events = {i.key: JaggedTensor(values=torch.randn(ROWS, i.table.dim), lengths=ones) for i in layout.at("event")}
    small = torch.stack([torch.arange(ROWS) for _ in layout.at("small")], 1)
    keys = [i.key for i in layout.at("small_list")]
    lists = KeyedJaggedTensor(keys, torch.zeros(len(keys) * ROWS, dtype=torch.int64), lengths=ones.repeat(len(keys)))
    batch = object.__new__(Batch)
    of_bags = [i.key for i in layout.at("bag")]
    batch.bags = KeyedJaggedTensor(
        of_bags, torch.zeros(len(of_bags) * ROWS, dtype=torch.int64), lengths=ones.repeat(len(of_bags))
    )
    of_events = [i.key for i in layout.at("event")]
    batch.events = KeyedJaggedTensor(
        of_events, torch.zeros(len(of_events) * ROWS, dtype=torch.int64), lengths=ones.repeat(len(of_events))
    )
    batch.small, batch.small_lists, batch.dense = small, lists, torch.randn(ROWS, layout.dense_width)
    batch.groups, batch.firsts = torch.arange(ROWS), torch.zeros(0, dtype=torch.int64)
    return batch, bags, events


def keyed(bags: dict[str, torch.Tensor], keys: list[str]) -> KeyedTensor:
    return KeyedTensor(keys, [bags[k].shape[1] for k in keys], torch.cat([bags[k] for k in keys], 1))


def test_columns_tell_where_a_feature_stands():
    config = configured()
    layout = build_layout(make_schema(), config)
    vector = FeatureVector(layout, config, len(TASKS))
    batch, bags, events = looked_up(layout)
    order = [i.key for i in layout.at("bag")]
    assert len(order) >= 2
    columns = vector.columns()
    assert columns.keys() == {f.name for f in make_schema().feature}
    v, _ = vector(batch, keyed(bags, order), None, events)

    def touched(change):
        before = [batch.small.clone(), batch.dense.clone(), {k: b.clone() for k, b in bags.items()}]
        change()
        other, _ = vector(batch, keyed(bags, order), None, events)
        batch.small, batch.dense = before[:2]
        bags.update(before[2])
        return (v != other).any(0).nonzero().flatten().tolist()

    for key in order:
        assert touched(lambda k=key: bags[k].add_(1)) == columns[key]
    assert touched(lambda: batch.dense[:, 1].add_(1)) == columns["age"]
    assert touched(lambda: batch.dense[:, 2:].add_(1)) == columns["vector"]
    by_key = {i.key: n for n, i in enumerate(layout.at("small"))}
    assert touched(lambda: batch.small[:, by_key["tab"]].add_(1)) == columns["tab"]
    rate = touched(lambda: (batch.small[:, by_key["rate"]].add_(1), batch.dense[:, 0].add_(1)))
    assert rate == columns["rate"]
    assert len(rate) == 4 + 1


def test_the_plan_does_not_change_the_order():
    """TorchRec lists bags by their kind of sharding."""
    config = configured()
    layout = build_layout(make_schema(), config)
    vector = FeatureVector(layout, config, len(TASKS))
    batch, bags, events = looked_up(layout)
    order = [i.key for i in layout.at("bag")]
    first, second = (vector(batch, keyed(bags, keys), None, events)[0] for keys in (order, order[::-1]))
    assert torch.equal(first, second)


def test_a_model_gets_the_columns_of_the_features_it_names():
    config = configured(kind="pepnet", domain_features=["tab"], prior_features=["user", "rate"])
    layout = build_layout(make_schema(), config)
    head = Head(make_schema(), layout, config)
    columns = head.features.columns()
    assert head.model.domain.tolist() == columns["tab"]
    assert head.model.prior.tolist() == columns["user"] + columns["rate"]


def test_a_model_that_names_unknown_features_is_refused():
    config = configured(kind="pepnet", prior_features=["user", "author"])
    with pytest.raises(ConfigError, match=r"model\.prior_features: 'author' is no feature.*there are: user, video"):
        build_layout(make_schema(), config)


def test_a_loss_of_the_model_enters_the_loss_and_is_told_apart():
    losses, told = [], []
    for alpha in (0.0, 0.5):
        config = configured(kind="l2_constrained", alpha=alpha)
        layout = build_layout(make_schema(), config)
        torch.manual_seed(1)
        head = Head(make_schema(), layout, config)
        batch, bags, events = looked_up(layout)
        batch.labels, batch.weights, batch.durations = torch.ones(ROWS, 3), torch.ones(ROWS, 3), torch.ones(ROWS, 0)
        batch.teachers, batch.mask, batch.epoch, batch.step = torch.zeros(0, 0), torch.tensor([1.0, 1, 0]), 0, 1
        loss, output = head(batch, keyed(bags, [i.key for i in layout.at("bag")]), None, events)
        losses.append(loss)
        told.append(output)
        torch.testing.assert_close(output.loss_sums, told[0].loss_sums)
    assert told[0].auxiliary == {"l2_constraint": 0}
    extra = told[1].auxiliary["l2_constraint"]
    assert extra > 0
    assert not extra.requires_grad
    torch.testing.assert_close(losses[1], losses[0] + extra)
    torch.testing.assert_close(losses[0], told[0].loss_sums.sum() / ROWS)


def test_a_model_without_a_loss_of_its_own_tells_none():
    config = configured()
    head = Head(make_schema(), build_layout(make_schema(), config), config)
    assert head.model.auxiliary() == {}


@pytest.mark.parametrize("kind", ["din", "dien", "sim", "twin"])
def test_products_in_bf16(kind):
    """Near those in fp32, and not the same; logits and gradients are fp32."""
    config = configured(kind="mmoe", expert_hidden=[8], expert_dim=8, tower_hidden=[8])
    config = config.model_validate({**config.model_dump(by_alias=True), "sequence": [{"name": "watched", "kind": kind}]})
    layout = build_layout(make_schema(), config)
    torch.manual_seed(0)
    head = Head(make_schema(), layout, config)
    batch, bags, events = looked_up(layout)
    found = {}
    for bf16 in (False, True):
        head.features.bf16 = bf16
        torch.manual_seed(1)
        v, _ = head.features(batch, keyed(bags, [i.key for i in layout.at("bag")]), None, events)
        logits = head.logits(v, batch.dense, torch.ones(ROWS))
        head.zero_grad()
        logits.square().sum().backward()
        assert {p.grad.dtype for p in head.parameters() if p.grad is not None} == {torch.float32}
        found[bf16] = logits.detach()
    assert found[True].dtype == torch.float32
    assert not torch.equal(found[True], found[False])
    torch.testing.assert_close(found[True], found[False], rtol=0.05, atol=0.02)


def test_means_are_made_of_sums():
    """Of the keys that ask for it, in any order of keys; a sample without ids keeps the zero vector."""
    ids = KeyedJaggedTensor(
        ["a", "b", "c"],
        torch.zeros(10, dtype=torch.int64),
        lengths=torch.tensor([2, 0, 1, 3, 1, 0, 1, 1, 1], dtype=torch.int32),
    )
    sums = {"c": torch.randn(3, 2), "a": torch.randn(3, 4), "b": torch.randn(3, 1)}
    found = MeansOfSums(frozenset({"a", "b"}))(keyed(sums, ["c", "a", "b"]), ids).to_dict()
    assert torch.equal(found["c"], sums["c"])
    torch.testing.assert_close(found["a"], sums["a"] / torch.tensor([[2.0], [1], [1]]))
    torch.testing.assert_close(found["b"], sums["b"] / torch.tensor([[3.0], [1], [1]]))


def test_a_sharded_table_with_a_name_of_torchs_own_is_refused_by_name():
    tree = make_schema().model_dump(exclude_none=True)
    for part in [*tree["table"], *tree["feature"], *(e for s in tree["sequence"] for e in s["events"])]:
        for key in ("name", "table"):
            if part.get(key) == "user":
                part[key] = "type"
        if part.get("target") == "user":
            part["target"] = "type"
    schema = Schema.model_validate(tree)
    layout = build_layout(schema, configured())
    with pytest.raises(ConfigError, match=r"table 'type': no sharded table can have this name.*type_id"):
        Network(schema, layout, configured(), torch.device("cpu"))
