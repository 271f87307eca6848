"""Tasks of every kind in all models: a tower has as many outputs as its kind needs, ESMM's product stays right beside them."""

from types import SimpleNamespace

import pytest
import torch

from home_dist.config import RunConfig, load_config
from home_dist.config.model import MODELS
from home_dist.data.files import open_files
from home_dist.data.reader import Reader
from home_dist.errors import ConfigError
from home_dist.network import Head
from home_dist.schema import Schema, build_layout, load_schema
from tests.mixed_tasks import mixed_config, mixed_data

OUTPUTS = {"like": 1, "seconds": 1, "stars": 4, "follow": 1, "by_duration": 1, "odds": 1, "levels_watched": 8, "watch": 1}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("mixed")
    data = mixed_data(folder / "data", rows=400)
    path = mixed_config(folder, data)
    config, schema = load_config(path), load_schema(data / "schema.toml")
    layout = build_layout(schema, config)
    files = open_files(data / "train", schema, layout)
    batch = next(Reader(files, schema, layout, batch_size=64, seed=0).epoch(0))
    return SimpleNamespace(path=path, schema=schema, layout=layout, batch=batch)


def head_of(mixed: SimpleNamespace, options: list[str], schema: Schema | None = None) -> tuple[Head, RunConfig]:
    config, schema = load_config(mixed.path, options), schema or mixed.schema
    torch.manual_seed(3)
    return Head(schema, build_layout(schema, config), config), config


NEEDED = {
    "pepnet": ["model.domain_features=['tab']", "model.prior_features=['user']"],
    "esmm": ["model.after={follow='like'}"],
}


@pytest.mark.parametrize("kind", list(MODELS))
def test_all_models(kind, mixed):
    schema = mixed.schema.only(["levels_watched"]) if kind == "single_task" else mixed.schema
    head, _ = head_of(mixed, [f"model.kind='{kind}'", *NEEDED.get(kind, [])], schema)
    counts = [OUTPUTS[t.name] for t in schema.task]
    v = torch.randn(64, head.features.width)
    logits = head.logits(v, torch.randn(64, head.features.layout.dense_width), None)
    assert logits.shape == (64, sum(counts))
    columns = [n for n, t in enumerate(mixed.schema.task) if t.name in [s.name for s in schema.task]]
    labels, weights = mixed.batch.labels[:, columns], mixed.batch.weights[:, columns]
    losses = head.objectives.losses(logits, labels, weights, mixed.batch.durations)
    assert losses.shape == (64, len(counts))
    for k in range(len(counts)):  # each task's loss reaches its own tower alone
        head.zero_grad()
        losses[:, k].sum().backward(retain_graph=True)
        touched = {n for n, p in head.towers.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert touched
        for name, members in head.towers.tasks.items():
            for parameter in (head.towers if not name else head.towers.others[name]).parameters(recurse=bool(name)):
                if parameter.grad is not None:
                    others = [place for place, task in enumerate(members) if task != k]
                    assert not parameter.grad[others].any()


def test_towers_of_several_shapes_are_the_towers_alone(mixed):
    """Each task's logits are those of its own perceptron, computed by itself."""
    head, config = head_of(mixed, ["model.towers={follow=[12, 6], stars=[]}"])
    states = torch.randn(len(OUTPUTS), 5, head.model.out_dim)
    logits, first = head.towers(states), 0
    for k, (task, outputs) in enumerate(OUTPUTS.items()):
        [name] = [n for n, members in head.towers.tasks.items() if k in members]
        bank = head.towers if not name else head.towers.others[name]
        place = head.towers.tasks[name].index(k)
        x, layers = states[k], list(zip(bank.weights, bank.biases, strict=True))
        widths = {"follow": [12, 6], "stars": []}.get(task, list(config.model.tower_hidden))
        assert [w.shape[2] for w, _ in layers] == [*widths, outputs]
        for depth, (weight, bias) in enumerate(layers):
            x = x @ weight[place] + bias[place]
            x = torch.relu(x) if depth < len(layers) - 1 else x
        torch.testing.assert_close(logits[:, first : first + outputs], x)
        first += outputs


def test_binary_towers_keep_their_names(mixed):
    """Checkpoints of versions that knew only yes or no load."""
    head, _ = head_of(mixed, [], mixed.schema.only(["like", "follow", "watch"]))
    assert {n for n, _ in head.towers.named_parameters()} == {f"{k}.{n}" for k in ("weights", "biases") for n in (0, 1)}
    assert head.towers.weights[1].shape == (3, 8, 1)
    assert not [n for n in head.state_dict() if n.startswith(("objectives", "weighting", "joint", "averages"))]


def test_esmm_stays_right_beside_them(mixed):
    after = ["model.kind='esmm'", "model.after={follow='like'}"]
    head, _ = head_of(mixed, after)
    v, dense = torch.randn(64, head.features.width), torch.randn(64, head.features.layout.dense_width)
    logits = head.logits(v, dense, None)
    towers = head.towers(head.model(v)).float()
    towers = towers + head.linear(dense)
    like, follow = 0, 6  # their first columns
    expected = towers.clone()
    expected[:, follow] = torch.logit(torch.sigmoid(towers[:, like]) * torch.sigmoid(towers[:, follow]))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [["model.after={seconds='like'}"], ["model.after={like='stars'}"]])
def test_esmm_multiplies_probabilities_alone(options, mixed):
    with pytest.raises(ConfigError, match=r"model\.after: the model multiplies probabilities of tasks with one logit"):
        head_of(mixed, ["model.kind='esmm'", *options])


def test_towers_of_unknown_tasks_are_refused(mixed):
    with pytest.raises(ConfigError, match=r"model\.towers: 'flollow' is no task of this run"):
        build_layout(mixed.schema, load_config(mixed.path, ["model.towers={flollow=[4]}"]))


def test_a_task_without_its_duration_is_refused(mixed):
    tasks = tuple(replace_duration(t) for t in mixed.schema.task)
    schema = mixed.schema.model_copy(update={"task": tasks})
    with pytest.raises(ConfigError, match="task 'seconds': kind duration_quantile reads the item's duration"):
        build_layout(schema, load_config(mixed.path, ["objective.seconds={kind='duration_quantile'}"]))


def replace_duration(task):
    return task.model_copy(update={"duration": None}) if task.name == "seconds" else task
